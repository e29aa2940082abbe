package mux

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A Stream is one conversation on a Conn: a net.Conn with a half-close and a
// reset. Its methods may be called from any goroutine. Whoever opened or
// accepted it closes it.
type Stream struct {
	conn  *Conn
	id    uint64
	links [links]link // of conn's queues

	writeMu sync.Mutex // held by Write: the bytes of one call stay together

	// All that follows is guarded by conn.mu.
	settled bool // both directions have ended; conn has forgotten us

	// Our direction.
	writable   sync.Cond
	lane       *Lane  // over which we send
	sentAt     uint64 // how much had gone over it behind our last frame
	again      int    // frames of ours that are to be sent again, before any other
	isMoving   bool   // we wait until the peer has what we sent, to go to another lane
	pending    []byte // what a waiting Write still has to send
	sent       uint64 // the offset of the next byte
	sendLimit  uint64 // the offset up to which the peer lets us send
	blockedAt  uint64 // the limit at which we told the peer that we wait
	announced  bool   // the peer knows of us
	sendDone   bool   // the end, or a reset, is on its way
	stopped    bool   // the peer said that it reads no more
	writeErr   error  // why nothing more can be written
	weight     weight
	frameAt    int    // where our last frame of data begins in the lane's batch …
	frameBatch uint64 // … of this number
	writeLimit deadline

	// The peer's direction.
	readable    sync.Cond
	arrived     chunks
	incoming    weight
	received    uint64        // the offset of the next byte to arrive
	consumed    uint64        // the offset of the next byte to be read, or thrown away
	receiveSaid uint64        // the offset up to which the peer may send
	window      uint64        // how far that may be ahead of consumed
	isHeldUp    bool          // the peer said that it waits for credit
	heldUp      time.Duration // when that was
	heldUpAt    uint64        // and at which limit
	final       uint64
	finalKnown  bool
	implied     bool  // opened by a later one, and not heard of itself
	deaf        bool  // what still arrives is thrown away
	readErr     error // what Read gives when arrived is empty
	readLimit   deadline
}

// ID returns the number of the stream, which no other on this Conn has or
// will have. Streams of the client are even.
func (s *Stream) ID() uint64 { return s.id }

// Read reads what has arrived, or waits for it. After that it gives io.EOF if
// the peer called CloseWrite or Close, a *StreamError if it called Reset, and
// the error of the Conn when that has ended: never io.EOF for a conversation
// cut short.
func (s *Stream) Read(p []byte) (int, error) {
	c := s.conn
	c.mu.Lock()
	if err := s.waitReadableLocked(len(p)); err != nil || len(p) == 0 {
		c.mu.Unlock()
		return 0, err
	}
	list, n := s.arrived.take(len(p))
	n += s.arrived.peel(p[n:])
	c.consumeLocked(s, n)
	c.mu.Unlock()

	for at := 0; list != nil; { // copied with nobody waiting for us
		k := list
		list = k.next
		at += copy(p[at:], k.buf[k.r:k.w])
		k.free()
	}
	return n, nil
}

// Quiet reports whether both directions are open, nothing has arrived that was
// not read, and the Conn has a lane: whether a stream that was put aside is as it
// was left, and good for more.
func (s *Stream) Quiet() bool {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil && c.living > 0 && s.writeErr == nil && s.readErr == nil && !s.finalKnown && s.arrived.size == 0
}

// WriteTo writes to w all that arrives, until the stream ends, without a
// buffer between. It is what io.Copy uses.
func (s *Stream) WriteTo(w io.Writer) (total int64, err error) {
	c := s.conn
	for {
		c.mu.Lock()
		if err := s.waitReadableLocked(1); err != nil {
			c.mu.Unlock()
			if err == io.EOF {
				err = nil
			}
			return total, err
		}
		k := s.arrived.pop()
		size := k.w - k.r
		c.consumeLocked(s, size)
		c.mu.Unlock()

		n, err := w.Write(k.buf[k.r:k.w])
		k.free()
		total += int64(n)
		if err == nil && n < size {
			err = io.ErrShortWrite
		}
		if err != nil {
			return total, err
		}
	}
}

// waitReadableLocked waits until there is something to read, if want is not
// zero, or returns why there is nothing.
func (s *Stream) waitReadableLocked(want int) error {
	for {
		switch {
		case s.readLimit.passed:
			return os.ErrDeadlineExceeded
		case s.arrived.size > 0:
			return nil
		case s.readErr != nil:
			return s.readErr
		case s.conn.err != nil:
			return s.conn.err
		case want == 0:
			return nil
		}
		s.readable.Wait()
	}
}

// Write sends p. It returns when the last byte is on its way to the net.Conn,
// and waits while the peer gives no credit or others are before us. After a
// reset it gives a *StreamError, also when it was waiting.
func (s *Stream) Write(p []byte) (int, error) {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := s.writeErrLocked(); err != nil {
		return 0, err
	}
	n := c.sendNowLocked(s, p)
	if n == len(p) {
		return n, nil
	}
	s.pending = p[n:]
	c.queueLocked(s)
	var err error
	for len(s.pending) > 0 {
		if err = s.writeErrLocked(); err != nil {
			break
		}
		s.writable.Wait()
	}
	n = len(p) - len(s.pending)
	s.pending = nil
	c.unqueueLocked(s)
	return n, err
}

func (s *Stream) writeErrLocked() error {
	switch {
	case s.writeLimit.passed:
		return os.ErrDeadlineExceeded
	case s.writeErr != nil:
		return s.writeErr
	}
	return s.conn.err
}

// ReadFrom writes all that r gives, until io.EOF. Its buffer is small until r
// shows that it has much. It is what io.Copy uses.
func (s *Stream) ReadFrom(r io.Reader) (total int64, err error) {
	const small, big = 4 << 10, 2 * maxPayload
	size := small
	for err == nil {
		k := newChunk(size)
		var n int
		n, err = r.Read(k.buf)
		if n > 0 {
			m, failed := s.Write(k.buf[:n])
			total += int64(m)
			if failed != nil {
				err = failed
			}
		}
		k.free()
		switch {
		case n == size:
			size = big
		case n < small:
			size = small
		}
	}
	if err == io.EOF {
		err = nil
	}
	return total, err
}

// CloseWrite ends our direction. All that was written arrives, followed by
// io.EOF; what the peer sends can still be read. A Write that is waiting in
// another goroutine is cut short.
func (s *Stream) CloseWrite() error {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.writeErr != nil {
		if s.writeErr == errWriteClosed {
			return nil
		}
		return s.writeErr
	}
	if c.err != nil {
		return c.err
	}
	s.endWriteLocked(errWriteClosed)
	return nil
}

// endWriteLocked sends the end of our direction. Writes give err from now on.
func (s *Stream) endWriteLocked(err error) {
	s.writeErr = err
	s.writable.Broadcast()
	s.conn.unqueueLocked(s)
	s.conn.sendEndLocked(s)
	s.conn.settleLocked(s)
}

// Close ends the stream. All that was written arrives, followed by io.EOF.
// What was not read is thrown away, and a peer that is still writing is told
// to stop: its Write gives a *StreamError of CodeNone. Close never waits, and
// calling it again is harmless.
func (s *Stream) Close() error {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.writeErr == nil && c.err == nil {
		s.endWriteLocked(errStreamClosed)
	}
	s.stopReadLocked(CodeNone, errStreamClosed)
	s.readLimit.stop()
	s.writeLimit.stop()
	return nil
}

// Reset cuts both directions at once. The peer's Write gives a *StreamError
// with the code, also one that is waiting, and so does its Read when it has
// read what arrived.
func (s *Stream) Reset(code Code) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.resetLocked(code)
}

func (s *Stream) resetLocked(code Code) {
	err := &StreamError{Code: code}
	s.cutWriteLocked(code, err)
	s.stopReadLocked(code, err)
}

// cutWriteLocked resets our direction, unless its end is on its way already.
func (s *Stream) cutWriteLocked(code Code, err error) {
	if s.writeErr == nil {
		s.writeErr = err
	}
	s.writable.Broadcast()
	s.conn.unqueueLocked(s)
	if s.sendDone || s.conn.err != nil {
		return
	}
	s.sendDone, s.announced = true, true
	s.conn.orderedLocked(s, frame{kind: frameReset, stream: s.id, value: uint64(code), offset: s.sent})
	s.conn.settleLocked(s)
}

// stopReadLocked throws away what arrived and what will arrive, and tells the
// peer that there is no use in sending more. Reads give err from now on.
func (s *Stream) stopReadLocked(code Code, err error) {
	c := s.conn
	s.readErr = err
	s.readable.Broadcast()
	s.discardLocked()
	if s.finalKnown || s.deaf || c.err != nil {
		return
	}
	s.deaf, s.announced = true, true
	c.controlLocked(frame{kind: frameStop, stream: s.id, value: uint64(code)})
}

// discardLocked throws away what nobody will read, and returns its credit.
func (s *Stream) discardLocked() {
	if n := s.arrived.drop(); n > 0 {
		s.conn.consumeLocked(s, n)
	}
}

// LocalAddr is that of the oldest lane of the Conn.
func (s *Stream) LocalAddr() net.Addr { return s.conn.mainConn().LocalAddr() }

// RemoteAddr is that of the oldest lane of the Conn.
func (s *Stream) RemoteAddr() net.Addr { return s.conn.mainConn().RemoteAddr() }

// SetDeadline sets both deadlines. See net.Conn.
func (s *Stream) SetDeadline(t time.Time) error {
	s.SetReadDeadline(t)
	return s.SetWriteDeadline(t)
}

// SetReadDeadline makes Read give os.ErrDeadlineExceeded from t on, also a
// Read that is waiting. The zero time takes the deadline away.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.setLimit(&s.readLimit, &s.readable, t)
	return nil
}

// SetWriteDeadline is SetReadDeadline for Write. A Write that was cut short
// says how much it sent.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.setLimit(&s.writeLimit, &s.writable, t)
	return nil
}

// A deadline is a moment after which an operation must not wait.
type deadline struct {
	timer  *time.Timer
	passed bool
	number int // of the deadlines that were set; an earlier one's timer is stale
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.number++
	d.passed = false
}

func (s *Stream) setLimit(d *deadline, waiting *sync.Cond, t time.Time) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	d.stop()
	wait := time.Until(t)
	if d.passed = !t.IsZero() && wait <= 0; d.passed {
		waiting.Broadcast()
		return
	}
	if t.IsZero() {
		return
	}
	number := d.number
	d.timer = time.AfterFunc(wait, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if d.number == number {
			d.passed = true
			waiting.Broadcast()
		}
	})
}
