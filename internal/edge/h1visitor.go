package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvertd/culvert/internal/h1"
)

const (
	// leftover is how long we listen to a visitor who is still sending when he
	// has his answer, so that the answer is not lost to a reset.
	leftover = 2 * time.Second

	// maxLeftover is how much of a body that nobody wants is read so that the
	// connection can go on.
	maxLeftover = 256 << 10
)

// longAgo is a deadline that ends a Read or Write now.
var longAgo = time.Unix(1, 0)

// Why a Read was interrupted.
var (
	errDrowsy  = errors.New("nothing for a moment")
	errIdle    = errors.New("nothing for too long")
	errLate    = errors.New("too late")
	errStopped = errors.New("nobody wants the rest")
	errPeeked  = errors.New("somebody else wants to read")
)

// forIdle reports whether only who waits for a request is interrupted.
func forIdle(why error) bool { return why == errDrowsy || why == errIdle }

// An h1Visitor is a visitor's connection that speaks HTTP/1.1. One goroutine
// serves it; others come to it only through interrupt, late and cut.
type h1Visitor struct {
	door   *door
	conn   net.Conn // what HTTP is spoken over
	raw    net.Conn // the socket under it; the same without TLS
	place  *place   // among visitors
	reader *h1.Reader
	req    h1.Request
	visit  visit
	watch  watch

	// Of the answer.
	out       *buffer // what has not left yet; nil for nothing
	chunked   bool
	headless  bool // the answer to a HEAD, or another without content
	begun     bool
	last      bool // no request follows on this connection
	continued bool // the visitor was told to send the body
	taken     bool // the connection is somebody else's

	idle  atomic.Bool // waiting for a request: it may be interrupted
	asker *asker      // until it is known that no more requests will come

	mu      sync.Mutex // guards the fields below, and the read deadline
	why     error      // of the interruption
	peeking chan struct{}
	sent    bool // the request was read to its end, and nobody reads
}

func newH1Visitor(d *door, raw, conn net.Conn) *h1Visitor {
	c := &h1Visitor{door: d, conn: conn, raw: raw}
	c.reader = h1.NewReader(readerFunc(c.read))
	c.reader.MaxHead = d.edge.maxHead()
	c.watch.owner, c.watch.taken = c, taken(raw)
	v := &c.visit
	v.door, v.visitor, v.watch, v.req, v.plain = d, c, &c.watch, &c.req, true
	if t, ok := conn.(*tls.Conn); ok {
		v.plain = false
		v.sni = canonicalSNI(t.ConnectionState().ServerName)
	}
	v.peer = originAt(addrPort(raw.RemoteAddr()), v.plain)
	return c
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// serve serves the connection until it ends, and closes it.
func (c *h1Visitor) serve() {
	c.watch.turnTo(phaseHead) // the first head counts from the handshake
	c.door.watchman.add(&c.watch)
	defer c.close()
	defer c.door.contain(&c.visit, c.abort)
	for c.next1() {
	}
}

// next1 serves one request, and reports whether another may follow.
func (c *h1Visitor) next1() bool {
	if err := c.readHead(); err != nil {
		c.refuseHead(err)
		return false
	}
	c.watch.turnTo(phaseSending)
	c.begun, c.continued = false, false
	c.last = c.req.Close || c.door.leaving.Load() || c.door.once
	c.setSent(c.req.Length == 0)
	c.visit.open()
	c.door.serve(&c.visit)
	c.visit.finish()
	if c.taken {
		return false
	}
	c.stopPeeking()
	c.calm(errStopped)
	c.flush()
	if !c.reader.Done() && (c.last || !c.drain()) {
		return false
	}
	if c.last {
		return false
	}
	c.watch.turnTo(phaseIdle)
	return true
}

// readHead waits for the next request and reads its head. While nothing comes
// for long, no memory is held for it.
func (c *h1Visitor) readHead() error {
	if len(c.reader.Buffered()) > 0 {
		c.watch.turnTo(phaseHead)
	}
	for wait := false; ; {
		c.idle.Store(len(c.reader.Buffered()) == 0)
		var err error
		if wait {
			c.req.Clear()
			err = c.reader.Wait()
		} else {
			err = c.reader.ReadRequest(&c.req)
		}
		c.idle.Store(false)
		switch {
		case errors.Is(err, errDrowsy):
			wait = true
		case err != nil || !wait:
			return err
		default:
			wait = false
		}
	}
}

// read is what the reader reads from.
func (c *h1Visitor) read(p []byte) (int, error) {
	for {
		n, err := c.conn.Read(p)
		if n > 0 {
			if c.idle.Load() { // this is where a head begins
				c.idle.Store(false)
				c.watch.advance(phaseIdle, phaseHead)
			}
			return n, nil
		}
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, err
		}
		if why := c.interrupted(); why != nil && (!forIdle(why) || c.idle.Load()) {
			return 0, why
		}
	}
}

// interrupt makes the Read under way, or the next, return why.
func (c *h1Visitor) interrupt(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.interruptLocked(why)
}

func (c *h1Visitor) interruptLocked(why error) {
	if c.why == errLate || c.why != nil && forIdle(why) {
		return // that is for good, and this for nobody who is busy
	}
	c.why = why
	c.conn.SetReadDeadline(longAgo)
}

// interrupted returns why, once; but being late does not pass.
func (c *h1Visitor) interrupted() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	why := c.why
	if why != errLate {
		c.why = nil
		c.conn.SetReadDeadline(time.Time{})
	}
	return why
}

// late is what the watchman has found out.
func (c *h1Visitor) late(what lateness, turn uint32) {
	switch what {
	case lateDrowsy:
		c.interrupt(errDrowsy)
	case lateIdle:
		c.interrupt(errIdle)
	case lateHead:
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.watch.turn.Load() == turn {
			c.interruptLocked(errLate)
		}
	case lateLasting:
		c.peek(turn)
	case lateClosed:
		c.cut()
	default:
		c.visit.late(what, turn)
	}
}

// peek finds out, from now on, whether the visitor leaves before he has his
// answer.
func (c *h1Visitor) peek(turn uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watch.turn.Load() != turn || !c.sent || c.peeking != nil {
		return
	}
	done := make(chan struct{})
	c.peeking = done
	go func() {
		defer close(done)
		defer c.door.contain(&c.visit, c.abort)
		err := c.reader.Peek()
		if t, ok := c.conn.(*tls.Conn); ok && err == io.EOF {
			// He has said all that he has to say, which is not to leave. Below
			// TLS, the end is another.
			for {
				if _, err = t.NetConn().Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
					break
				}
				if why := c.interrupted(); why != nil && !forIdle(why) {
					return
				}
			}
		}
		if err != nil && !errors.Is(err, errPeeked) && !errors.Is(err, errLate) {
			c.visit.stop(errVisitorLeft)
		}
	}()
}

// setSent says whether the request was read to its end: whether nobody reads.
func (c *h1Visitor) setSent(sent bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent = sent
}

func (c *h1Visitor) hasSent() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent
}

// stopPeeking returns when nobody but the caller reads.
func (c *h1Visitor) stopPeeking() {
	c.mu.Lock()
	c.sent = false
	peeking := c.peeking
	if peeking != nil {
		c.interruptLocked(errPeeked)
	}
	c.mu.Unlock()
	if peeking == nil {
		return
	}
	<-peeking
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peeking = nil
	c.calmLocked(errPeeked)
}

// calm takes an interruption back that nobody has noticed.
func (c *h1Visitor) calm(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calmLocked(why)
}

func (c *h1Visitor) calmLocked(why error) {
	if c.why == why {
		c.why = nil
		c.conn.SetReadDeadline(time.Time{})
	}
}

// refuseHead answers a request that could not be read, if it was one.
func (c *h1Visitor) refuseHead(err error) {
	if e, ok := errors.AsType[*h1.Error](err); ok {
		c.refuseOwn(badRequest.as(e.Status), err)
		return
	}
	if errors.Is(err, errLate) && len(c.reader.Buffered()) > 0 {
		c.refuseOwn(tooSlow, err)
	}
}

// refuseOwn answers before there is a request.
func (c *h1Visitor) refuseOwn(f refusal, err error) {
	c.req.Clear()
	c.begun, c.last = false, true
	c.visit.open()
	c.door.refuse(&c.visit, f, err)
	c.flush()
	c.linger()
}

// drain reads what is left of a body that nobody wants, so that the connection
// can go on; it reports whether that was possible.
func (c *h1Visitor) drain() bool {
	if c.req.ExpectContinue && !c.continued {
		return false // he may not send it, and then what comes is a request
	}
	c.watch.turnTo(phaseFree)
	c.mu.Lock()
	c.why = errLate // from then on
	c.conn.SetReadDeadline(time.Now().Add(leftover))
	c.mu.Unlock()
	for n := 0; n < maxLeftover; {
		b, err := c.reader.Next()
		if err == io.EOF {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.calmLocked(errLate)
			return true
		}
		if err != nil {
			return false
		}
		n += len(b)
	}
	return false
}

// close ends the connection. Closing a socket while the visitor is sending
// resets it, and with it goes what he has not read of our answer (RFC 9112,
// section 9.6).
func (c *h1Visitor) close() {
	if !c.taken {
		if c.begun && !c.reader.Done() || len(c.reader.Buffered()) > 0 {
			c.linger()
		}
		c.conn.Close()
	}
	c.door.watchman.remove(&c.watch)
	c.stopPeeking()
	c.reader.Release()
	if c.out != nil {
		c.out.free()
		c.out = nil
	}
}

// linger says that we have finished, and listens for a while.
func (c *h1Visitor) linger() {
	c.stopPeeking()
	if c.door.ctx.Err() != nil {
		return
	}
	defer context.AfterFunc(c.door.ctx, func() { c.raw.Close() })()
	c.watch.turnTo(phaseFree)
	c.raw.SetDeadline(time.Now().Add(leftover))
	closeWrite(c.conn)
	closeWrite(c.raw) // TLS has ended only itself
	io.Copy(io.Discard, c.raw)
	c.raw.Close()
}

func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// cut ends the connection now, and what it carries.
func (c *h1Visitor) cut() {
	c.visit.stop(errClosed)
	c.abort()
}

// abort closes the connection so that it cannot be taken for a clean end: with
// a reset, since many do not look for the closing alert of TLS.
func (c *h1Visitor) abort() {
	if l, ok := c.raw.(interface{ SetLinger(int) error }); ok {
		l.SetLinger(0)
	}
	c.raw.Close()
}

// errPanicked is the cause of a visit that ended by a bug of ours.
var errPanicked = errors.New("BUG: panic")

// contain keeps a panic from becoming everybody's: it ends one visit.
func (d *door) contain(v *visit, end func()) {
	if p := recover(); p != nil {
		d.log.Error("visit panicked", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
		v.stop(errPanicked)
		end()
	}
}
