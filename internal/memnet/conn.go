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

// A Conn is one end of a connection: a net.Conn with CloseWrite, Break,
// Silence and Pause. Whoever holds it closes it. Its methods may be called at once from
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

// Quiet reports whether both directions are open and there is nothing to read.
func (c *Conn) Quiet() bool { return c.in.quiet() && c.out.open() }

// Silence makes the link swallow everything from now on, both ways, without a
// word to anybody: a pulled cable.
func (c *Conn) Silence() {
	c.in.silence()
	c.out.silence()
}

// Pause makes the link hold everything back for d, both ways, and then go on: a
// road under water, or a machine that has no time for us.
func (c *Conn) Pause(d time.Duration) {
	c.in.pause(d)
	c.out.pause(d)
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
	readable      sync.Cond
	writable      sync.Cond
	pieces        []piece   // in the order in which they were written
	leaving       int       // pieces[leaving:] are still in the sender's buffer,
	waiting       int       // which holds so many bytes
	free          time.Time // when the link will have sent all it was given
	end           error     // what the reader gets when the pieces are read
	writeErr      error
	silent        bool
	paused        time.Time // until then nothing arrives
	deaf          bool      // nobody reads any more
	readDeadline  deadline
	writeDeadline deadline
	readAlarm     *time.Timer // for the next moment at which there is something to read
	writeAlarm    *time.Timer // and for the next at which there is room
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
	h.readable.L, h.writable.L = &h.mu, &h.mu
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
		h.departLocked()
		room := h.link.Buffer - h.waiting
		if room < min(len(p), segment, h.link.Buffer) { // crumbs would stay crumbs for ever
			if h.link.Rate > 0 && !h.silent {
				wakeAt(&h.writeAlarm, h.pieces[h.leaving].left, h.wakeWriters)
			}
			h.writable.Wait()
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
		h.waiting += len(part)
		if len(h.pieces) == 1 {
			h.readable.Broadcast()
		}
	}
}

// departLocked notes what has left the sender's buffer. Without a rate, that
// is what the reader has taken; with one, what the link has had time to send.
// A silent link sends nothing.
func (h *half) departLocked() {
	if h.link.Rate == 0 || h.silent {
		return
	}
	for now := time.Now(); h.leaving < len(h.pieces) && !h.pieces[h.leaving].left.After(now); h.leaving++ {
		h.waiting -= len(h.pieces[h.leaving].data)
	}
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
		case h.paused.After(time.Now()):
			wakeAt(&h.readAlarm, h.paused, h.wakeReaders)
		case len(h.pieces) > 0 && !h.pieces[0].due.After(time.Now()):
			h.departLocked()
			n := copy(p, h.pieces[0].data)
			if h.link.Rate == 0 {
				h.waiting -= n
				h.writable.Broadcast()
			}
			if h.pieces[0].data = h.pieces[0].data[n:]; len(h.pieces[0].data) == 0 {
				h.pieces = h.pieces[1:]
				h.leaving = max(0, h.leaving-1)
			}
			return n, nil
		case len(h.pieces) > 0:
			wakeAt(&h.readAlarm, h.pieces[0].due, h.wakeReaders)
		case h.end != nil:
			return 0, h.end
		}
		if len(p) == 0 {
			return 0, nil
		}
		h.readable.Wait()
	}
}

// quiet reports whether nothing has been written that was not read, and more
// may come.
func (h *half) quiet() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.pieces) == 0 && h.end == nil && !h.deaf
}

// open reports whether something may be written.
func (h *half) open() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.writeErr == nil && !h.deaf
}

// wakeAt makes f run at t, and no more when it was to run before.
func wakeAt(alarm **time.Timer, t time.Time, f func()) {
	if *alarm != nil {
		(*alarm).Stop()
	}
	*alarm = time.AfterFunc(time.Until(t), f)
}

func (h *half) wakeReaders() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.readable.Broadcast()
}

func (h *half) wakeWriters() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writable.Broadcast()
}

// wake makes everybody look again.
func (h *half) wake() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wakeLocked()
}

func (h *half) wakeLocked() {
	h.readable.Broadcast()
	h.writable.Broadcast()
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
	h.wakeLocked()
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
	h.wakeLocked()
	return nil
}

func (h *half) abandon(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writeErr = err
	h.wakeLocked()
}

func (h *half) closeReader() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deaf, h.pieces, h.leaving, h.waiting = true, nil, 0, 0
	for _, t := range []*time.Timer{h.readAlarm, h.writeAlarm, h.readDeadline.timer, h.writeDeadline.timer} {
		if t != nil {
			t.Stop()
		}
	}
	h.wakeLocked()
}

func (h *half) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pieces, h.leaving, h.waiting = nil, 0, 0
	h.end, h.writeErr = err, err
	h.wakeLocked()
}

func (h *half) pause(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.paused = time.Now().Add(d)
	h.wakeLocked()
}

func (h *half) silence() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.silent = true
	h.wakeLocked()
}
