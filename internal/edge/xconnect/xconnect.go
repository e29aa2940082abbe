// Package xconnect lets net/http take extended CONNECT, which WebSockets over
// HTTP/2 begin with (RFC 8441).
//
// net/http knows how, but does so only if it finds http2xconnect=1 in the
// environment variable GODEBUG when it is initialised; a go:debug directive
// does not reach it. So importing this package puts it there, unless GODEBUG
// says otherwise, and before net/http looks: packages are initialised in the
// order of their import paths as far as their imports allow, and all that this
// one needs net/http needs, too (Go specification, "Program initialization").
// A test of package edge fails if that should ever change.
//
// It does nothing else, and there is nothing to stop.
package xconnect

import "os"

func init() {
	const setting = "http2xconnect="
	debug := os.Getenv("GODEBUG")
	for i := range debug {
		if rest := debug[i:]; len(rest) >= len(setting) && rest[:len(setting)] == setting {
			return
		}
	}
	if debug != "" {
		debug += ","
	}
	os.Setenv("GODEBUG", debug+setting+"1")
}
