// Package memnet is a network in memory, for tests that own time.
//
// Its conns are buffered as a socket is, know deadlines and half-closes, and
// wait only in ways that a testing/synctest bubble understands, so that a
// slow link or a deadline costs no real time. A [Link] can be given a delay, a
// rate and the size of the sender's socket buffer: a long, narrow road on
// which queues form where they form in life.
//
// A conn is stopped by Close; nothing runs in the background. It loses no
// packets and reorders nothing: a mux above it sees what TCP would show.
package memnet

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// A Link says how a pair of conns behaves, the same in both directions. The
// zero value is a socket pair: no delay, no limit of rate, 64 KiB of buffer.
type Link struct {
	// Delay is how long a byte travels, one way. Zero means no time at all.
	Delay time.Duration

	// Rate is how many bytes a second may leave the sender's buffer. Zero
	// means any number.
	Rate int

	// Buffer is how many bytes the sender's socket takes before Write waits.
	// Zero means 64 KiB.
	Buffer int
}

// Pipe returns the two ends of a conn over a link of the zero value.
func Pipe() (a, b *Conn) { return Link{}.Pipe() }

// Pipe returns the two ends of a conn over l.
func (l Link) Pipe() (a, b *Conn) {
	there, back := newHalf(l), newHalf(l)
	a = &Conn{in: back, out: there, local: "a", remote: "b"}
	b = &Conn{in: there, out: back, local: "b", remote: "a"}
	return a, b
}

// A Net is a set of addresses at which listeners can be dialled. The zero
// value is an empty network whose links are the zero Link.
type Net struct {
	// Link is how the conns of this network behave.
	Link Link

	mu        sync.Mutex // guards listeners
	listeners map[string]*Listener
}

// Listen takes addr, which is any text, until the listener is closed.
func (n *Net) Listen(addr string) (*Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[addr] != nil {
		return nil, fmt.Errorf("listen %s: address in use", addr)
	}
	if n.listeners == nil {
		n.listeners = make(map[string]*Listener)
	}
	l := &Listener{net: n, addr: addr, backlog: make(chan *Conn, 128), closed: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

// Dial connects to the listener at addr. The signature is that of
// [net.Dialer.DialContext].
func (n *Net) Dial(ctx context.Context, _, addr string) (net.Conn, error) {
	return n.DialOver(ctx, n.Link, addr)
}

// DialOver is Dial over a link of one's own.
func (n *Net) DialOver(ctx context.Context, link Link, addr string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[addr]
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("dial %s: connection refused", addr)
	}
	ours, theirs := link.Pipe()
	ours.remote, theirs.local = addr, addr
	select {
	case l.backlog <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, fmt.Errorf("dial %s: connection refused", addr)
	case <-ctx.Done():
		return nil, fmt.Errorf("dial %s: %w", addr, context.Cause(ctx))
	}
}

// A Listener is a net.Listener on a Net.
type Listener struct {
	net     *Net
	addr    string
	backlog chan *Conn
	once    sync.Once
	closed  chan struct{}
}

// Accept waits for the next conn.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close frees the address. Conns that nobody has accepted are closed.
func (l *Listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.listeners, l.addr)
		l.net.mu.Unlock()
		close(l.closed)
		for {
			select {
			case c := <-l.backlog:
				c.Close()
			default:
				return
			}
		}
	})
	return nil
}

// Addr returns the address it was made with.
func (l *Listener) Addr() net.Addr { return Addr(l.addr) }

// An Addr is an address on a Net.
type Addr string

// Network is "memnet".
func (a Addr) Network() string { return "memnet" }
func (a Addr) String() string  { return string(a) }
