// Command mux compares the multiplexer of Culvert with the ones that a Go
// programmer would import otherwise: what exchanges and bulk cost, what a far
// link leaves of its rate, what bulk does to an exchange beside it, and what
// idle and unread things hold in memory.
//
//	go run ./mux -section far,fair -only 'culvert|yamux' -far-rounds 3
//
// It prints Markdown tables, and on stderr what it is doing. Libraries are
// measured in turn, A, B, C and again, so that a slow moment of the machine
// meets all of them. Both ends are in this process. Interrupt stops it.
//
// It is for Linux. As root it also measures over an emulated wide-area road,
// made by tools/wanlink, with the TCP of the kernel.
package main
