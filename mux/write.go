package mux

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// sender is the sending half of a Conn. Its fields are guarded by Conn.mu.
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

	peer      settings
	sendLimit uint64 // bytes that the peer lets us send on all streams together
	sent      uint64 // of those, bytes that were sent

	unannounced queue
	light       queue // streams with something to send that have sent little
	heavy       queue // the others, which take turns

	wroteAt   time.Duration // the age of the Conn when it last wrote
	pong      bool          // one is due, with this number
	pongValue uint64
	credit    bool        // the session's limit is to be said
	cut       *time.Timer // closes the net.Conn if the last words take too long
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
type batch struct{ b []byte }

var batchPool = sync.Pool{New: func() any { return &batch{make([]byte, 0, 4<<10)} }}

func (s *sender) init(mu *sync.Mutex) {
	s.wake.L = mu
	s.room = 64 << 10
	s.peer = floorSettings
	s.sendLimit = floorCredit
	s.unannounced.link = linkAnnounce
	s.light.link, s.heavy.link = linkSend, linkSend
}

// outLocked returns the batch that leaves next, for frames to be appended.
func (s *sender) outLocked() *batch {
	if s.out == nil {
		s.out = batchPool.Get().(*batch)
	}
	return s.out
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
func (c *Conn) controlLocked(f frame) {
	if c.err != nil {
		return
	}
	out := c.outLocked()
	out.b = appendFrame(out.b, f)
	c.kickLocked()
}

// kickLocked wakes the writer.
func (c *Conn) kickLocked() {
	if c.idle {
		c.idle = false
		c.wake.Signal()
	}
}

// sendNowLocked puts as much of p as may go at once into the next batch, and
// says how much that was. The rest has to wait its turn in a queue.
func (c *Conn) sendNowLocked(s *Stream, p []byte) (n int) {
	room := c.room
	if s.weight.heavy() {
		if !c.heavy.empty() || !c.light.empty() {
			return 0
		}
		if c.busy {
			room = heavyShare
		}
	} else if !c.light.empty() {
		return 0
	}
	for n < len(p) && c.lenLocked() < room {
		m := min(len(p)-n, c.creditLocked(s))
		if m == 0 {
			break
		}
		c.sendDataLocked(s, p[n:n+m])
		n += m
	}
	if n > 0 {
		c.kickLocked()
	}
	return n
}

// creditLocked says how much s may send in a frame.
func (c *Conn) creditLocked(s *Stream) int {
	return int(min(s.sendLimit-s.sent, c.sendLimit-c.sent, maxPayload)) // int may have 32 bits
}

// sendDataLocked puts a frame with p into the next batch.
func (c *Conn) sendDataLocked(s *Stream, p []byte) {
	out := c.outLocked()
	s.frameAt, s.frameBatch = len(out.b), c.batches
	s.announced = true
	out.b = appendFrame(out.b, frame{kind: frameData, stream: s.id, offset: s.sent, data: p})
	s.sent += uint64(len(p))
	c.sent += uint64(len(p))
	s.weight.add(len(p))
}

// sendEndLocked says that s sends no more, if possible in its last frame.
func (c *Conn) sendEndLocked(s *Stream) {
	if s.sendDone {
		return
	}
	s.sendDone = true
	if c.out != nil && s.announced && s.frameBatch == c.batches && s.sent > 0 {
		c.out.b[s.frameAt] = frameDataFin
		return
	}
	s.announced = true
	c.controlLocked(frame{kind: frameDataFin, stream: s.id, offset: s.sent})
}

// queueLocked makes s, which has something pending, wait for its turn.
func (c *Conn) queueLocked(s *Stream) {
	if len(s.pending) == 0 || s.writeErr != nil {
		return
	}
	if s.sent == s.sendLimit { // not queued: the peer's credit will do that
		if s.blockedAt != s.sendLimit {
			s.blockedAt = s.sendLimit
			c.controlLocked(frame{kind: frameBlocked, stream: s.id, value: s.sendLimit})
		}
		return
	}
	if s.weight.heavy() {
		c.heavy.push(s)
	} else {
		c.light.push(s)
	}
	if c.sent < c.sendLimit {
		c.kickLocked()
	}
}

func (c *Conn) unqueueLocked(s *Stream) {
	if q := s.links[linkSend].of; q != nil {
		q.remove(s)
	}
}

// workLocked says whether there is something for the writer to do.
func (c *Conn) workLocked() bool {
	return c.out != nil || c.pong || c.credit || !c.unannounced.empty() || !c.crediting.empty() ||
		c.sent < c.sendLimit && (!c.light.empty() || !c.heavy.empty())
}

// writeLoop sends batches until the Conn ends, and then what was written
// before it did. It leaves the net.Conn to readLoop if the peer can still hear
// our goodbye.
func (c *Conn) writeLoop() {
	defer c.wg.Done()
	if heard := c.writeBatches(); !heard {
		c.closeConn()
	}
}

// writeBatches reports whether the peer can hear how it ended.
func (c *Conn) writeBatches() (heard bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		for c.err == nil && !c.workLocked() {
			c.idle = true
			c.wake.Wait()
		}
		c.idle = false
		if c.err == nil { // those who are ready to run may have something to add
			c.mu.Unlock()
			runtime.Gosched()
			c.mu.Lock()
		}
		last := c.err != nil
		if !last {
			c.gatherLocked()
		}
		if last && c.out == nil { // nobody to say goodbye to
			return false
		}
		if c.out == nil {
			continue
		}
		if err := c.writeLocked(); err != nil {
			c.failLocked(fmt.Errorf("mux: connection lost: %w", err))
			return false
		}
		if last {
			return true
		}
	}
}

// writeLocked writes the batch that has gathered. It lets go of the lock
// meanwhile.
func (c *Conn) writeLocked() error {
	out := c.out
	c.out = nil
	c.batches++
	c.sayStreamsLocked() // what a full batch held back
	c.busy = true
	began := c.age()
	c.wroteAt = began
	c.mu.Unlock()
	c.socket.tune(began, len(out.b))
	_, err := c.conn.Write(out.b)
	took := c.age() - began
	c.mu.Lock()
	c.busy = false
	switch size := len(out.b); {
	case took > slowWrite:
		c.room = max(minRoom, c.room/2)
	case took < fastWrite && size >= c.room/2:
		c.room = min(maxRoom, c.room*2)
	}
	if cap(out.b) <= 2*maxRoom {
		out.b = out.b[:0]
		batchPool.Put(out)
	}
	return err
}

// gatherLocked fills the batch from those who wait.
func (c *Conn) gatherLocked() {
	for s := c.unannounced.pop(); s != nil; s = c.unannounced.pop() {
		if !s.announced {
			c.sendDataLocked(s, nil)
		}
	}
	if c.pong {
		c.pong = false
		c.controlLocked(frame{kind: framePong, value: c.pongValue})
	}
	if c.credit {
		c.credit = false
		c.controlLocked(frame{kind: frameCredit, value: c.receiveSaid})
	}
	for s := c.crediting.pop(); s != nil; s = c.crediting.pop() {
		c.controlLocked(frame{kind: frameStreamCredit, stream: s.id, value: s.receiveSaid})
	}
	for c.lenLocked() < c.room && !c.light.empty() && c.sent < c.sendLimit {
		c.takeTurnLocked(&c.light)
	}
	// The heavy have at least one frame in each batch, or a flood of small
	// things would starve them.
	for turns := 0; !c.heavy.empty() && c.sent < c.sendLimit && (turns == 0 || c.lenLocked() < c.room); turns++ {
		c.takeTurnLocked(&c.heavy)
	}
}

// takeTurnLocked lets the first of q send one frame, and puts it at the end
// of its queue if it has more to send.
func (c *Conn) takeTurnLocked(q *queue) {
	s := q.pop()
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
func (c *Conn) sayGoodbyeLocked(err error) {
	bye := frame{kind: frameClose, value: uint64(CodeNone)}
	ours, _ := errors.AsType[*ConnError](err)
	switch {
	case err == ErrClosed:
	case ours != nil && !ours.Remote && ours.Code != CodeSilent:
		bye.value = uint64(ours.Code)
		bye.data = []byte(ours.Reason[:min(len(ours.Reason), maxReason)])
	default:
		c.out = nil
		return
	}
	out := c.outLocked()
	out.b = appendFrame(out.b, bye)
}
