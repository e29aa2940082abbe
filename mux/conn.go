package mux

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Conn carries streams over one net.Conn. Its methods may be called from
// any goroutine.
type Conn struct {
	conn    net.Conn
	cfg     Config
	ours    uint64 // the lowest bit in the ids of the streams that we open
	born    time.Time
	in      frameReader   // the reader's alone
	heard   atomic.Int64  // the age at which the peer was last known to live
	done    chan struct{} // closed when err is set
	gone    chan struct{} // closed when the peer has said go-away
	socket  socket        // the writer's alone
	wg      sync.WaitGroup
	closing atomic.Bool // conn.Close was called

	mu      sync.Mutex // guards all that follows, and every field of a Stream
	err     error      // why the Conn has ended
	streams map[uint64]*Stream

	// Streams of ours and of the peer.
	opened      uint64    // streams that we have opened, ever
	open        int       // of those, how many have not ended in both directions
	openLimit   uint64    // streams that we may open, ever
	changed     sync.Cond // openLimit, open, away or len(streams) did, or err is set
	away        bool      // we have said go-away
	peerAway    bool
	arrived     uint64 // streams that the peer has opened, ever
	arriveLimit uint64 // streams that it may open, ever
	arriveSaid  uint64 // the limit of which it knows
	takeLimit   uint64 // after go-away: streams of the peer that we still take
	accept      queue  // streams that arrived and wait for Accept
	acceptable  sync.Cond

	// What we receive.
	received    uint64       // bytes of all streams, up to each one's highest offset
	consumed    uint64       // of those, bytes read or thrown away
	receiveSaid uint64       // the session's limit of which the peer knows
	windows     uint64       // the sum of the windows of all streams
	held        atomic.Int64 // received-consumed, for the Pool
	unread      queue        // streams with something of it, if there is a Pool
	crediting   queue        // streams whose limit is to be said
	allowance   int          // frames without content that may still arrive
	allowedAt   time.Duration

	sender
	pinger
}

// Client returns the Conn of the side that dialled conn, over which the other
// side calls [Server]. It owns conn from here on.
func Client(conn net.Conn, cfg Config) *Conn { return newConn(conn, cfg, 0) }

// Server returns the Conn of the side that accepted conn, over which the
// other side calls [Client]. It owns conn from here on.
func Server(conn net.Conn, cfg Config) *Conn { return newConn(conn, cfg, 1) }

func newConn(conn net.Conn, cfg Config, ours uint64) *Conn {
	c := &Conn{
		conn:        conn,
		cfg:         cfg,
		born:        time.Now(),
		ours:        ours,
		done:        make(chan struct{}),
		gone:        make(chan struct{}),
		streams:     make(map[uint64]*Stream),
		openLimit:   floorStreams,
		arriveLimit: cfg.maxStreams(),
		arriveSaid:  cfg.maxStreams(),
		receiveSaid: cfg.budget(),
		allowance:   floodBurst,
	}
	c.in.conn = ear{c}
	c.changed.L, c.acceptable.L = &c.mu, &c.mu
	c.accept.link, c.unread.link, c.crediting.link = linkAccept, linkUnread, linkCredit
	c.sender.init(&c.mu)
	c.socket.init(conn)

	cfg.Pool.enter(c)
	c.mu.Lock()
	out := c.outLocked()
	out.b = append(out.b, preface...)
	c.controlLocked(frame{kind: frameSettings, data: appendSettings(nil, settings{
		streamCredit: firstWindow,
		credit:       c.receiveSaid,
		streams:      c.arriveSaid,
	})})
	c.startPingLocked()
	c.startWatchLocked()
	c.mu.Unlock()

	c.wg.Add(2)
	go c.readLoop()
	go c.writeLoop()
	return c
}

// Open opens a stream. It waits only while the peer allows no more of them, or
// has left 32,768 that it did not end, until ctx ends. It gives ErrGoAway when
// either side is going away, and the error of the Conn when that has ended. The
// caller closes the stream.
//
// The peer learns of the stream at once, also when nothing is written.
func (c *Conn) Open(ctx context.Context) (*Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	mayOpen := func() bool { return c.opened < c.openLimit && c.open < maxOpen }
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
	c.kickLocked()
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

// Close ends the Conn and every stream on it, and closes the net.Conn under
// it. What was written before is still sent, as far as the net.Conn takes it
// within a second. Nor is it closed before the peer has done the same on its
// side, or that second has passed: a socket that is closed with bytes unread
// takes back those that it sent (RFC 9293, section 3.6.1). Close returns when
// the goroutines of the Conn have ended; calling it again is harmless.
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
	c.sayGoodbyeLocked(err)
	close(c.done)
	for _, s := range c.streams {
		s.readable.Broadcast()
		s.writable.Broadcast()
	}
	c.changed.Broadcast()
	c.acceptable.Broadcast()
	c.wake.Broadcast()
	c.stopWatchLocked()

	// The peer closes the net.Conn when it has heard our goodbye, and then so
	// do we. It may not listen; then this is what frees the loops.
	c.cut = time.AfterFunc(closeTime, c.cutConn)
}

// closeConn closes the net.Conn, which may take its time: never under the lock.
func (c *Conn) closeConn() {
	if c.closing.CompareAndSwap(false, true) {
		c.conn.Close()
	}
}

// cutConn closes the net.Conn where nothing can hold it up. crypto/tls wants to
// say goodbye as well, and waits for whoever is writing.
func (c *Conn) cutConn() {
	innermost(c.conn).Close()
	c.closeConn()
}

// innermost returns what conn is made of, if it says so, as crypto/tls does.
func innermost(conn net.Conn) net.Conn {
	for {
		outer, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = outer.NetConn()
	}
}

// addStreamLocked makes the stream with that id.
func (c *Conn) addStreamLocked(id uint64) *Stream {
	s := &Stream{
		conn:        c,
		id:          id,
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
	if c.away || c.lenLocked() >= maxRoom || free < min(max(1, c.cfg.maxStreams()/4), max(1, c.arriveSaid-c.arrived)) {
		return
	}
	c.arriveSaid = c.arriveLimit
	c.controlLocked(frame{kind: frameStreams, value: c.arriveSaid})
}
