// Package relay joins two conns until both directions have ended.
//
// The end of one direction is passed on as a half-close, so that whoever has
// finished asking can still hear the answer. A direction that breaks breaks the
// pair, and breaks it loudly: neither side may take a cut-off body for a
// complete one. A relay is stopped by closing either conn. It sets no deadlines
// and knows nothing of what it carries.
package relay

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"time"
)

// A HalfCloser is a conn that can end its two directions one by one, as
// [net.TCPConn], [net.UnixConn], [tls.Conn] and a mux stream can.
type HalfCloser interface {
	net.Conn
	CloseWrite() error
}

// A Breaker is a conn that can tell its peer that it was broken, and did not
// just end. Break ends both directions at once; it may be called more than
// once, and together with Read and Write.
type Breaker interface {
	Break(err error)
}

// lastWords is how long we listen to a conn that takes nothing more from us.
const lastWords = 30 * time.Second

// Pipe copies from a to b and from b to a until both directions have ended, and
// returns how many bytes went each way and the first error; nil if both
// directions came to their end. Both conns are closed when it returns, and
// nothing that it started is left.
//
// A side that takes nothing more may still have something to say: a service
// that refuses an upload with 413 and hangs up. It is heard to its end, and
// only if that is not an orderly one, the pair is broken.
func Pipe(a, b HalfCloser) (aToB, bToA int64, err error) {
	p := pair{a: a, b: b}
	var wg sync.WaitGroup
	wg.Go(func() { bToA = p.oneWay(a, b) })
	aToB = p.oneWay(b, a)
	wg.Wait()
	a.Close()
	b.Close()
	return aToB, bToA, p.err
}

type pair struct {
	a, b HalfCloser

	mu    sync.Mutex // guards the fields below
	ended int        // directions that came to their end
	err   error      // the first
}

// oneWay has a name so that a goroutine dump can say it.
func (p *pair) oneWay(dst, src HalfCloser) (n int64) {
	defer func() {
		if v := recover(); v != nil { // one pair must not take the others with it
			p.broken(fmt.Errorf("BUG: panic: %v\n%s", v, debug.Stack()))
		}
	}()
	n, unread, unwritten := transfer(dst, src)
	if unread == nil && unwritten == nil {
		unwritten = dst.CloseWrite()
	}
	switch {
	case unread != nil:
		p.broken(unread)
	case unwritten != nil:
		p.refused(dst, unwritten)
	default:
		p.mu.Lock()
		p.ended++
		p.mu.Unlock()
	}
	return n
}

// broken ends both conns. What comes after the first error follows from it.
func (p *pair) broken(err error) {
	_, err = p.note(err)
	Sever(p.a, err)
	Sever(p.b, err)
}

// refused gives dst, which takes nothing more, the time for its last words. If
// it has said them already, all is said, and Pipe closes both in good order.
func (p *pair) refused(dst HalfCloser, err error) {
	if ended, _ := p.note(err); ended == 0 {
		dst.SetReadDeadline(time.Now().Add(lastWords))
	}
}

// note keeps err if it is the first, and returns how many directions came to
// their end before it, and the first.
func (p *pair) note(err error) (ended int, first error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	return p.ended, p.err
}

// Sever closes c in a way that its peer can tell from an orderly end, as far as
// c knows one: a [Breaker] is told err, TCP is reset, and a TLS conn is cut
// below TLS, without the close_notify that would vouch for what came before
// (RFC 8446, section 6.1).
func Sever(c io.Closer, err error) {
	switch c := c.(type) {
	case Breaker:
		c.Break(err)
	case *tls.Conn:
		Sever(c.NetConn(), err)
	case *net.TCPConn:
		c.SetLinger(0)
		c.Close()
	default:
		c.Close()
	}
}

// buffers are for copies that the kernel and the conns cannot do better.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// transfer is io.Copy with pooled buffers that says which side an error came
// from. Two sockets are left to the kernel (and an error is then the reader's,
// the safe guess), a conn of ours that copies by itself may; with one socket
// io.Copy's fast way would be to allocate a buffer.
func transfer(dst io.Writer, src io.Reader) (n int64, unread, unwritten error) {
	in, out := socket(src), socket(dst)
	if in && out {
		n, unread = io.Copy(dst, src)
		return n, unread, nil
	}
	r, w := &reader{src, nil}, &writer{dst, nil}
	var err error
	if from, ok := src.(io.WriterTo); ok && !in {
		n, err = from.WriteTo(w)
	} else if to, ok := dst.(io.ReaderFrom); ok && !out {
		n, err = to.ReadFrom(r)
		if r.err == nil {
			w.err = err
		}
	} else {
		buf := buffers.Get().(*[32 << 10]byte)
		defer buffers.Put(buf)
		n, err = io.CopyBuffer(w, r, buf[:])
	}
	if w.err != nil {
		return n, nil, w.err
	}
	return n, err, nil
}

// A reader is nothing but a reader, and remembers what went wrong.
type reader struct {
	io.Reader
	err error
}

func (r *reader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// A writer is nothing but a writer, and remembers what went wrong.
type writer struct {
	io.Writer
	err error
}

func (w *writer) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	if err != nil {
		w.err = err
	}
	return n, err
}

func socket(c any) bool {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}
