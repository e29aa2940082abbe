// Package sim lets a node, an agent, a service and its visitors live together in
// one bubble of virtual time, over a network in memory, while the connections
// between agent and node break, fall silent and stand still, as chance will have
// it. It has only a test, and nothing imports it.
package sim
