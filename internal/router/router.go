// Package router knows who can carry a visitor to a host.
//
// A [Router] maps hosts to [Opener]s: a session that holds the tunnel here, a
// peer that holds it elsewhere, or a double in a test; the Router is an Opener
// itself. Every stay of a host has an epoch, a number that is never used
// again, so that the late goodbye of an old session cannot take away what its
// successor holds, and a stream opened for one stay cannot answer for another.
// Several stays may share a host; visitors then come to each in turn.
//
// A visitor whose host has lost its stay, and is expected to have one again,
// may wait for it in [Router.Await]; how long, and how many, is bounded.
//
// A Router starts no goroutines and needs no stopping. It does not know what a
// name may be, who owns it or how a stream is made, and it imports nobody.
package router

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Lookup, Await and Open fail with one of these when nobody can carry the
// visitor; what an Opener's conn says may be one of them, too.
var (
	// ErrNoTunnel means that nobody owns the host.
	ErrNoTunnel = errors.New("no such tunnel")

	// ErrOffline means that the host has an owner whose agent is away. From a
	// conn it means that the agent has not looked at it.
	ErrOffline = errors.New("tunnel offline")

	// ErrMoved means that another stay holds the host than the one asked for;
	// whoever asked looks up again.
	ErrMoved = errors.New("tunnel moved to another stay")

	// ErrLost comes from a conn whose stay has ended under it: nobody knows
	// what the service has seen of what was written.
	ErrLost = errors.New("agent lost")
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

	// Began is when the node did whose router this is: for as long as Hold
	// from then on, every host that is owned is expected to be held soon, by
	// agents of the node before it. Zero means that nobody is expected. It must
	// be set before the first call of a method, as Hold and HoldMax must be.
	Began time.Time

	// Hold is how long a visitor waits for a stay, and for how long one is
	// expected after the last was lost. Zero means 10 seconds; negative means
	// that nobody waits. SetHold changes it.
	Hold time.Duration

	// HoldMax is how many visitors of a host may wait at once. Zero means 100;
	// negative means none. SetHold changes it.
	HoldMax int

	routes sync.Map // of host to *holding; read by every visitor, so without a lock

	mu      sync.Mutex // guards Hold, HoldMax and the fields below, and is held while routes change
	epoch   uint64     // of the last stay that began
	queues  map[string]*queue
	endings map[string]*list.Element // of order, by host: hosts whose last stay has ended
	order   list.List                // of ending, the earliest first
}

// A holding is who holds a host: one stay, or several that share it. It does
// not change; another takes its place.
type holding struct {
	stays []*stay        // never none, in the order of their epochs
	turn  *atomic.Uint32 // counts visitors, from one holding of the same stays to the next
}

// A stay is one holding of one host by one Opener.
type stay struct {
	epoch  uint64
	opener Opener
	opt    Options
	here   atomic.Pointer[presence] // nil while its agent is away
}

// A presence is a time during which a stay's agent can be reached. Its context
// ends with it, and with that what was being opened.
type presence struct {
	ctx context.Context // a lifetime, not an argument
	end context.CancelFunc
}

func newPresence() *presence {
	p := new(presence)
	p.ctx, p.end = context.WithCancel(context.Background())
	return p
}

// leave ends the presence, if there is one.
func (s *stay) leave() {
	if p := s.here.Swap(nil); p != nil {
		p.end()
	}
}

func (s *stay) route(host string) Route { return Route{host, s.epoch, s.opt} }

// find returns the stay with that epoch, or nil.
func (h *holding) find(epoch uint64) *stay {
	if h == nil {
		return nil
	}
	for _, s := range h.stays {
		if s.epoch == epoch {
			return s
		}
	}
	return nil
}

// next returns the stay whose turn it is among those whose agents are here, but
// for bad; nil if there is none. The turn goes round: who is busiest cannot be
// seen from here, where a stream may be a request, a WebSocket or a connection
// kept for a hundred requests.
func (h *holding) next(bad *presence) *stay {
	if h == nil {
		return nil
	}
	at := 0
	if len(h.stays) > 1 {
		at = int(h.turn.Add(1) % uint32(len(h.stays)))
	}
	for i := range h.stays {
		s := h.stays[(at+i)%len(h.stays)]
		if p := s.here.Load(); p != nil && p != bad {
			return s
		}
	}
	return nil
}

func (r *Router) holding(host string) *holding {
	if h, ok := r.routes.Load(host); ok {
		return h.(*holding)
	}
	return nil
}

func (r *Router) owned(host string) bool { return r.Owned != nil && r.Owned(host) }

// Add sends the visitors of a host to o from now on, in place of whoever held
// it, and returns the epoch of the stay that this begins: higher than that of
// every stay before, of any host. The host is in its canonical spelling.
func (r *Router) Add(host string, o Opener, opt Options) (epoch uint64) {
	s, before := r.begin(host, o, opt, false)
	if before != nil {
		for _, old := range before.stays {
			old.leave()
		}
	}
	return s.epoch
}

// Join is Add beside whoever holds the host: visitors come to each in turn.
func (r *Router) Join(host string, o Opener, opt Options) (epoch uint64) {
	s, _ := r.begin(host, o, opt, true)
	return s.epoch
}

func (r *Router) begin(host string, o Opener, opt Options, share bool) (s *stay, before *holding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch++
	s = &stay{epoch: r.epoch, opener: o, opt: opt}
	s.here.Store(newPresence())
	before = r.holding(host)
	now := &holding{stays: []*stay{s}, turn: new(atomic.Uint32)}
	if share && before != nil {
		now = &holding{append(slices.Clone(before.stays), s), before.turn}
	}
	r.routes.Store(host, now)
	r.forgetLocked(host)
	r.wakeLocked(host)
	return s, before
}

// Remove ends the stay with that epoch, whose agent does not hold the host any
// more and will not be back for it. It does nothing if other stays hold the
// host by now: an agent on a flaky link is back before its old session has
// finished dying, and that session must not take the new one's route with it.
func (r *Router) Remove(host string, epoch uint64) { r.end(host, epoch, false) }

// Lose is Remove for a stay whose agent was lost and is expected back: visitors
// may wait for it in [Router.Await].
func (r *Router) Lose(host string, epoch uint64) { r.end(host, epoch, true) }

func (r *Router) end(host string, epoch uint64, lost bool) {
	if s := r.drop(host, epoch, lost); s != nil {
		s.leave()
	}
}

func (r *Router) drop(host string, epoch uint64, lost bool) *stay {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.holding(host)
	s := h.find(epoch)
	if s == nil {
		return nil
	}
	if len(h.stays) > 1 {
		rest := slices.DeleteFunc(slices.Clone(h.stays), func(other *stay) bool { return other == s })
		r.routes.Store(host, &holding{rest, h.turn})
	} else {
		r.routes.Delete(host)
		r.rememberLocked(host, lost)
	}
	r.wakeLocked(host)
	return s
}

// Away says that the agent of a stay cannot be reached for the time being: its
// session has no connection. The stay goes on, and visitors are sent to others
// that share the host, or wait. What was being opened for it fails.
func (r *Router) Away(host string, epoch uint64) {
	if s := r.holding(host).find(epoch); s != nil {
		s.leave()
	}
}

// Back says that the agent of a stay that was away can be reached again.
func (r *Router) Back(host string, epoch uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.holding(host).find(epoch); s != nil && s.here.Load() == nil {
		s.here.Store(newPresence())
		r.wakeLocked(host)
	}
}

// Holds reports whether a stay holds the host, be its agent here or away.
func (r *Router) Holds(host string) bool { return r.holding(host) != nil }

// Lookup returns a stay that holds a host, or [ErrOffline] or [ErrNoTunnel]. It
// does not wait; [Router.Await] does.
func (r *Router) Lookup(host string) (Route, error) {
	h := r.holding(host)
	if s := h.next(nil); s != nil {
		return s.route(host), nil
	}
	if h != nil || r.owned(host) {
		return Route{}, ErrOffline
	}
	return Route{}, ErrNoTunnel
}

// Open opens a stream to the service behind v.Host. If v.Epoch is not 0, it
// must be the epoch of a stay that holds the host, when Open begins and when it
// returns; otherwise Open fails with [ErrMoved]. It does not wait for an agent
// that is away, or goes away meanwhile. Other errors are those of Lookup and of
// the Opener.
func (r *Router) Open(ctx context.Context, v Visit) (net.Conn, error) {
	h := r.holding(v.Host)
	if h == nil {
		_, err := r.Lookup(v.Host)
		if err == nil {
			err = ErrMoved // somebody came in between
		}
		return nil, err
	}
	asked := v.Epoch
	s := h.find(asked)
	if asked == 0 {
		s = h.next(nil)
	} else if s == nil {
		return nil, ErrMoved
	}
	if s == nil {
		return nil, ErrOffline
	}
	v.Epoch = s.epoch
	conn, err := s.open(ctx, v)
	if err != nil {
		return nil, err
	}
	// Opening may have waited, and the host may have changed hands meanwhile.
	if asked != 0 && r.holding(v.Host).find(asked) == nil {
		conn.Close()
		return nil, ErrMoved
	}
	return conn, nil
}

// open opens a stream while the agent is here.
func (s *stay) open(ctx context.Context, v Visit) (net.Conn, error) {
	p := s.here.Load()
	if p == nil {
		return nil, ErrOffline
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	conn, err := s.opener.Open(ctx, v)
	if err != nil && p.ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", ErrOffline, err)
	}
	return conn, err
}
