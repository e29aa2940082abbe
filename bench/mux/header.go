package main

import (
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/culvertd/culvert/bench/internal/report"
)

// header says on what the figures that follow were measured.
func (b *bench) header() {
	fmt.Fprintf(b.out, "## Multiplexers compared\n\n%s. %s.\n", report.Machine(), strings.Join(versions(), ", "))
	if b.quick {
		fmt.Fprint(b.out, "\nA quick run: these figures mean nothing.\n")
	}
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
