package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
)

// tools are the programs of others that are needed, by path.
type tools struct{ nginx, wrk, h2load string }

// findTools finds them, or says all that is missing, and the remedy.
func findTools() (t tools, err error) {
	var missing []string
	find := func(program, debian string) string {
		// Debian has nginx where only root looks.
		for _, name := range []string{program, "/usr/sbin/" + program, "/sbin/" + program} {
			if path, err := exec.LookPath(name); err == nil {
				return path
			}
		}
		missing = append(missing, fmt.Sprintf("%s (Debian: %s)", program, debian))
		return ""
	}
	t = tools{find("nginx", "nginx-light"), find("wrk", "wrk"), find("h2load", "nghttp2-client")}
	if missing != nil {
		return t, fmt.Errorf("needs %s: install them, or run bench/setup.sh as root", strings.Join(missing, ", "))
	}
	return t, nil
}

var version = regexp.MustCompile(`\d+\.\d+[.\d]*`)

// versions are as the programs say themselves.
func (t tools) versions(ctx context.Context) []string {
	var all []string
	for _, ask := range [][]string{{"nginx", t.nginx, "-v"}, {"wrk", t.wrk, "-v"}, {"h2load", t.h2load, "--version"}} {
		said, _ := exec.CommandContext(ctx, ask[1], ask[2]).CombinedOutput() // wrk says it and fails
		number := version.FindString(string(said))
		if number == "" {
			number = "of unknown version"
		}
		all = append(all, ask[0]+" "+number)
	}
	return all
}
