package edge

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvertd/culvert/internal/router"
)

// Why a visit was ended for silence.
var (
	errVisitorSilent = errors.New("visitor stopped sending")
	errServiceSilent = errors.New("nothing moved either way")
	errVisitEnded    = errors.New("visit ended")
)

// longAgo is a deadline that ends a Read or Write now.
var longAgo = time.Unix(1, 0)

// A visit is one request and its answer. To ReverseProxy it is the
// ResponseWriter of the visitor.
type visit struct {
	id    string // in X-Request-Id and in the logs of both sides
	from  origin
	began time.Time

	// What follows is set by forward and watch.
	host    string
	route   router.Route // changes only before the request is sent
	w       http.ResponseWriter
	control *http.ResponseController
	parent  context.Context // ends when the visitor leaves
	request *http.Request   // the visitor's, with a context that ends sooner
	body    requestBody
	cancel  context.CancelCauseFunc
	status  int   // of the answer; 0 while there is none
	err     error // why the service has not given it

	stream  atomic.Pointer[stream] // that carries the request; nil while none does
	interim atomic.Int32           // 1xx answers so far
	broken  atomic.Bool            // one side will not have the rest of what the other sends

	idle  time.Duration
	last  atomic.Int64 // when a byte moved, in nanoseconds since began
	sent  atomic.Bool  // the whole request has left
	heard atomic.Bool  // the head of the answer has come

	mu      sync.Mutex // guards the fields below, and that deadlines are set only before ended
	timer   *time.Timer
	ended   bool
	stopped bool // reading the body was stopped
	left    bool // the visitor had left by then
}

func newVisitID() string { return strings.ToLower(rand.Text()[:16]) } // 80 bits

type visitKey struct{}

// visitOf finds the visit in the context of a request on its way through
// ReverseProxy and Transport, which leave no other way to pass it on.
func visitOf(ctx context.Context) *visit { return ctx.Value(visitKey{}).(*visit) }

// watch prepares the visit for being forwarded. Idle is how long both sides
// may be silent; 0 means for ever.
func (v *visit) watch(w http.ResponseWriter, r *http.Request, idle time.Duration) {
	v.w, v.control = w, http.NewResponseController(w)
	v.parent = r.Context()
	ctx := context.WithValue(v.parent, visitKey{}, v)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(c httptrace.GotConnInfo) {
			s := c.Conn.(*stream)
			s.user.Store(v)
			v.stream.Store(s)
		},
		WroteRequest: func(i httptrace.WroteRequestInfo) { v.sent.Store(i.Err == nil) },
		Got1xxResponse: func(int, textproto.MIMEHeader) error {
			if v.interim.Add(1) > maxInterim {
				return errors.New("too many 1xx answers")
			}
			v.alive()
			return nil
		},
	})
	ctx, v.cancel = context.WithCancelCause(ctx)
	v.request = r.WithContext(ctx)
	if r.Body != http.NoBody {
		v.body.v, v.body.from = v, r.Body
		v.request.Body = &v.body
	}
	if v.idle = idle; idle > 0 {
		v.mu.Lock()
		v.timer = time.AfterFunc(idle, v.checkSilence)
		v.mu.Unlock()
	}
}

// end says that the handler is about to return: nothing of the visitor's
// connection may be touched any more.
func (v *visit) end() {
	v.stopWatching(true)
	if v.status == http.StatusSwitchingProtocols && !v.broken.Load() && v.parent.Err() == nil {
		v.stream.Load().release(v) // both directions have come to their ends
	}
	v.cancel(errVisitEnded)
}

func (v *visit) stopWatching(ended bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ended = v.ended || ended
	if v.timer != nil {
		v.timer.Stop()
		v.timer = nil
	}
}

func (v *visit) alive() { v.last.Store(int64(time.Since(v.began))) }

// checkSilence ends the visit if both sides have been silent for too long. An
// answer that has not begun is the Transport's to wait for, once the request
// is sent.
func (v *visit) checkSilence() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.timer == nil {
		return
	}
	quiet := time.Since(v.began) - time.Duration(v.last.Load())
	switch {
	case v.sent.Load() && !v.heard.Load():
		v.timer.Reset(v.idle)
	case quiet < v.idle:
		v.timer.Reset(v.idle - quiet)
	case v.body.reading.Load() && !v.heard.Load():
		v.cancel(errVisitorSilent)
	default:
		if v.heard.Load() {
			v.control.SetWriteDeadline(longAgo) // the handler may be waiting for a visitor who reads nothing
		}
		v.cancel(errServiceSilent)
	}
}

// answered takes note of the head of the service's answer.
func (v *visit) answered(res *http.Response) {
	v.alive()
	v.heard.Store(true)
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols: // its body is the stream
	case res.Body == http.NoBody:
		v.stream.Load().release(v)
	default:
		res.Body = &answerBody{res.Body, res, v}
	}
}

// abandoned reports whether the stream that carries the visit holds something
// that will never be complete.
func (v *visit) abandoned() bool {
	return v.broken.Load() || v.request.Context().Err() != nil || v.body.unfinished()
}

// Header is part of http.ResponseWriter.
func (v *visit) Header() http.Header { return v.w.Header() }

// WriteHeader is part of http.ResponseWriter. It passes 1xx on, except 100,
// which the server says by itself as soon as the body is read; and nobody reads
// it before the service has asked for it, or has been silent for continueAfter.
func (v *visit) WriteHeader(status int) {
	h := v.w.Header()
	if status == http.StatusContinue {
		return
	}
	if status < 200 && status != http.StatusSwitchingProtocols {
		cleanAnswer(h)
		for _, key := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade"} {
			delete(h, key)
		}
		v.w.WriteHeader(status)
		return
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // or net/http would guess one
	}
	v.status = status
	v.heard.Store(true)
	v.w.WriteHeader(status)
}

// Write is part of http.ResponseWriter.
func (v *visit) Write(p []byte) (int, error) {
	n, err := v.w.Write(p)
	if n > 0 {
		v.alive()
	}
	if err != nil {
		v.broken.Store(true)
	}
	return n, err
}

// Unwrap lets http.ResponseController flush.
func (v *visit) Unwrap() http.ResponseWriter { return v.w }

// Hijack is called when the service has agreed to another protocol. From then
// on silence is nobody's business but theirs.
func (v *visit) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := v.control.Hijack()
	if err != nil {
		return nil, nil, err
	}
	v.status = http.StatusSwitchingProtocols
	v.stopWatching(false)
	return &upgradedConn{c, rw.Reader, v}, rw, nil
}

// A requestBody is what the visitor sends. The Transport reads it in a
// goroutine that may be stuck in Read when nobody wants the rest any more.
type requestBody struct {
	v       *visit
	from    io.ReadCloser // nil if the request has no body
	reading atomic.Bool
	done    atomic.Bool // EOF was read
	failed  atomic.Bool // the visitor broke it off, or broke its form
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.reading.Store(true)
	defer b.reading.Store(false)
	if b.v.isStopped() {
		return 0, errVisitEnded
	}
	n, err := b.from.Read(p)
	if n > 0 {
		b.v.alive()
	}
	switch {
	case err == io.EOF:
		// Trailers that nobody announced arrive with the others.
		dropEdgeOwned(b.v.request.Trailer)
		b.done.Store(true)
	case err != nil && !b.v.isStopped():
		b.failed.Store(true)
	}
	return n, err
}

// Close does nothing: the body is the server's to close, after the handler.
func (b *requestBody) Close() error { return nil }

func (b *requestBody) unfinished() bool { return b.from != nil && !b.done.Load() }

func (v *visit) isStopped() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.stopped || v.ended
}

// stopReading makes a Read of the body that is under way return, and those
// after it fail.
func (v *visit) stopReading() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.stopped || v.ended {
		return
	}
	// To net/http, a Read that we stop looks like a visitor who leaves.
	v.stopped, v.left = true, v.parent.Err() != nil
	if v.body.reading.Load() {
		v.control.SetReadDeadline(longAgo)
	}
}

// hasLeft reports whether the visitor has left, or the edge is being closed:
// nobody waits for an answer any more.
func (v *visit) hasLeft() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.stopped {
		return v.left
	}
	return v.parent.Err() != nil
}

// An answerBody is the body of the service's answer.
type answerBody struct {
	io.ReadCloser
	res *http.Response
	v   *visit
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.v.alive()
	}
	if err == io.EOF {
		cleanAnswer(b.res.Trailer)
		b.v.stream.Load().release(b.v)
	}
	return n, err
}

func (b *answerBody) Close() error {
	if s := b.v.stream.Load(); s.user.Load() == b.v {
		b.v.broken.Store(true) // before EOF: somebody gave up
	}
	return b.ReadCloser.Close()
}

// An upgradedConn is the visitor's connection once it speaks another protocol.
type upgradedConn struct {
	net.Conn
	early *bufio.Reader // may hold what the visitor sent before he was answered
	v     *visit
}

func (c *upgradedConn) Read(p []byte) (int, error) {
	if n := c.early.Buffered(); n > 0 {
		return c.early.Read(p[:min(n, len(p))])
	}
	n, err := c.Conn.Read(p)
	if err != nil && err != io.EOF {
		c.v.broken.Store(true)
	}
	return n, err
}

func (c *upgradedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		c.v.broken.Store(true)
	}
	return n, err
}

func (c *upgradedConn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	err := half.CloseWrite()
	if err != nil {
		c.v.broken.Store(true)
	}
	return err
}

// Close ends the connection in a way that tells the visitor whether the
// service ended the conversation or was cut off.
func (c *upgradedConn) Close() error {
	if err := c.v.stream.Load().brokenBy(); err != nil && err != io.EOF || c.v.parent.Err() != nil {
		if vc, ok := c.Conn.(interface{ http1() *visitorConn }); ok {
			vc.http1().abort()
			return nil
		}
	}
	return c.Conn.Close()
}
