package mux

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// sender is the sending half of a Lane. Its fields are guarded by Conn.mu.
//
// Frames gather in out while the writer is busy with the batch before, and
// leave together: a busy connection fills packets, a quiet one waits for
// nothing. What cannot gather waits with its stream, where it can still be
// overtaken by what is more urgent.
type sender struct {
	wake    sync.Cond // the writer waits here
	idle    bool      // the writer waits
	busy    bool      // the writer is in a Write of the net.Conn
	out     *batch    // the frames that leave next; nil: none
	batches uint64    // how many have left: the number of out
	room    int       // how long a batch may become

	light queue // streams with something to send that have sent little
	heavy queue // the others, which take turns

	wroteAt   time.Duration // the age of the Conn when the lane was last written to
	pong      bool          // one is due, with this number
	pongValue uint64
}

const (
	// minRoom and maxRoom bound sender.room, which follows how fast the
	// net.Conn takes what we write.
	minRoom = 16 << 10
	maxRoom = 128 << 10

	// slowWrite is how long the net.Conn may take for a batch. What comes
	// after waits as long.
	slowWrite = 4 * time.Millisecond
	fastWrite = time.Millisecond

	// heavyShare is how much of a batch may be put together before the
	// writer is ready for it, for streams that have sent much.
	heavyShare = 16 << 10
)

// A batch is bytes for one Write.
type batch struct {
	b []byte

	// While it is kept:
	start   uint64 // how much went over the lane before it
	copied  bool   // no: what is kept is a copy, or nothing
	gathers bool   // small ones are put behind it
	home    *sync.Pool
	at      int // where the frames begin that are still to be sent again
}

var batchPool = sync.Pool{New: func() any { return &batch{b: make([]byte, 0, 4<<10)} }}

// free gives b back. The caller forgets it.
func (b *batch) free() {
	home := cmp.Or(b.home, &batchPool)
	if cap(b.b) <= 2*maxRoom {
		*b = batch{b: b.b[:0]}
		home.Put(b)
	}
}

func (s *sender) init(mu *sync.Mutex) {
	s.wake.L = mu
	s.room = 64 << 10
	s.light.link, s.heavy.link = linkSend, linkSend
}

// outLocked returns the batch that leaves next, for frames to be appended.
func (l *Lane) outLocked() *batch {
	if l.out != nil {
		return l.out
	}
	if n := len(l.spare); n > 0 {
		l.out, l.spare = l.spare[n-1], l.spare[:n-1]
	} else {
		l.out = batchPool.Get().(*batch)
	}
	return l.out
}

func (s *sender) lenLocked() int {
	if s.out == nil {
		return 0
	}
	return len(s.out.b)
}

// controlLocked sends a frame that is not data. What causes such frames is
// bounded each time: by the streams that exist, by the credit that was
// given, or by a place for one.
func (c *Conn) controlLocked(f frame) { c.main.controlLocked(f) }

func (l *Lane) controlLocked(f frame) {
	if l.c.err != nil {
		return
	}
	out := l.outLocked()
	out.b = appendFrame(out.b, f)
	l.kickLocked()
}

// kickLocked wakes the writer.
func (l *Lane) kickLocked() {
	if l.idle {
		l.idle = false
		l.wake.Signal()
	}
}

// sendNowLocked puts as much of p as may go at once into the next batch, and
// says how much that was. The rest has to wait its turn in a queue.
func (c *Conn) sendNowLocked(s *Stream, p []byte) (n int) {
	heavy := s.weight.heavy()
	if c.joined && !c.mayStayLocked(s, heavy) {
		return 0
	}
	l := s.lane
	room := l.room
	if heavy {
		if !l.heavy.empty() || !l.light.empty() {
			return 0
		}
		if l.busy {
			room = heavyShare
		}
	} else if !l.light.empty() {
		return 0
	}
	if !c.roomLocked() {
		return 0
	}
	for n < len(p) && l.lenLocked() < room {
		m := min(len(p)-n, c.creditLocked(s))
		if m == 0 {
			break
		}
		c.sendDataLocked(s, p[n:n+m])
		n += m
	}
	if n > 0 {
		l.kickLocked()
	}
	return n
}

// creditLocked says how much s may send in a frame.
func (c *Conn) creditLocked(s *Stream) int {
	return int(min(s.sendLimit-s.sent, c.sendLimit-c.sent, maxPayload)) // int may have 32 bits
}

// sendDataLocked puts a frame with p into the next batch.
func (c *Conn) sendDataLocked(s *Stream, p []byte) {
	l := s.lane
	out := l.outLocked()
	s.frameAt, s.frameBatch = len(out.b), l.batches
	s.announced = true
	out.b = appendFrame(out.b, frame{kind: frameData, stream: s.id, offset: s.sent, data: p})
	s.sentAt = l.sent + uint64(len(out.b))
	s.sent += uint64(len(p))
	c.sent += uint64(len(p))
	s.weight.add(len(p))
	if l != c.main {
		l.busyAt = c.age()
	}
}

// sendEndLocked says that s sends no more, if possible in its last frame.
func (c *Conn) sendEndLocked(s *Stream) {
	if s.sendDone {
		return
	}
	s.sendDone = true
	l := s.lane
	if l.out != nil && s.announced && s.frameBatch == l.batches && s.sent > 0 {
		l.out.b[s.frameAt] = frameDataFin
		return
	}
	s.announced = true
	c.orderedLocked(s, frame{kind: frameDataFin, stream: s.id, offset: s.sent})
}

// queueLocked makes s, which has something pending, wait for its turn.
func (c *Conn) queueLocked(s *Stream) {
	l := s.lane
	if len(s.pending) == 0 || s.writeErr != nil || l.err != nil || s.again > 0 || s.isMoving {
		return // not queued: whatever it waits for will do that
	}
	if s.sent == s.sendLimit { // the peer's credit will
		if s.blockedAt != s.sendLimit {
			s.blockedAt = s.sendLimit
			c.orderedLocked(s, frame{kind: frameBlocked, stream: s.id, value: s.sendLimit})
		}
		return
	}
	if s.weight.heavy() {
		l.heavy.push(s)
	} else {
		l.light.push(s)
	}
	if c.sent < c.sendLimit {
		l.kickLocked()
	}
}

func (c *Conn) unqueueLocked(s *Stream) {
	if q := s.links[linkSend].of; q != nil {
		q.remove(s)
	}
}

// mayDataLocked says whether streams may send, as far as all of them are
// concerned.
func (c *Conn) mayDataLocked() bool { return c.sent < c.sendLimit && c.roomLocked() }

// workLocked says whether there is something for the writer to do.
func (l *Lane) workLocked() bool {
	c := l.c
	return l.out != nil || l.pong || l.ackDue || len(l.again) > 0 ||
		l == c.main && (c.credit || !c.unannounced.empty() || !c.crediting.empty()) ||
		(!l.light.empty() || !l.heavy.empty()) && c.mayDataLocked()
}

// writeLoop sends batches until the lane or the Conn ends, and then what was
// written before it did. It leaves the net.Conn to readLoop if the peer can
// still hear our goodbye.
func (l *Lane) writeLoop() {
	defer l.ended()
	if heard := l.writeBatches(); !heard {
		l.closeConn()
	}
}

// writeBatches reports whether the peer can hear how it ended.
func (l *Lane) writeBatches() (heard bool) {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		for c.err == nil && l.err == nil && !l.workLocked() {
			if c.askLocked(); l.out != nil {
				break
			}
			l.idle = true
			l.wake.Wait()
		}
		l.idle = false
		if c.err == nil { // those who are ready to run may have something to add
			c.mu.Unlock()
			runtime.Gosched()
			c.mu.Lock()
		}
		last := c.err != nil
		if l.err != nil {
			return false
		}
		if !last {
			l.gatherLocked()
		}
		if last && l.out == nil { // nobody to say goodbye to
			return false
		}
		if l.out == nil {
			continue
		}
		if err := l.writeLocked(); err != nil {
			l.loseLocked(fmt.Errorf("mux: connection lost: %w", err))
			return false
		}
		if last {
			return true
		}
	}
}

// writeLocked writes the batch that has gathered. It lets go of the lock
// meanwhile.
func (l *Lane) writeLocked() error {
	c, out := l.c, l.out
	l.out = nil
	l.batches++
	if err := l.keepLocked(out); err != nil {
		c.failLocked(err) // the last words go behind this batch
	}
	if l == c.main {
		c.sayStreamsLocked() // what a full batch held back
	}
	l.busy = true
	began := c.age()
	l.wroteAt = began
	size := len(out.b)
	c.mu.Unlock()
	l.socket.tune(began, size)
	_, err := l.conn.Write(out.b)
	took := c.age() - began
	c.mu.Lock()
	l.busy = false
	switch {
	case took > slowWrite:
		l.room = max(minRoom, l.room/2)
	case took < fastWrite && size >= l.room/2:
		l.room = min(maxRoom, l.room*2)
	}
	l.writtenLocked(out)
	return err
}

// gatherLocked fills the batch from those who wait.
func (l *Lane) gatherLocked() {
	c := l.c
	if l == c.main {
		l.gatherCreditLocked()
	}
	l.gatherAckLocked(l.pong)
	if l.pong {
		l.pong = false
		l.controlLocked(frame{kind: framePong, value: l.pongValue})
	}
	l.sendAgainLocked()
	for l.lenLocked() < l.room && !l.light.empty() && c.mayDataLocked() {
		l.takeTurnLocked(&l.light)
	}
	// The heavy have at least one frame in each batch, or a flood of small
	// things would starve them.
	for turns := 0; !l.heavy.empty() && c.mayDataLocked() && (turns == 0 || l.lenLocked() < l.room); turns++ {
		l.takeTurnLocked(&l.heavy)
	}
}

// gatherCreditLocked announces our streams, and says how much the peer may send.
func (l *Lane) gatherCreditLocked() {
	c := l.c
	for s := c.unannounced.pop(); s != nil; s = c.unannounced.pop() {
		if !s.announced {
			c.sendDataLocked(s, nil)
		}
	}
	if c.credit {
		c.credit = false
		l.controlLocked(frame{kind: frameCredit, value: c.receiveSaid})
	}
	for s := c.crediting.pop(); s != nil; s = c.crediting.pop() {
		l.controlLocked(frame{kind: frameStreamCredit, stream: s.id, value: s.receiveSaid})
	}
}

// takeTurnLocked lets the first of q send one frame, and puts it at the end
// of its queue if it has more to send.
func (l *Lane) takeTurnLocked(q *queue) {
	c, s := l.c, q.pop()
	if c.keeps && q == &l.heavy && c.asideLocked(s) {
		return
	}
	n := min(len(s.pending), c.creditLocked(s))
	c.sendDataLocked(s, s.pending[:n])
	if s.pending = s.pending[n:]; len(s.pending) == 0 {
		s.writable.Broadcast()
		return
	}
	c.queueLocked(s)
}

// sayGoodbyeLocked prepares the last words of a Conn that ends because of
// err: none when nobody listens any more.
func (l *Lane) sayGoodbyeLocked(err error) {
	bye := frame{kind: frameClose, value: uint64(CodeNone)}
	ours, _ := errors.AsType[*ConnError](err)
	switch {
	case l.err != nil:
		l.out = nil
		return
	case err == ErrClosed:
	case ours != nil && !ours.Remote && ours.Code != CodeSilent:
		bye.value = uint64(ours.Code)
		bye.data = []byte(ours.Reason[:min(len(ours.Reason), maxReason)])
	default:
		l.out = nil
		return
	}
	out := l.outLocked()
	out.b = appendFrame(out.b, bye)
}
