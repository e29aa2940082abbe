package memnet

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// segment is the most that travels as one: a long write leaves piecemeal, as
// it does from a network card.
const segment = 4 << 10

// ErrBroken is what both ends of a conn see after Break.
var ErrBroken = errors.New("memnet: connection reset")

// A Conn is one end of a connection: a net.Conn with CloseWrite, Break and
// Silence. Whoever holds it closes it. Its methods may be called at once from
// many goroutines.
type Conn struct {
	in, out       *half
	local, remote string
}

// Read reads what has arrived. After the peer's CloseWrite it gives io.EOF.
func (c *Conn) Read(p []byte) (int, error) { return c.in.read(p) }

// Write gives p to the link and waits while the socket buffer is full.
func (c *Conn) Write(p []byte) (int, error) { return c.out.write(p) }

// CloseWrite ends our direction: what was written still arrives, then EOF.
func (c *Conn) CloseWrite() error { return c.out.finish(io.EOF) }

// Close ends our direction, and throws away what still comes from the other.
func (c *Conn) Close() error {
	c.out.finish(io.EOF)
	c.out.abandon(net.ErrClosed)
	c.in.closeReader()
	return nil
}

// Break resets the connection: what is under way is lost, and both ends fail
// with ErrBroken.
func (c *Conn) Break() {
	c.in.fail(ErrBroken)
	c.out.fail(ErrBroken)
}

// Silence makes the link swallow everything from now on, both ways, without a
// word to anybody: a pulled cable.
func (c *Conn) Silence() {
	c.in.silence()
	c.out.silence()
}

func (c *Conn) LocalAddr() net.Addr  { return Addr(c.local) }
func (c *Conn) RemoteAddr() net.Addr { return Addr(c.remote) }

func (c *Conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.in.setDeadline(&c.in.readDeadline, t)
}

func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.out.setDeadline(&c.out.writeDeadline, t)
}

// piece is a run of bytes under way.
type piece struct {
	left time.Time // when the last of it left the sender's buffer
	due  time.Time // when the reader may see it
	data []byte
}

// half is one direction.
type half struct {
	link Link

	mu            sync.Mutex // guards the fields below
	changed       sync.Cond
	pieces        []piece
	free          time.Time // when the link will have sent all it was given
	end           error     // what the reader gets when the pieces are read
	writeErr      error
	silent        bool
	deaf          bool // nobody reads any more
	readDeadline  deadline
	writeDeadline deadline
	alarm         *time.Timer // for the next moment at which something changes
}

type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func newHalf(l Link) *half {
	if l.Buffer == 0 {
		l.Buffer = 64 << 10
	}
	h := &half{link: l}
	h.changed.L = &h.mu
	return h
}

func (h *half) write(p []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.writeDeadline.passed():
			return n, os.ErrDeadlineExceeded
		case h.writeErr != nil:
			return n, h.writeErr
		case h.deaf:
			return n, syscall.EPIPE
		case len(p) == 0:
			return n, nil
		}
		room := h.link.Buffer - h.waitingLocked()
		if room <= 0 {
			h.changed.Wait()
			continue
		}
		part := p[:min(len(p), room, segment)]
		p, n = p[len(part):], n+len(part)
		now := time.Now()
		left := now
		if h.link.Rate > 0 {
			if h.free.Before(now) {
				h.free = now
			}
			h.free = h.free.Add(time.Duration(len(part)) * time.Second / time.Duration(h.link.Rate))
			left = h.free
		}
		h.pieces = append(h.pieces, piece{left, left.Add(h.link.Delay), append([]byte(nil), part...)})
		h.changed.Broadcast()
	}
}

// waitingLocked counts the bytes in the sender's buffer. Without a rate, that
// is whatever the reader has not taken; with one, what the link has not sent.
// A silent link sends nothing.
func (h *half) waitingLocked() (n int) {
	now := time.Now()
	for i := range h.pieces {
		p := &h.pieces[i]
		if h.link.Rate == 0 || h.silent || p.left.After(now) {
			n += len(p.data)
		}
	}
	if h.link.Rate > 0 && n > 0 && !h.silent {
		for i := range h.pieces {
			if h.pieces[i].left.After(now) {
				h.wakeAtLocked(h.pieces[i].left)
				break
			}
		}
	}
	return n
}

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.readDeadline.passed():
			return 0, os.ErrDeadlineExceeded
		case h.deaf:
			return 0, net.ErrClosed
		case h.silent:
		case len(h.pieces) > 0 && !h.pieces[0].due.After(time.Now()):
			n := copy(p, h.pieces[0].data)
			if h.pieces[0].data = h.pieces[0].data[n:]; len(h.pieces[0].data) == 0 {
				h.pieces = h.pieces[1:]
			}
			h.changed.Broadcast()
			return n, nil
		case len(h.pieces) > 0:
			h.wakeAtLocked(h.pieces[0].due)
		case h.end != nil:
			return 0, h.end
		}
		if len(p) == 0 {
			return 0, nil
		}
		h.changed.Wait()
	}
}

// wakeAtLocked makes those who wait look again at t, or before.
func (h *half) wakeAtLocked(t time.Time) {
	if h.alarm != nil {
		h.alarm.Stop()
	}
	h.alarm = time.AfterFunc(time.Until(t), h.wake)
}

func (h *half) wake() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changed.Broadcast()
}

func (h *half) setDeadline(d *deadline, t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.at = t
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), h.wake)
	}
	h.changed.Broadcast()
	return nil
}

func (h *half) finish(err error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.end == nil {
		h.end = err
	}
	if h.writeErr == nil {
		h.writeErr = syscall.EPIPE
	}
	h.changed.Broadcast()
	return nil
}

func (h *half) abandon(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writeErr = err
	h.changed.Broadcast()
}

func (h *half) closeReader() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deaf, h.pieces = true, nil
	for _, t := range []*time.Timer{h.alarm, h.readDeadline.timer, h.writeDeadline.timer} {
		if t != nil {
			t.Stop()
		}
	}
	h.changed.Broadcast()
}

func (h *half) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pieces, h.end, h.writeErr = nil, err, err
	h.changed.Broadcast()
}

func (h *half) silence() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.silent = true
	h.changed.Broadcast()
}
