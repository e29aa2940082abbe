package main

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// header says on what the figures that follow were measured.
func (b *bench) header() {
	fmt.Fprintf(b.out, "## Multiplexers compared\n\n%s, %d CPUs, %s, %s, TCP congestion control %s. %s.\n",
		runtime.Version(), runtime.NumCPU(), kernel(), loopDevice(), congestionControl(), strings.Join(versions(), ", "))
	if b.quick {
		fmt.Fprint(b.out, "\nA quick run: these figures mean nothing.\n")
	}
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

// versions are those of the libraries, as they are in this program.
func versions() []string {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return []string{"library versions unknown"}
	}
	var all []string
	for _, m := range build.Deps {
		for _, name := range []string{"go-yamux", "hashicorp/yamux", "smux", "quic-go/quic-go"} {
			if strings.Contains(m.Path, name) {
				all = append(all, m.Path+" "+m.Version)
			}
		}
	}
	return all
}
