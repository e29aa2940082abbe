package mux

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"
)

// A Lane is one of the net.Conns that carry a Conn. Its methods may be called
// from any goroutine.
//
// Every stream sends over one lane at a time, in order, and a receiver takes
// the frames of a lane in order. When a lane is given up, each end tells the
// other how much of it was taken, and not before it has stopped taking: so what
// is missing is known to the byte, and is sent again over another lane before
// anything else of the same streams.
type Lane struct {
	c      *Conn
	conn   net.Conn
	number uint64
	in     frameReader   // the reader's alone
	socket socket        // the writer's alone
	heard  atomic.Int64  // the age at which the peer was last known to live
	closed atomic.Bool   // conn.Close was called
	loops  atomic.Int32  // how many of its two goroutines are left
	over   chan struct{} // closed when there are none

	// All that follows is guarded by c.mu.
	err      error         // why it carries nothing any more
	peerLeft bool          // the peer has said close on it
	busyAt   time.Duration // the age at which it last carried data

	sender
	keeper
	pinger
}

// lanes are a Conn's. Its fields are guarded by Conn.mu.
type lanes struct {
	keeps   bool // the Conn outlives its lanes, unless the peer does not
	all     []*Lane
	living  int
	readers int   // readLoops that have not ended
	main    *Lane // carries all that is not bulk; the last one, if none is left
	highest uint64
	joined  bool        // there has been more than one
	resume  *time.Timer // ends a Conn that has no lane
	ending  error       // what the Conn ends with when every lane has heard close,
	limit   *time.Timer // or when this has passed
	kept    uint64      // bytes that all lanes keep
	moving  []*Stream   // wait until a lane has delivered what they sent, to go to another
	words   []word      // leaves of which we do not know that the peer has heard them
	absent  []span      // numbers of lanes that never came to be here
}

// A word is what there is to say of a lane that we have given up. It depends on
// no other lane: it is said over each one that lives, until it has arrived.
type word struct {
	number, taken uint64
	over          *Lane
	at            uint64 // how much had gone over that lane behind it
}

// A span is the numbers from first to last.
type span struct{ first, last uint64 }

// maxAbsent bounds Conn.absent: one span, mostly none, for each lane that was
// there.
const maxAbsent = 64

// maxUnsettled bounds the lanes of which the peer does not say what it has, and
// the words of which it does not say that it has heard them.
const maxUnsettled = 1024

// maxLanes is how many lanes may live at a time.
const maxLanes = 4

var (
	// errLeft is why a lane ended that the peer gave up.
	errLeft = errors.New("mux: lane given up by peer")

	// errLeave is why a lane ended that we gave up.
	errLeave = errors.New("mux: lane given up")
)

// Join adds a lane to a Conn that outlives its lanes: [Config.Keep] on both
// ends. It owns conn from here on, and closes it if the answer is an error. Both
// ends give the lane the same number, which is higher than all before; the
// first conn of all was lane 0. That conn leads to the peer of this Conn, and to
// nobody else, is for the caller to make sure of.
//
// Join waits for nothing. What was under way on lanes that have died is sent
// again over the lane, if there is no other, and streams go on.
func (c *Conn) Join(conn net.Conn, number uint64) (*Lane, error) {
	l, err := c.join(conn, number)
	if err != nil {
		conn.Close()
	}
	return l, err
}

func (c *Conn) join(conn net.Conn, number uint64) (*Lane, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return nil, c.err
	case !c.keeps:
		return nil, errors.New("mux: nothing is kept, so no lane can join")
	case number <= c.highest || number > maxVarint:
		return nil, fmt.Errorf("mux: lane %d after lane %d", number, c.highest)
	case c.living >= maxLanes:
		return nil, fmt.Errorf("mux: more than %d lanes", maxLanes)
	}
	c.missedLocked(number - 1)
	if err := c.unsettledLocked(); err != nil {
		c.failLocked(err)
		return nil, err
	}
	c.highest, c.joined = number, true
	if c.resume != nil {
		c.resume.Stop()
		c.resume = nil
	}
	l := c.newLaneLocked(conn, number)
	l.controlLocked(frame{kind: frameLane, value: number})
	if c.living == 1 {
		c.sayWordsLocked(l)
		c.newMainLocked(l)
	}
	l.startLocked()
	return l, nil
}

// newLaneLocked makes a lane, which is to be started when it knows its first
// words.
func (c *Conn) newLaneLocked(conn net.Conn, number uint64) *Lane {
	l := &Lane{c: c, conn: conn, number: number, over: make(chan struct{})}
	l.in.conn = ear{l}
	l.began = c.age()
	l.heard.Store(int64(l.began))
	l.sender.init(&c.mu)
	l.socket.init(conn)
	c.all = append(c.all, l)
	c.living++
	out := l.outLocked()
	out.b = append(out.b, preface...)
	return l
}

func (l *Lane) startLocked() {
	c := l.c
	l.startPingLocked()
	l.startWatchLocked()
	l.loops.Store(2)
	c.wg.Add(2)
	c.readers++
	go l.readLoop()
	go l.writeLoop()
}

// ended notes that a loop has ended.
func (l *Lane) ended() {
	if l.loops.Add(-1) == 0 {
		close(l.over)
	}
	l.c.wg.Done()
}

// Done is closed when the lane has ended, by whatever cause.
func (l *Lane) Done() <-chan struct{} { return l.over }

// Err says why the lane has ended: what its net.Conn said, ErrPeerSilent, or
// the end of the Conn. It is nil while the lane lives.
func (l *Lane) Err() error {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	if l.err == nil {
		return l.c.err
	}
	return l.err
}

// LocalAddr is that of the net.Conn.
func (l *Lane) LocalAddr() net.Addr { return l.conn.LocalAddr() }

// Leave gives the lane up. What it carried goes on over another lane, or over
// the next one. It returns at once; calling it again is harmless.
func (l *Lane) Leave() {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	l.loseLocked(errLeave)
}

// Lanes returns the lanes that live, the oldest first. The first of them
// carries all that is not bulk.
func (c *Conn) Lanes() []*Lane {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*Lane, 0, c.living)
	for _, l := range c.all {
		if l.err == nil && c.err == nil {
			all = append(all, l)
		}
	}
	return all
}

func (c *Conn) mainConn() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.main.conn
}

// Adrift gives a value when the last lane was lost. It is for one reader, who
// joins another, and looks at Lanes again: the value may be an old one.
func (c *Conn) Adrift() <-chan struct{} { return c.adrift }

// loseLocked gives l up because of err. A Conn that keeps nothing ends with it.
func (l *Lane) loseLocked(err error) {
	c := l.c
	switch {
	case l.err != nil || c.err != nil:
		return
	case !c.keeps:
		c.failLocked(err)
		return
	}
	l.err = err
	l.freeSpareLocked()
	c.living--
	l.stopWatchLocked()
	l.wake.Broadcast()
	c.wg.Add(1)
	go func() { // closing may take its time, and frees who reads and writes
		defer c.wg.Done()
		l.cutConn()
	}()
	for _, s := range c.streams {
		if s.lane == l {
			c.unqueueLocked(s)
		}
	}
	c.moveLocked(l)
	c.words = append(c.words, word{number: l.number, taken: l.taken, over: l})
	next := c.oldestLocked()
	switch {
	case next == nil && c.ending != nil:
		c.failLocked(c.ending)
	case next == nil:
		c.driftLocked(err)
	default:
		c.sayWordsLocked(next)
		if c.main == l {
			c.newMainLocked(next)
		} else {
			c.rehouseLocked()
		}
		c.endWhenClosedLocked()
	}
}

// oldestLocked is the first lane that lives, or nil.
func (c *Conn) oldestLocked() *Lane {
	for _, l := range c.all {
		if l.err == nil {
			return l
		}
	}
	return nil
}

// driftLocked is for a Conn whose last lane has just ended.
func (c *Conn) driftLocked(err error) {
	var mine *time.Timer // one that was too late to be stopped must not end the next wait
	mine = time.AfterFunc(c.cfg.resume(), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.resume == mine && c.living == 0 {
			c.failLocked(fmt.Errorf("mux: no lane for %v: %w", c.cfg.resume(), err))
		}
	})
	c.resume = mine
	select {
	case c.adrift <- struct{}{}:
	default:
	}
}

// newMainLocked makes l carry all that is not bulk.
func (c *Conn) newMainLocked(l *Lane) {
	c.main = l
	c.rehouseLocked()
	if len(c.pinged) > 0 {
		l.startPingLocked()
	}
	c.changed.Broadcast() // Open may be waiting for a lane
	l.kickLocked()
}

// rehouseLocked takes streams of lanes that have ended to the main lane, if the
// peer is known to have all that they sent. The others wait to hear from it.
func (c *Conn) rehouseLocked() {
	for _, s := range c.streams {
		if s.lane.err != nil && s.deliveredLocked() {
			s.takeLaneLocked(c.main)
			c.queueLocked(s)
		}
	}
}

// sayWordsLocked says over l what the peer cannot have heard over lanes that
// have ended.
func (c *Conn) sayWordsLocked(l *Lane) {
	for i := range c.words {
		if w := &c.words[i]; w.over == nil || w.over.err != nil {
			l.controlLocked(frame{kind: frameLeave, stream: w.number, value: w.taken})
			w.over, w.at = l, l.sent+uint64(l.lenLocked())
		}
	}
}

// missedLocked notes that lanes up to last, and after the highest that there
// was, will not come to be here. When there is no place left for that, the lanes
// between the first two spans join them. They are not asked for: the peer has
// long heard what we took of them.
func (c *Conn) missedLocked(last uint64) {
	n := len(c.absent)
	switch {
	case last <= c.highest:
		return
	case n > 0 && c.absent[n-1].last == c.highest:
		c.absent[n-1].last = last
	default:
		c.absent = append(c.absent, span{c.highest + 1, last})
	}
	if len(c.absent) > maxAbsent {
		c.absent[1].first = c.absent[0].first
		c.absent = slices.Delete(c.absent, 0, 1)
	}
	c.highest = last
}

// unsettledLocked finds out whether the peer leaves too much open about lanes
// that have ended.
func (c *Conn) unsettledLocked() error {
	if lanes, words := len(c.all)-c.living, len(c.words); lanes+words > maxUnsettled {
		return violation(CodeFlood, "%d lanes were never settled", lanes+words)
	}
	return nil
}

// onLeaveLocked hears over l that the peer has given up a lane, and what it has
// of it.
func (l *Lane) onLeaveLocked(number, taken uint64) error {
	c := l.c
	switch {
	case !c.keeps:
		return violation(CodeProtocol, "lane %d was given up, and nothing is kept", number)
	case number == l.number:
		return violation(CodeProtocol, "lane %d was given up on itself", number)
	}
	for i, l := range c.all {
		if l.number != number {
			continue
		}
		if err := l.resolveLocked(taken); err != nil {
			return err
		}
		c.all = append(c.all[:i:i], c.all[i+1:]...)
		return nil
	}
	c.missedLocked(number)
	if slices.ContainsFunc(c.absent, func(s span) bool { return s.first <= number && number <= s.last }) &&
		!slices.ContainsFunc(c.words, func(w word) bool { return w.number == number }) {
		c.words = append(c.words, word{number: number})
		c.sayWordsLocked(c.main)
		if err := c.unsettledLocked(); err != nil {
			return err
		}
	}
	return c.chargeLocked() // or it was said before
}

// endLanesLocked ends all lanes because the Conn has, with err.
func (c *Conn) endLanesLocked(err error) {
	for _, t := range []*time.Timer{c.resume, c.limit} {
		if t != nil {
			t.Stop()
		}
	}
	c.cfg.Pool.keep(-int(c.kept))
	c.kept = 0
	for _, l := range c.all {
		l.freeSpareLocked()
		l.sayGoodbyeLocked(err)
		l.wake.Broadcast()
		l.stopWatchLocked()
	}
	// The peer closes a lane when it has heard our goodbye, and then so do we.
	// It may not listen; then this is what frees the loops.
	all := c.all
	if c.readers == 0 {
		return
	}
	c.cut = time.AfterFunc(closeTime, func() {
		for _, l := range all {
			l.cutConn()
		}
	})
}

// onCloseLocked hears that the peer has ended the Conn. What it has sent on
// other lanes may still be under way, and ends with a close as well.
func (c *Conn) onCloseLocked(l *Lane, err error) error {
	if l.peerLeft {
		return nil
	}
	l.peerLeft = true
	if c.err != nil {
		return err
	}
	if c.ending == nil {
		c.ending = err
	}
	if c.allClosedLocked() {
		return err
	}
	if c.limit == nil {
		c.limit = time.AfterFunc(closeTime, func() { c.fail(err) })
	}
	return nil
}

func (c *Conn) endWhenClosedLocked() {
	if c.ending != nil && c.allClosedLocked() {
		c.failLocked(c.ending)
	}
}

func (c *Conn) allClosedLocked() bool {
	for _, l := range c.all {
		if l.err == nil && !l.peerLeft {
			return false
		}
	}
	return true
}

// closeConn closes the net.Conn, which may take its time: never under the lock.
func (l *Lane) closeConn() {
	if l.closed.CompareAndSwap(false, true) {
		l.conn.Close()
	}
}

// cutConn closes the net.Conn where nothing can hold it up. crypto/tls wants to
// say goodbye as well, and waits for whoever is writing.
func (l *Lane) cutConn() {
	innermost(l.conn).Close()
	l.closeConn()
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
