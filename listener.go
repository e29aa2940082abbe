package culvert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvertd/culvert/internal/wire"
	"github.com/culvertd/culvert/mux"
)

// A Listener is a net.Listener at a public URL. It lives on when the session
// ends and begins anew; Accept just waits. It ends by Close, by the end of its
// agent, or because the node took the name away for good.
type Listener struct {
	agent  *Agent
	tunnel Tunnel
	conns  chan *Conn
	ready  chan struct{} // closed when it was bound for the first time
	done   chan struct{} // closed when it has ended
	err    error         // why; to be read once done is closed
	hinted atomic.Bool   // EventHostUnknown was emitted: once is enough

	mu    sync.Mutex // guards the fields below
	name  string
	url   string
	ended bool
}

func newListener(a *Agent, t Tunnel) *Listener {
	return &Listener{
		agent: a, tunnel: t, name: t.Name,
		conns: make(chan *Conn), ready: make(chan struct{}), done: make(chan struct{}),
	}
}

// Accept waits for the next visitor. The conn is a [*Conn]. Once the listener
// has ended the error is a [RefusedError] if the node has taken the name away,
// and a net.ErrClosed if it was closed.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, l.err
	}
}

// Close gives the tunnel up; the name stays its owner's. Conns that were
// accepted live on. Closing twice is no error.
func (l *Listener) Close() error {
	l.end(fmt.Errorf("listener: %w", net.ErrClosed))
	return nil
}

// URL is where visitors come in, as "https://blog.tunnel.example.com".
func (l *Listener) URL() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.url
}

// Name is the tunnel's name; a random one that was given is kept from then on.
func (l *Listener) Name() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.name
}

// Addr returns an address whose String is the URL.
func (l *Listener) Addr() net.Addr { return addr(l.URL()) }

// bound notes what the node has given. It is an error if that is not what we
// asked for, or not an address for visitors.
func (l *Listener) bound(name, address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return fmt.Errorf("the node gave %q as its URL", address)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if name == "" || l.name != "" && !strings.EqualFold(name, l.name) {
		return fmt.Errorf("the node gave another name, %q", name)
	}
	first := l.url == ""
	l.name, l.url = name, address
	if first {
		close(l.ready)
	}
	return nil
}

// end ends the listener with err, and reports whether it had not ended before.
func (l *Listener) end(err error) bool {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return false
	}
	l.ended, l.err = true, err
	close(l.done)
	l.mu.Unlock()

	l.agent.forget(l)
	return true
}

// offer hands c to Accept. A visitor for whom nobody has time is told so.
func (l *Listener) offer(ctx context.Context, c *Conn) {
	t := time.NewTimer(offerTime)
	defer t.Stop()
	select {
	case l.conns <- c:
	case <-l.done:
		c.stream.Reset(wire.NoTunnel)
	case <-t.C:
		c.stream.Reset(wire.ServiceTimeout)
	case <-ctx.Done():
		c.stream.Reset(wire.NoTunnel)
	}
}

// A Conn is one stream of a visitor's bytes. It has the methods of a net.Conn,
// with the same rules for concurrent use; a visitor that breaks off is an error
// of Read, and never io.EOF.
type Conn struct {
	stream   *mux.Stream
	listener *Listener
	visit    wire.Visit
}

// Read reads what the visitor sends.
func (c *Conn) Read(b []byte) (int, error) { return c.stream.Read(b) }

// Write sends to the visitor.
func (c *Conn) Write(b []byte) (int, error) { return c.stream.Write(b) }

// WriteTo writes to w what the visitor sends, until its end.
func (c *Conn) WriteTo(w io.Writer) (int64, error) { return c.stream.WriteTo(w) }

// ReadFrom sends to the visitor what r gives, until its end.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) { return c.stream.ReadFrom(r) }

// CloseWrite says that nothing more will be written. Reading goes on.
func (c *Conn) CloseWrite() error { return c.stream.CloseWrite() }

// Close ends the conn in good order: what was written still arrives.
func (c *Conn) Close() error { return c.stream.Close() }

// Break ends the conn at once, so that the visitor cannot take a torso for a
// complete answer. With a [ServiceError] the visitor learns that the service
// refused, or took too long; with any other error, that it broke off.
func (c *Conn) Break(err error) {
	code := mux.Code(wire.ServiceReset)
	if e, ok := errors.AsType[*ServiceError](err); ok {
		code = wire.ServiceRefused
		if e.Timeout {
			code = wire.ServiceTimeout
		}
	}
	c.stream.Reset(code)
}

// VisitID is the id under which the node logs this stream; it may be empty.
func (c *Conn) VisitID() string { return c.visit.ID }

// RemoteAddr is the visitor's address, as the node saw it. It is the one who
// opened the stream; over HTTP a stream may carry requests of others after
// that, whose addresses are in their headers.
func (c *Conn) RemoteAddr() net.Addr {
	if !c.visit.Remote.IsValid() {
		return addr("visitor")
	}
	return net.TCPAddrFromAddrPort(c.visit.Remote)
}

// LocalAddr is the address of the listener.
func (c *Conn) LocalAddr() net.Addr { return c.listener.Addr() }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error { return c.stream.SetDeadline(t) }

// SetReadDeadline bounds Read.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.stream.SetReadDeadline(t) }

// SetWriteDeadline bounds Write.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.stream.SetWriteDeadline(t) }

// An addr is a URL that serves as a net.Addr.
type addr string

func (addr) Network() string  { return "culvert" }
func (a addr) String() string { return string(a) }
