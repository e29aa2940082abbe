// Package edge meets strangers and finds out what they want.
//
// One listener carries everybody. A TLS handshake, bounded in time and number,
// tells agents from visitors by ALPN: an agent's connection goes to
// [Edge.Agents] for good; a visitor's goes to the door, which speaks HTTP/1.1
// and HTTP/2, asks the router who can carry the visitor, and passes the request
// on as it came, except for the headers that say who is asking: those are
// always ours. Where the request cannot be served, the visitor is told whose
// side is broken and a number to quote, and nothing else.
//
//	edge.go          what an Edge is, and how it is stopped
//	settings.go        and what of it may change meanwhile
//	gate.go            a listener: accept, handshake, agent or visitor
//	places.go          room for strangers, bounded, by source
//	door.go          visitors who came in, and which request is for whom
//	h1visitor.go       a connection of HTTP/1.1: one request after the other
//	h1answer.go          and its answers
//	h2visitor.go       a request of HTTP/2, by way of the standard library
//	h2upgrade.go         and a WebSocket over it
//	visit.go         one request and its answer, whichever way it came
//	forward.go         to its service, and what is said if that fails
//	streams.go         connections to services: opened, kept, let go
//	exchange.go        over one of them: the request up, the answer down
//	upgrade.go           and what follows a 101
//	h2service.go       over HTTP/2 to services that speak it
//	h2flow.go            and what they may not do to windows
//	fields.go          what the service is told about the visitor, and what not
//	origin.go            who that is
//	cookies.go           what a service may not say to all hosts beside it
//	watch.go         how long all this may take
//	refusal.go       what the visitor is told about a failure
//	node.go          the node's own host, where agents also come by WebSocket
//	redirect.go      port 80
//
// Every rule about requests and answers is in one place, between a [visitor]
// of either version and a service of either. Between them, heads are those of
// internal/h1.
//
// [Edge.Shutdown] stops taking, waits for the visitors in flight and cuts what
// is left when its context ends, in two steps for who needs them: [Edge.Leave]
// and [Edge.Settle]; [Edge.Close] is now. The package knows no
// sessions, no tokens and no mux, opens no listeners, and does not decide who
// may have which name.
package edge

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvertd/culvert/internal/name"
	"github.com/culvertd/culvert/internal/router"
)

// Visitors says who can carry a visitor, and opens the stream that does. A
// *[router.Router] is one.
type Visitors interface {
	// Lookup returns the stay that holds a canonical host, or
	// [router.ErrNoTunnel] or [router.ErrOffline].
	Lookup(host string) (router.Route, error)

	// Await is a Lookup that waits where a stay is expected, for as long as is
	// right and no longer than ctx lasts.
	Await(ctx context.Context, host string, w *router.Wait) (router.Route, error)

	router.Opener
}

// An AgentServer takes over the connections of agents.
type AgentServer interface {
	// ServeAgent serves an agent until it leaves or ctx ends, and closes c.
	// c arrives without deadlines and nothing has been read from it; whether
	// it belongs to an agent at all is for ServeAgent to find out, in bounded
	// time.
	ServeAgent(ctx context.Context, c net.Conn)
}

// An Edge is the public side of a node. Its fields are set before the first
// call of a method and not changed after, but for [Edge.Set]. Domain and Visitors are required.
// Its methods may be called at once from many goroutines.
type Edge struct {
	// Domain is the host of the node itself; tunnels are the names directly
	// under it.
	Domain string

	// GetCertificate returns the certificate for a handshake, as in
	// [tls.Config]: nil without an error refuses the name. If it is itself
	// nil, the edge speaks plain HTTP, behind a front end that terminates TLS.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// Visitors carries visitors to services.
	Visitors Visitors

	// Agents takes over connections with ALPN culvert/1 and WebSockets at
	// https://Domain/connect. Nil means that no agents are served.
	Agents AgentServer

	// RedirectPort is where ServeRedirect sends visitors. Zero means 443.
	RedirectPort int

	// Log gets what happens. Nil means silence.
	Log *slog.Logger

	// HandshakeTimeout is the time from accepting a connection to the end of
	// its TLS handshake. Zero means 10 seconds.
	HandshakeTimeout time.Duration

	// MaxHandshakes is how many handshakes may be under way at once. When
	// there is one more, the oldest of the source with the most makes room.
	// Zero means 1024.
	MaxHandshakes int

	// MaxHead is the size in bytes of the largest request head that is read,
	// give or take 4 KiB. Zero means 64 KiB.
	MaxHead int

	// Settings are those of the start; Set changes them.
	Settings

	now atomic.Pointer[Settings] // nil before Set

	mu    sync.Mutex // guards the fields below
	ended bool
	parts map[part]struct{} // what is running
}

// A part is what Serve and ServeRedirect run.
type part interface {
	Set(s *Settings)
	Leave()
	Settle(ctx context.Context) error
	Shutdown(ctx context.Context) error
	Close() error
}

func (e *Edge) handshakeTimeout() time.Duration {
	return cmp.Or(e.HandshakeTimeout, 10*time.Second)
}
func (e *Edge) maxHandshakes() int { return cmp.Or(e.MaxHandshakes, 1024) }
func (e *Edge) maxHead() int       { return cmp.Or(e.MaxHead, 64<<10) }

func (e *Edge) logger() *slog.Logger {
	return cmp.Or(e.Log, slog.New(slog.DiscardHandler))
}

// Serve meets whoever comes to ln, and closes it. It returns when ln, its
// visitors and its agents have ended: nil after Shutdown, after Close, or when
// ctx ended, which cuts everything at once; otherwise why ln can no longer be
// served. Shutdown leaves agents where they are, since they carry the visitors
// in flight: after it, Serve returns once the [AgentServer] has let them go.
func (e *Edge) Serve(ctx context.Context, ln net.Listener) error {
	domain, err := e.check()
	if err != nil {
		ln.Close()
		return err
	}
	return e.serve(ctx, newGate(ctx, e, domain, ln))
}

func (e *Edge) serve(ctx context.Context, g *gate) error {
	if !e.begin(g) {
		return g.Close()
	}
	defer e.end(g)
	defer context.AfterFunc(ctx, func() { g.Close() })()
	return g.run()
}

// Leave stops taking connections on all listeners, and lets visitors go: each
// is told with the answer to his next request that it was the last, by
// Connection: close or GOAWAY, and who does not ask for a second is hung up on.
// Who has an upgraded connection keeps it. Leave does not wait.
func (e *Edge) Leave() {
	e.stop(func(p part) error { p.Leave(); return nil })
}

// Settle waits, after Leave, until no request can come any more. Upgraded
// connections may be left. It returns why ctx ended if it did so first.
func (e *Edge) Settle(ctx context.Context) error {
	return e.stop(func(p part) error { return p.Settle(ctx) })
}

// Shutdown is Leave, and waits for all visitors, upgraded ones as well. When
// ctx ends first, it cuts them off and returns the cause. Agents stay, since
// they carry them.
func (e *Edge) Shutdown(ctx context.Context) error {
	return e.stop(func(p part) error { return p.Shutdown(ctx) })
}

// Close ends everything now: listeners, visitors and agents.
func (e *Edge) Close() error {
	return e.stop(part.Close)
}

func (e *Edge) stop(how func(part) error) error {
	e.mu.Lock()
	e.ended = true
	var parts []part
	for p := range e.parts {
		parts = append(parts, p)
	}
	e.mu.Unlock()

	var wg sync.WaitGroup
	errs := make([]error, len(parts))
	for i, p := range parts {
		wg.Go(func() { errs[i] = how(p) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err // all had the same time, and say the same when it was too short
		}
	}
	return nil
}

// begin reports whether p may run; it may not after Shutdown or Close.
func (e *Edge) begin(p part) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return false
	}
	if e.parts == nil {
		e.parts = make(map[part]struct{})
	}
	e.parts[p] = struct{}{}
	return true
}

func (e *Edge) end(p part) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.parts, p)
}

// check returns the canonical domain, or what is missing.
func (e *Edge) check() (domain string, err error) {
	domain, err = name.Host(e.Domain)
	switch {
	case err != nil:
		return "", fmt.Errorf("edge: domain: %w", err)
	case e.Visitors == nil:
		return "", errors.New("edge: nobody to carry visitors")
	}
	return domain, nil
}
