// Package chaos breaks things between the two programs, and counts who
// notices: roads fall silent, connections are reset, addresses change, machines
// sleep, programs are killed. Nothing is simulated. Both binaries run in
// network namespaces of their own, on kernel TCP, and what breaks is broken by
// the kernel's own means: nft, ss -K, the freezer of cgroups, SIGKILL.
//
//	visitors (vi) ── 10.98.0.0/24 ── node (ed) ── 10.99.0.0/24 ── agent and service (ag)
//
// The road between node and agent is a veth pair, or tools/wanlink where it has
// to be long, narrow or lossy.
//
// Tests need Linux and root, since all of this does; e2e/setup.sh installs the
// programs that they use. Without root they leave themselves out, and say so.
//
// TestSchedule is a list of faults, each with what it may cost. As a part of
// make test it takes less than a minute, with less of everything; make chaos
// runs it in full, a quarter of an hour, and prints a line for each fault.
package chaos
