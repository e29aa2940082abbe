package wire

import (
	"log/slog"
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
	}
	return "code_" + strconv.Itoa(int(c))
}

// Final reports whether there is no point in asking again.
func (c Code) Final() bool {
	switch c {
	case Unauthorized, NameTaken, NameInvalid, NameNotAllowed, TooManyTunnels,
		VersionUnsupported, Replaced, Revoked:
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

// A Secret is text that must not be seen: however it is printed or logged, it
// says [redacted].
type Secret string

const redacted = "[redacted]"

func (Secret) String() string               { return redacted }
func (Secret) GoString() string             { return redacted }
func (Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
