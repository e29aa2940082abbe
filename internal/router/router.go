// Package router knows who can carry a visitor to a host.
//
// A [Router] maps hosts to [Opener]s: a session that holds the tunnel here, a
// peer that holds it elsewhere, or a double in a test; the Router is an Opener
// itself. Every stay of a host has an epoch, a number that is never used
// again, so that the late goodbye of an old session cannot take away what its
// successor holds, and a stream opened for one stay cannot answer for another.
//
// A Router starts no goroutines and needs no stopping. It does not know what a
// name may be, who owns it or how a stream is made, and it imports nobody.
package router

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Lookup and Open fail with one of these when nobody can carry the visitor.
var (
	// ErrNoTunnel means that nobody owns the host.
	ErrNoTunnel = errors.New("no such tunnel")

	// ErrOffline means that the host has an owner whose agent is away.
	ErrOffline = errors.New("tunnel offline")

	// ErrMoved means that another stay holds the host than the one asked for;
	// whoever asked looks up again.
	ErrMoved = errors.New("tunnel moved to another stay")
)

// A Visit is what an Opener is told about the visitor a stream is for.
type Visit struct {
	Host   string         // canonical host, without port
	Epoch  uint64         // the stay that was looked up; 0 means whichever is current
	ID     string         // the number by which logs on both sides know the visit
	Remote netip.AddrPort // the visitor's address; its port is 0 if a front end hid it
}

// An Opener opens a stream to the service behind a host. A session is one, a
// peer is one, and so is the Router that chooses between them.
//
// Open returns a conn that the caller closes; its life does not depend on ctx
// once Open has returned. The conn passes half-closes on if it has a method
// CloseWrite() error. If it has a method Abort(), that ends both directions at
// once, so that nobody can take what was cut for a clean end; Close, by
// contrast, lets what was written arrive. If it has a method Quiet() bool, that
// tells whether both directions are open and nothing is there to be read; a
// conn without it carries one request of HTTP/1.1 and no other. What the agent said about its
// service arrives as a *[ServiceError] from Open, Read or Write.
//
// Open may be called at once from many goroutines.
type Opener interface {
	Open(ctx context.Context, v Visit) (net.Conn, error)
}

// A Proto is the HTTP that a service speaks.
type Proto uint8

const (
	H1 Proto = iota // HTTP/1.1
	H2              // HTTP/2 from the first byte
)

// Options are what the agent asked for when it bound the tunnel.
type Options struct {
	// HostHeader replaces the Host header on the way to the service. Empty
	// keeps the visitor's.
	HostHeader string

	// Proto is what the service speaks in the streams. Zero is HTTP/1.1.
	Proto Proto

	// ServiceTimeout is how long the head of the service's answer may take.
	// Zero means the node's default; negative means for ever.
	ServiceTimeout time.Duration

	// Silence is how long both sides may be silent while a request is passed
	// on. Zero means the node's default; negative means for ever.
	Silence time.Duration
}

// A Route is one stay of a host, as Lookup found it.
type Route struct {
	Host  string
	Epoch uint64 // never 0
	Options
}

// A Router sends visitors to the stays that hold their hosts. Its zero value
// is an empty router. All methods may be called at once from many goroutines.
type Router struct {
	// Owned reports whether somebody owns a host, whether their agent is here
	// or away. Nil means that nobody owns what is not held. It is called with
	// no lock held and must be set before the first call of a method.
	Owned func(host string) bool

	routes sync.Map // of host to stay; read by every visitor, so without a lock

	mu    sync.Mutex // guards the field below, and is held while routes change
	epoch uint64     // of the last stay that began
}

// A stay is one holding of one host by one Opener.
type stay struct {
	epoch  uint64
	opener Opener
	opt    Options
}

// Add sends the visitors of a host to o from now on, in place of whoever held
// it, and returns the epoch of the stay that this begins: higher than that of
// every stay before, of any host. The host is in its canonical spelling.
func (r *Router) Add(host string, o Opener, opt Options) (epoch uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch++
	r.routes.Store(host, &stay{r.epoch, o, opt})
	return r.epoch
}

// Remove ends the stay with that epoch. It does nothing if another stay holds
// the host by now: an agent on a flaky link is back before its old session has
// finished dying, and that session must not take the new one's route with it.
func (r *Router) Remove(host string, epoch uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, ok := r.routes.Load(host); ok && s.(*stay).epoch == epoch {
		r.routes.Delete(host)
	}
}

// Lookup returns the stay that holds a host, or [ErrOffline] or [ErrNoTunnel].
func (r *Router) Lookup(host string) (Route, error) {
	s, err := r.holder(host)
	if err != nil {
		return Route{}, err
	}
	return Route{host, s.epoch, s.opt}, nil
}

// Open opens a stream to the service behind v.Host. If v.Epoch is not 0, it
// must still be the epoch of the stay that holds the host, when Open begins
// and when it returns; otherwise Open fails with [ErrMoved]. Other errors are
// those of Lookup and of the Opener.
func (r *Router) Open(ctx context.Context, v Visit) (net.Conn, error) {
	s, err := r.holder(v.Host)
	if err != nil {
		return nil, err
	}
	if v.Epoch != 0 && v.Epoch != s.epoch {
		return nil, ErrMoved
	}
	asked := v.Epoch
	v.Epoch = s.epoch
	conn, err := s.opener.Open(ctx, v)
	if err != nil {
		return nil, err
	}
	if asked == 0 {
		return conn, nil
	}
	// Opening may have waited, and the host may have changed hands meanwhile.
	if now, err := r.holder(v.Host); err != nil || now.epoch != asked {
		conn.Close()
		return nil, ErrMoved
	}
	return conn, nil
}

func (r *Router) holder(host string) (*stay, error) {
	s, ok := r.routes.Load(host)
	switch {
	case ok:
		return s.(*stay), nil
	case r.Owned != nil && r.Owned(host):
		return nil, ErrOffline
	default:
		return nil, ErrNoTunnel
	}
}
