package mux

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Conn carries streams over one net.Conn, or over lanes that come and go. Its
// methods may be called from any goroutine.
type Conn struct {
	cfg    Config
	ours   uint64 // the lowest bit in the ids of the streams that we open
	born   time.Time
	done   chan struct{} // closed when err is set
	gone   chan struct{} // closed when the peer has said go-away
	adrift chan struct{} // the last lane was lost
	wants  chan struct{} // bulk flows beside everything else
	wg     sync.WaitGroup

	mu      sync.Mutex // guards all that follows, and every field of a Stream and a Lane
	err     error      // why the Conn has ended
	streams map[uint64]*Stream
	cut     *time.Timer // closes the lanes if the last words take too long

	lanes
	pinged []chan time.Duration // who waits in Ping

	// Streams of ours and of the peer.
	opened      uint64    // streams that we have opened, ever
	open        int       // of those, how many have not ended in both directions
	openLimit   uint64    // streams that we may open, ever
	changed     sync.Cond // openLimit, open, away, living or len(streams) did, or err is set
	away        bool      // we have said go-away
	peerAway    bool
	arrived     uint64 // streams that the peer has opened, ever
	arriveLimit uint64 // streams that it may open, ever
	arriveSaid  uint64 // the limit of which it knows
	takeLimit   uint64 // after go-away: streams of the peer that we still take
	accept      queue  // streams that arrived and wait for Accept
	acceptable  sync.Cond

	// What we send.
	peer        settings
	introduced  bool   // peer is what it said
	sendLimit   uint64 // bytes that the peer lets us send on all streams together
	sent        uint64 // of those, bytes that were sent
	unannounced queue

	// What we receive.
	received    uint64       // bytes of all streams, up to each one's highest offset
	consumed    uint64       // of those, bytes read or thrown away
	receiveSaid uint64       // the session's limit of which the peer knows
	credit      bool         // it is to be said
	windows     uint64       // the sum of the windows of all streams
	held        atomic.Int64 // received-consumed, for the Pool
	unread      queue        // streams with something of it, if there is a Pool
	crediting   queue        // streams whose limit is to be said
	allowance   int          // frames without content that may still arrive
	allowedAt   time.Duration
}

// Client returns the Conn of the side that dialled conn, over which the other
// side calls [Server]. It owns conn from here on.
func Client(conn net.Conn, cfg Config) *Conn { return newConn(conn, cfg, 0) }

// Server returns the Conn of the side that accepted conn, over which the
// other side calls [Client]. It owns conn from here on.
func Server(conn net.Conn, cfg Config) *Conn { return newConn(conn, cfg, 1) }

func newConn(conn net.Conn, cfg Config, ours uint64) *Conn {
	c := &Conn{
		cfg:         cfg,
		born:        time.Now(),
		ours:        ours,
		done:        make(chan struct{}),
		gone:        make(chan struct{}),
		adrift:      make(chan struct{}, 1),
		wants:       make(chan struct{}, 1),
		streams:     make(map[uint64]*Stream),
		peer:        floorSettings,
		sendLimit:   floorCredit,
		openLimit:   floorStreams,
		arriveLimit: cfg.maxStreams(),
		arriveSaid:  cfg.maxStreams(),
		receiveSaid: cfg.budget(),
		allowance:   floodBurst,
	}
	c.changed.L, c.acceptable.L = &c.mu, &c.mu
	c.accept.link, c.unread.link = linkAccept, linkUnread
	c.unannounced.link, c.crediting.link = linkAnnounce, linkCredit
	c.keeps = cfg.keep() > 0

	cfg.Pool.enter(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.main = c.newLaneLocked(conn, 0)
	c.controlLocked(frame{kind: frameSettings, data: appendSettings(nil, settings{
		streamCredit: firstWindow,
		credit:       c.receiveSaid,
		streams:      c.arriveSaid,
		keep:         cfg.keep(),
	})})
	c.main.startLocked()
	return c
}

// Open opens a stream. It waits only while the peer allows no more of them, or
// has left 32,768 that it did not end, or while the Conn has no lane, until ctx
// ends. It gives ErrGoAway when either side is going away, and the error of the
// Conn when that has ended. The caller closes the stream.
//
// The peer learns of the stream at once, also when nothing is written.
func (c *Conn) Open(ctx context.Context) (*Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	mayOpen := func() bool { return c.opened < c.openLimit && c.open < maxOpen && c.living > 0 }
	if !mayOpen() && ctx.Done() != nil {
		defer context.AfterFunc(ctx, c.wakeAll)()
	}
	for {
		switch {
		case c.err != nil:
			return nil, c.err
		case c.away || c.peerAway:
			return nil, ErrGoAway
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		}
		if mayOpen() {
			break
		}
		c.changed.Wait()
	}
	s := c.addStreamLocked(c.opened<<1 | c.ours)
	c.opened++
	c.open++
	c.unannounced.push(s)
	c.main.kickLocked()
	return s, nil
}

// Accept waits for a stream that the peer opened, until ctx ends. The caller
// closes the stream. Streams that arrived before the Conn ended are still
// given out; they hold what had arrived on them.
func (c *Conn) Accept(ctx context.Context) (*Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.accept.empty() && ctx.Done() != nil {
		defer context.AfterFunc(ctx, c.wakeAll)()
	}
	for {
		if s := c.accept.pop(); s != nil {
			if c.err != nil {
				c.rejoinPoolLocked(s)
			}
			if s.settled {
				c.arriveLimit++
				c.sayStreamsLocked()
			}
			return s, nil
		}
		switch {
		case c.err != nil:
			return nil, c.err
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		}
		c.acceptable.Wait()
	}
}

// wakeAll makes everyone in Open, Accept and Shutdown look again.
func (c *Conn) wakeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed.Broadcast()
	c.acceptable.Broadcast()
}

// NumStreams returns how many streams have not ended in both directions.
func (c *Conn) NumStreams() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.streams)
}

// GoAway tells the peer to open no more streams. Those that exist live on;
// those that are on their way are reset with CodeRefused, which tells the
// peer that nobody has looked at them.
func (c *Conn) GoAway() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away || c.err != nil {
		return
	}
	c.away, c.takeLimit = true, c.arrived
	c.controlLocked(frame{kind: frameGoAway, value: c.takeLimit})
	c.changed.Broadcast()
}

// PeerGone is closed when the peer has said go-away.
func (c *Conn) PeerGone() <-chan struct{} { return c.gone }

// Shutdown says go-away, waits until no streams are left and closes. When ctx
// ends first, it closes at once and returns why ctx ended; when the Conn ends
// first, with streams left, it returns why that was.
func (c *Conn) Shutdown(ctx context.Context) error {
	c.GoAway()
	stop := context.AfterFunc(ctx, c.wakeAll)
	c.mu.Lock()
	for len(c.streams) > 0 && c.err == nil && ctx.Err() == nil {
		c.changed.Wait()
	}
	var err error
	switch {
	case len(c.streams) == 0:
	case c.err != nil:
		err = c.err
	default:
		err = context.Cause(ctx)
	}
	c.mu.Unlock()
	stop()
	c.Close()
	return err
}

// Close ends the Conn and every stream on it, and closes its lanes. What was
// written before is still sent, as far as they take it within a second. Nor are
// they closed before the peer has done the same on its side, or that second has
// passed: a socket that is closed with bytes unread takes back those that it
// sent (RFC 9293, section 3.6.1). Close returns when the goroutines of the Conn
// have ended; calling it again is harmless.
func (c *Conn) Close() error {
	c.fail(ErrClosed)
	c.wg.Wait()
	return nil
}

// Done is closed when the Conn has ended, by whatever cause.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says why the Conn has ended: ErrClosed after our own Close, a
// *ConnError when either side ended it, or what the net.Conn said. It is nil
// while the Conn lives.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Wait waits until the Conn and its goroutines have ended, and returns Err.
func (c *Conn) Wait() error {
	<-c.done // while it has no lane, it has no goroutines either
	c.wg.Wait()
	return c.Err()
}

// fail ends the Conn because of err. The first call decides.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	c.failLocked(err)
	c.mu.Unlock()
}

func (c *Conn) failLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	c.leavePoolLocked()
	c.endLanesLocked(err)
	close(c.done)
	for _, s := range c.streams {
		s.readable.Broadcast()
		s.writable.Broadcast()
	}
	c.changed.Broadcast()
	c.acceptable.Broadcast()
}

// addStreamLocked makes the stream with that id.
func (c *Conn) addStreamLocked(id uint64) *Stream {
	s := &Stream{
		conn:        c,
		id:          id,
		lane:        c.main,
		frameBatch:  noBatch,
		sendLimit:   c.peer.streamCredit,
		window:      firstWindow,
		receiveSaid: firstWindow,
	}
	s.readable.L, s.writable.L = &c.mu, &c.mu
	c.streams[id] = s
	c.windows += s.window
	return s
}

// settleLocked forgets s when both of its directions have ended.
func (c *Conn) settleLocked(s *Stream) {
	if !s.sendDone || !s.finalKnown || s.settled {
		return
	}
	s.settled = true
	delete(c.streams, s.id)
	c.windows -= s.window
	c.unannounced.remove(s)
	c.crediting.remove(s)
	if len(c.streams) == 0 {
		c.changed.Broadcast() // Shutdown may be waiting
	}
	if s.id&1 == c.ours {
		if c.open--; c.open == maxOpen-1 {
			c.changed.Broadcast()
		}
		return
	}
	if s.links[linkAccept].of != nil && s.readErr == io.EOF {
		return // whole: it keeps its place until Accept has given it out
	}
	if c.accept.remove(s) {
		s.discardLocked() // cut before anybody asked for it
	}
	c.arriveLimit++
	c.sayStreamsLocked()
}

// sayStreamsLocked tells the peer how many streams it may open. It waits while
// the peer does not read what we say: what ended streams left in out is bounded
// by that.
func (c *Conn) sayStreamsLocked() {
	free := c.arriveLimit - c.arriveSaid
	if c.away || c.main.lenLocked() >= maxRoom || free < min(max(1, c.cfg.maxStreams()/4), max(1, c.arriveSaid-c.arrived)) {
		return
	}
	c.arriveSaid = c.arriveLimit
	c.controlLocked(frame{kind: frameStreams, value: c.arriveSaid})
}
