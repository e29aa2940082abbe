package culvert

import (
	"fmt"
	"time"

	"github.com/culvertd/culvert/internal/h1"
	"github.com/culvertd/culvert/internal/wire"
)

// A Tunnel is a public name to be held, and what its node has to know of the
// service behind it. The zero value asks for a random name, and is a service
// that speaks HTTP/1.1.
type Tunnel struct {
	// Name is the first label of the public host name: "blog" is
	// blog.tunnel.example.com on the node tunnel.example.com. It belongs to
	// the owner of the token that took it first. Empty means that the node
	// chooses one that nobody can guess; it is kept across reconnects.
	Name string

	// HostHeader is what the service gets as Host, for services that answer
	// only to a name they know; [Target.Host] is what most of them want. Empty
	// means the public one that the visitor asked for.
	HostHeader string

	// Proto is the HTTP that the service speaks, whatever visitors speak. Zero
	// means HTTP1.
	Proto Proto

	// ServiceTimeout is how long the service may take until the head of its
	// answer is there, at most 24 hours. Zero means what the node thinks right,
	// 60 seconds unless its operator says otherwise; negative means for ever.
	ServiceTimeout time.Duration

	// Silence is how long visitor and service may both be silent while a
	// request is passed on, at most 24 hours. Zero means what the node thinks
	// right, 5 minutes unless its operator says otherwise; negative means for
	// ever.
	Silence time.Duration

	// Takeover says what becomes of the name when another agent with a token of
	// the same owner has it, and is alive. Zero means TakeoverReplace.
	Takeover Takeover
}

// A Takeover is a policy for a name that two agents of one owner want. Those of
// both count, the one that has the name and the one that asks for it. An agent
// that comes back after it has lost its node is not another one.
type Takeover int

const (
	// TakeoverReplace takes the name from the other agent, which ends with
	// [ErrReplaced]. A name that was taken less than ten seconds ago is not
	// taken again so soon: the agent asks again by itself, and until then there
	// are events of the kind EventRefused with [ErrNameInUse].
	TakeoverReplace Takeover = iota

	// TakeoverRefuse leaves the name to whoever has it: asking for one that
	// another agent has ends with [ErrNameHeld], and so does the asking of
	// another agent while this one has it.
	TakeoverRefuse

	// TakeoverPool shares the visitors with all others that say the same; they
	// come to each in turn. Asking together with one that does not ends with
	// [ErrNameHeld].
	TakeoverPool
)

// String returns "replace", "refuse" or "pool".
func (t Takeover) String() string {
	switch t {
	case TakeoverReplace:
		return "replace"
	case TakeoverRefuse:
		return "refuse"
	case TakeoverPool:
		return "pool"
	}
	return fmt.Sprintf("Takeover(%d)", int(t))
}

// A Proto is a version of HTTP that a service speaks.
type Proto int

const (
	// HTTP1 is HTTP/1.1.
	HTTP1 Proto = iota

	// HTTP2 is HTTP/2 from the first byte, as gRPC wants it. [Forward] agrees
	// upon it with a service that speaks TLS (ALPN), and takes it for granted
	// with one that does not (h2c with prior knowledge).
	HTTP2
)

// String returns "HTTP/1.1" or "HTTP/2".
func (p Proto) String() string {
	switch p {
	case HTTP1:
		return "HTTP/1.1"
	case HTTP2:
		return "HTTP/2"
	}
	return fmt.Sprintf("Proto(%d)", int(p))
}

// check returns a [*ConfigError] for what no node would take.
func (t Tunnel) check() error {
	bad := func(field, format string, args ...any) error {
		return &ConfigError{field, fmt.Sprintf(format, args...)}
	}
	switch {
	case t.HostHeader != "" && (!h1.ValidHost(t.HostHeader) || len(t.HostHeader) > wire.MaxHost):
		return bad("host header", "%q: want HOST or HOST:PORT", t.HostHeader)
	case t.Proto != HTTP1 && t.Proto != HTTP2:
		return bad("proto", "%v: want HTTP1 or HTTP2", t.Proto)
	case t.ServiceTimeout > wire.MaxTimeout:
		return bad("service timeout", "%v: want at most %v, or none at all", t.ServiceTimeout, wire.MaxTimeout)
	case t.Silence > wire.MaxTimeout:
		return bad("silence", "%v: want at most %v, or none at all", t.Silence, wire.MaxTimeout)
	case t.Takeover < TakeoverReplace || t.Takeover > TakeoverPool:
		return bad("takeover", "%v: want TakeoverReplace, TakeoverRefuse or TakeoverPool", t.Takeover)
	}
	return nil
}

// bind asks a node for the tunnel, by the name it has by now.
func (t Tunnel) bind(request uint32, name string) *wire.Bind {
	m := &wire.Bind{
		Request: request, Name: name, HostHeader: t.HostHeader,
		ServiceTimeout: wire.TimeoutOf(t.ServiceTimeout), Silence: wire.TimeoutOf(t.Silence),
		Takeover: wire.Takeover(t.Takeover), // the numbers are the same
	}
	if t.Proto == HTTP2 {
		m.HTTP = wire.HTTP2
	}
	return m
}
