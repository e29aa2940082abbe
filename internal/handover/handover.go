// Package handover is how a node comes by listening sockets that somebody else
// has opened, and how it passes its own on to its successor.
//
// Both are one mechanism, that of systemd (sd_listen_fds(3)): descriptors from 3
// on, and three variables of the environment that say how many there are, what
// they are called and whom they are for. [Inherit] reads them. [Start] starts a
// [Successor] and gives it, beside the sockets, a line to its predecessor; what
// the two say over it is in talk.go. [Notify] tells systemd about all that.
//
// No socket is ever closed in the kernel on the way: who connects while nobody
// accepts waits a moment. The package reads no environment itself, starts one
// process for each Start, and knows neither what a node does nor what it keeps.
package handover

import "net"

// The names of descriptors. The last two only come from a predecessor.
const (
	Public   = "public"   // visitors and agents
	Redirect = "redirect" // visitors who are to be sent on to https
	Operator = "operator" // the admin socket
	line     = "line"     // to the predecessor
	stderr   = "stderr"   // where the log goes once this node is the one
)

// Variables are what says that there are descriptors. Whoever has read them
// removes them from its environment, so that its children do not take them for
// theirs.
type Variables struct {
	PID   string // LISTEN_PID
	FDs   string // LISTEN_FDS
	Names string // LISTEN_FDNAMES
}

// Names of the variables, to be read and removed.
var Names = []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}

// Inherited are the sockets that this process was started with. Whoever has
// called Inherit closes those it does not use.
type Inherited struct {
	Public, Redirect, Operator net.Listener // nil for none

	// From is the node before this one; nil if the sockets are the system's.
	From *Predecessor
}

// Error says what is wrong with descriptors that were passed on.
type Error struct{ Reason, Hint string }

func (e *Error) Error() string { return e.Reason }

// Close closes what was inherited.
func (in *Inherited) Close() error {
	for _, ln := range []net.Listener{in.Public, in.Redirect, in.Operator} {
		if ln != nil {
			ln.Close()
		}
	}
	if in.From != nil {
		in.From.Close()
	}
	return nil
}

// A Socket is passed on under a name.
type Socket struct {
	Name     string
	Listener net.Listener
}

// EndedError says that a successor ended before it was ready.
type EndedError struct {
	How   string // as in "with exit code 2"
	Words string // the last it said; may be several lines
}

func (e *EndedError) Error() string { return "the new process ended " + e.How + " before it was ready" }
