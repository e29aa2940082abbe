// Package report is how the benchmarks say what they measured: on which
// machine, and in tables of Markdown.
package report

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine says on what figures were measured, in half a sentence.
func Machine() string {
	return fmt.Sprintf("%s, %d CPUs, %s, %s, TCP congestion control %s",
		runtime.Version(), runtime.NumCPU(), kernel(), loopDevice(), congestionControl())
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "kernel unknown"
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
}

func loopDevice() string {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return "no loop device"
	}
	return fmt.Sprintf("loop device %s with an MTU of %d", lo.Name, lo.MTU)
}

func congestionControl() string {
	name, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(name))
}
