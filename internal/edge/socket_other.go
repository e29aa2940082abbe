//go:build !linux

package edge

import "net"

// taken returns nil: only what was written is known here.
func taken(net.Conn) func() (uint64, bool) { return nil }

// boundQueue does nothing: the kernel takes what it will.
func boundQueue(net.Conn) {}
