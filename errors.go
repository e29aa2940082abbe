package culvert

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/culvertd/culvert/internal/wire"
)

// Reasons for which a node refuses, or takes a tunnel back. A [RefusedError]
// is one of them, by errors.Is.
var (
	ErrUnauthorized   = errors.New("unauthorized")                             // the token is unknown, expired or revoked
	ErrNameTaken      = errors.New("name taken")                               // it belongs to another owner
	ErrNameInvalid    = errors.New("name invalid")                             // it is not a name, or a reserved one
	ErrNameNotAllowed = errors.New("name not allowed")                         // the token may not claim it
	ErrTooManyTunnels = errors.New("too many tunnels")                         // the session holds as many as it may
	ErrReplaced       = errors.New("replaced")                                 // another agent of the same owner took over
	ErrRevoked        = errors.New("revoked")                                  // the token ended while it was in use
	ErrOptionInvalid  = errors.New("option invalid")                           // the node does not take something else that the tunnel has
	ErrNameInUse      = errors.New("name in use")                              // two agents of the owner have just taken it from each other; not final
	ErrNameHeld       = errors.New("name held")                                // another agent of the owner has it, and does not give or share it
	ErrVersion        = errors.New("agent and node have no version in common") // one of the two is too old
)

var sentinels = map[wire.Code]error{
	wire.Unauthorized:       ErrUnauthorized,
	wire.NameTaken:          ErrNameTaken,
	wire.NameInvalid:        ErrNameInvalid,
	wire.NameNotAllowed:     ErrNameNotAllowed,
	wire.TooManyTunnels:     ErrTooManyTunnels,
	wire.Replaced:           ErrReplaced,
	wire.Revoked:            ErrRevoked,
	wire.OptionInvalid:      ErrOptionInvalid,
	wire.NameInUse:          ErrNameInUse,
	wire.NameHeld:           ErrNameHeld,
	wire.VersionUnsupported: ErrVersion,
	wire.SessionUnknown:     errSessionUnknown,
}

// errSessionUnknown is the end of a session that was lost for too long, or with
// the node that had it.
var errSessionUnknown = errors.New("the node does not know this session any more")

func unknown(err error) bool { return errors.Is(err, errSessionUnknown) }

// A RefusedError is the no of a node: to a session, or to one tunnel.
type RefusedError struct {
	Name       string        // of the tunnel; empty for the session, or a random name
	Code       string        // as in "name_taken"; stable, for programs
	Reason     string        // one line for people, from the node; may be empty
	Final      bool          // it will be the same however often one asks
	RetryAfter time.Duration // what the node wishes; 0 if it did not say

	sentinel error
}

func refused(name string, code wire.Code, reason string, retry time.Duration) *RefusedError {
	return &RefusedError{
		Name: name, Code: code.String(), Reason: reason, Final: code.Final(), RetryAfter: retry,
		sentinel: sentinels[code],
	}
}

func (e *RefusedError) Error() string {
	text := e.Code
	if e.sentinel != nil {
		text = e.sentinel.Error()
	}
	if e.Name != "" {
		text = fmt.Sprintf("bind %q: %s", e.Name, text)
	}
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// Unwrap returns the sentinel of the reason, or nil for a reason of a newer
// node.
func (e *RefusedError) Unwrap() error { return e.sentinel }

// A ConfigError says that an [Agent], a [Tunnel] or a [Service] cannot be meant as it is.
type ConfigError struct {
	Field   string // as in "server"
	Problem string // what is wrong with it, and what it should be
}

func (e *ConfigError) Error() string { return e.Field + ": " + e.Problem }

// A ServiceError says that the service did not take a visitor. The tunnel is
// not touched by it.
type ServiceError struct {
	Timeout bool // it did not answer in time; otherwise it refused
	Err     error
}

func (e *ServiceError) Error() string { return "service: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *ServiceError) Unwrap() error { return e.Err }

// A ProtoError says that a service speaks TLS, and not the HTTP of its tunnel in
// it. It is the cause of a [ServiceError].
type ProtoError struct {
	Want Proto // of the tunnel
}

func (e *ProtoError) Error() string {
	return fmt.Sprintf("TLS handshake: the service does not agree to speak %v (ALPN)", e.Want)
}

// A drainError ends a session that the node announced to end.
type drainError struct{ after time.Duration }

func (e *drainError) Error() string { return "the node is shutting down" }

// A statusError is a front end, or something that is no node at all, that
// answered instead of one.
type statusError struct {
	status string
	after  time.Duration
}

func (e *statusError) Error() string {
	return fmt.Sprintf("no node answered at %s: HTTP status %s", wire.Path, e.status)
}

// retryAfter is how long the other side asked us to stay away.
func retryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*RefusedError](err); ok {
		return e.RetryAfter
	}
	if e, ok := errors.AsType[*drainError](err); ok {
		return e.after
	}
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.after
	}
	return 0
}

// permanent reports whether there is no point in trying again. It is the list
// of exceptions; whatever is not on it is retried. A node whose certificate is
// not what it should be may be a captive portal or a renewal gone wrong; but
// somebody who has never seen a session wants to be told, and not to wait.
func permanent(err error, first bool) bool {
	if e, ok := errors.AsType[*RefusedError](err); ok {
		return e.Final
	}
	return first && untrusted(err)
}

// untrusted reports whether the certificate is another's, or signed by somebody
// we do not know. One that has expired, or is not yet valid, is not: on a small
// machine that has just started it is the clock that is wrong.
func untrusted(err error) bool {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return true
	}
	e, ok := errors.AsType[x509.CertificateInvalidError](err)
	return ok && e.Reason != x509.Expired
}
