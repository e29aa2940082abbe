package wire

import (
	"strconv"
	"time"
)

// Code says why something was refused or taken away. The set is closed: a code
// of a newer node is known by its number, and treated as temporary.
type Code uint16

// The codes. Final ones will be the same however often one asks.
const (
	Unauthorized       Code = 1  // final: the token is unknown, expired or revoked
	NameTaken          Code = 2  // final: another owner's, or held by this agent already
	NameInvalid        Code = 3  // final: not a name; the reason says why
	NameNotAllowed     Code = 4  // final: the token may not claim it
	TooManyTunnels     Code = 5  // final: this session holds as many as it may
	VersionUnsupported Code = 6  // final: agent and node have no version in common
	ShuttingDown       Code = 7  // the node is leaving
	Replaced           Code = 8  // final: another agent of the same owner has taken over
	Revoked            Code = 9  // final: the token was revoked or has expired during the session
	Internal           Code = 10 // the node could not
	OptionInvalid      Code = 11 // final: an option of the Bind that is none here; the reason says which
	SessionUnknown     Code = 12 // to a Join: no such session here, or not yours; a new Hello is welcome at once
	NameInUse          Code = 13 // two agents of one owner have just taken the name from each other
	NameHeld           Code = 14 // final: another agent of the same owner has the name, and does not give or share it
)

// String returns the code as it stands in logs and events: lower case, with
// underscores.
func (c Code) String() string {
	switch c {
	case Unauthorized:
		return "unauthorized"
	case NameTaken:
		return "name_taken"
	case NameInvalid:
		return "name_invalid"
	case NameNotAllowed:
		return "name_not_allowed"
	case TooManyTunnels:
		return "too_many_tunnels"
	case VersionUnsupported:
		return "version_unsupported"
	case ShuttingDown:
		return "shutting_down"
	case Replaced:
		return "replaced"
	case Revoked:
		return "revoked"
	case Internal:
		return "internal"
	case OptionInvalid:
		return "option_invalid"
	case SessionUnknown:
		return "session_unknown"
	case NameInUse:
		return "name_in_use"
	case NameHeld:
		return "name_held"
	}
	return "code_" + strconv.Itoa(int(c))
}

// Final reports whether there is no point in asking again.
func (c Code) Final() bool {
	switch c {
	case Unauthorized, NameTaken, NameInvalid, NameNotAllowed, TooManyTunnels,
		VersionUnsupported, Replaced, Revoked, OptionInvalid, NameHeld:
		return true
	}
	return false
}

// With these codes an agent or a node resets a stream. They travel as mux
// codes, of which 0x100 and up belong to us.
const (
	ServiceRefused = 0x101 // agent→node: the service did not take the connection
	ServiceReset   = 0x102 // agent→node: the service broke the connection
	ServiceTimeout = 0x103 // agent→node: the service did not take the connection in time
	NoTunnel       = 0x104 // agent→node: no such tunnel here (any more)
	VisitorGone    = 0x105 // node→agent: the visitor left, or broke the rules
)

// Milliseconds is d as it travels: never negative, and at most about 49 days.
func Milliseconds(d time.Duration) uint32 {
	return uint32(min(max(d.Milliseconds(), 0), 1<<32-1))
}

// Duration is what [Milliseconds] made of it, but never more than most: a
// peer's wish is not a command.
func Duration(ms uint32, most time.Duration) time.Duration {
	return min(time.Duration(ms)*time.Millisecond, most)
}

// HTTP is a version of HTTP that a service speaks in the streams of a tunnel.
// The set is closed: a node refuses a Bind with one that it does not know.
type HTTP uint16

// The versions.
const (
	HTTP1 HTTP = 0 // HTTP/1.1
	HTTP2 HTTP = 2 // HTTP/2 from its first byte, without upgrade (RFC 9113, section 3.3)
)

// Known reports whether h is one of the set.
func (h HTTP) Known() bool { return h == HTTP1 || h == HTTP2 }

// Takeover says what a Bind does when another living agent of the same owner
// has the name. The set is closed: a node refuses a Bind with one that it does
// not know.
type Takeover uint16

// The policies.
const (
	TakeoverReplace Takeover = 0 // take the name from it
	TakeoverRefuse  Takeover = 1 // be refused; and be not replaced oneself
	TakeoverPool    Takeover = 2 // share the visitors, if the other says so as well
)

// Known reports whether t is one of the set.
func (t Takeover) Known() bool { return t <= TakeoverPool }

// A Timeout is how long a node is to wait, as it travels: 0 for the node's own
// default, [Forever], or 1 to 86,400,000 milliseconds. A node refuses a Bind
// with any other.
type Timeout uint32

// Forever is no limit.
const Forever Timeout = 1<<32 - 1

// MaxTimeout is the longest that is not [Forever].
const MaxTimeout = 24 * time.Hour

// TimeoutOf is d as it travels: 0 for 0, [Forever] for what is negative. It
// does not look at MaxTimeout; [Timeout.Valid] does.
func TimeoutOf(d time.Duration) Timeout {
	if d < 0 {
		return Forever
	}
	ms := d.Milliseconds()
	if d%time.Millisecond > 0 { // or a small one would travel as the default
		ms++
	}
	return Timeout(min(ms, int64(Forever-1)))
}

// Valid reports whether t is one of those that may travel.
func (t Timeout) Valid() bool {
	return t == Forever || time.Duration(t)*time.Millisecond <= MaxTimeout
}

// Duration is what [TimeoutOf] made of it: 0 for the default, and -1 for ever.
func (t Timeout) Duration() time.Duration {
	if t == Forever {
		return -1
	}
	return time.Duration(t) * time.Millisecond
}
