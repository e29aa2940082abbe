package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	_ "github.com/culvertd/culvert/internal/edge/xconnect"
	"github.com/culvertd/culvert/internal/h1"
)

// newH2Server serves visitors of HTTP/2 with the standard library, which knows
// all of it but what a request may be.
func newH2Server(d *door, s *Settings) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler:                      http.HandlerFunc(d.serveH2),
		DisableGeneralOptionsHandler: true, // OPTIONS * is for the service
		ReadHeaderTimeout:            s.headTimeout(),
		IdleTimeout:                  s.idleTimeout(),
		MaxHeaderBytes:               d.edge.maxHead(),
		Protocols:                    protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 250,
			SendPingTimeout:      time.Minute, // finds out about visitors that vanished
			WriteByteTimeout:     slowFor,     // and about those that take nothing
		},
		ConnState:   d.h2ConnState,
		BaseContext: func(net.Listener) context.Context { return d.ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, originAt(addrPort(c.RemoteAddr()), false))
		},
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
}

// An h2Visitor is one request of HTTP/2, and its answer.
type h2Visitor struct {
	w       http.ResponseWriter
	r       *http.Request
	control *http.ResponseController
	req     h1.Request
	visit   visit
	watch   watch
	aborted atomic.Bool
	key     []byte // of the WebSocket that an extended CONNECT asks for

	body    *buffer       // of next; nil until then
	stop    chan struct{} // closed when nobody wants the rest of it; nil without a body
	stopped sync.Once
}

type peerKey struct{}

// serveH2 is called by the standard library.
func (d *door) serveH2(w http.ResponseWriter, r *http.Request) {
	c := &h2Visitor{w: w, r: r, control: http.NewResponseController(w)}
	c.watch.owner = c
	c.watch.turnTo(phaseSending)
	v := &c.visit
	v.door, v.visitor, v.watch, v.req, v.h2 = d, c, &c.watch, &c.req, true
	v.peer = r.Context().Value(peerKey{}).(origin)
	v.open()
	d.watchman.add(&c.watch)
	defer c.close()
	defer d.contain(v, c.abort)
	if r.Context().Err() != nil { // and the watchman may have told all others
		v.stop(errVisitorLeft)
	}
	switch {
	case !c.translate():
		d.refuse(v, badRequest, errors.New("no equal in HTTP/1.1"))
	case len(r.Header["Expect"]) > 0: // 100-continue the standard library deals with
		d.refuse(v, badRequest.as(http.StatusExpectationFailed), errors.New("unknown expectation"))
	default:
		d.serve(v)
	}
}

// close lets go of everything that belongs to the standard library.
func (c *h2Visitor) close() {
	c.visit.finish()
	c.visit.door.watchman.remove(&c.watch)
	if c.body != nil {
		c.body.free()
	}
	if c.aborted.Load() {
		panic(http.ErrAbortHandler) // how a handler says that an answer is not complete
	}
}

// late is what the watchman has found out. He also looks whether the visitor
// is still there: telling that at once would cost each request more than most
// of them take.
func (c *h2Visitor) late(what lateness, turn uint32) {
	switch what {
	case lateLasting:
		if c.r.Context().Err() != nil {
			c.visit.stopIn(turn, errVisitorLeft, nil)
		}
	case lateClosed:
		c.visit.stop(errClosed)
	default:
		c.visit.late(what, turn)
	}
}

// translate makes of the request what it is in HTTP/1.1; false if there is no
// such thing.
func (c *h2Visitor) translate() bool {
	r, q := c.r, &c.req
	q.Minor, q.Declared = 1, -1
	method := r.Method
	protocol := ""
	if p := r.Header[":protocol"]; len(p) == 1 && method == http.MethodConnect {
		method, protocol = http.MethodGet, p[0] // RFC 8441, section 5
	}
	if !h1.ValidMethod(method) || !h1.ValidTarget(method, r.RequestURI) || !h1.ValidHost(r.Host) {
		q.Method = []byte(http.MethodGet) // for whoever answers
		return false
	}
	q.Method, q.Target, q.Host = []byte(method), []byte(r.RequestURI), []byte(r.Host)
	if q.Target[0] == '*' {
		q.Form = h1.AsteriskForm
	}
	var ok bool
	if q.Fields, ok = fieldsOf(q.Fields, r.Header); !ok {
		return false
	}
	for i := range q.Fields {
		// :authority it is, and Host only its repetition (RFC 9113, section 8.3.1).
		if q.Fields[i].Kind == h1.KindHost && string(q.Fields[i].Value) != r.Host {
			return false
		}
	}
	switch {
	case protocol != "":
		return c.translateUpgrade(protocol)
	case r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0:
		q.Length = 0
	case r.ContentLength < 0:
		q.Length = h1.Chunked
	default:
		q.Length = r.ContentLength
	}
	if q.Length != 0 {
		c.stop = make(chan struct{})
	}
	// Of what is no length the standard library makes 0, and of two it takes
	// the first (RFC 9113, section 8.1.1).
	switch lengths := r.Header["Content-Length"]; {
	case len(lengths) > 1, len(lengths) == 1 && lengths[0] != strconv.FormatInt(r.ContentLength, 10):
		return false
	case len(lengths) == 1:
		q.Declared = r.ContentLength
	}
	return true
}

func (c *h2Visitor) whole() (body []byte, ok bool) { return nil, c.req.Length == 0 }

func (c *h2Visitor) next() ([]byte, error) {
	if c.body == nil {
		c.body = takeBuffer()
	}
	select {
	case <-c.stop:
		return nil, errStopped
	default:
	}
	for {
		n, err := c.r.Body.Read(c.body.b[:batch])
		if n > 0 {
			return c.body.b[:n], nil
		}
		select {
		case <-c.stop:
			if err != nil && err != io.EOF {
				return nil, errStopped
			}
		default:
		}
		if err != nil {
			return nil, err
		}
	}
}

func (c *h2Visitor) trailers() []h1.Field { return trailersOf(c.r.Trailer) }

func (c *h2Visitor) stopReading() {
	if c.stop != nil {
		c.stopped.Do(func() { close(c.stop) })
	}
	c.control.SetReadDeadline(longAgo)
}

// interim passes everything on but 100, which the standard library says itself.
func (c *h2Visitor) interim(s *h1.Response) error {
	if s.Status == http.StatusContinue {
		return nil
	}
	h := c.w.Header()
	clear(h)
	c.setHeader(s)
	c.w.WriteHeader(s.Status)
	clear(h)
	return nil
}

func (c *h2Visitor) begin(s *h1.Response, more bool) error {
	h := c.setHeader(s)
	if s.Length >= 0 && s.Status != http.StatusNoContent {
		n := s.Length
		if c.visit.isHEAD() || s.Status == http.StatusNotModified {
			n = s.Declared
		}
		if n >= 0 {
			h["Content-Length"] = []string{strconv.FormatInt(n, 10)}
		}
	}
	c.part(h)
	c.w.WriteHeader(s.Status)
	if more {
		return nil
	}
	return c.flush()
}

// part says with this answer that no other request is taken. What becomes of it
// is not a field but a GOAWAY.
func (c *h2Visitor) part(h http.Header) {
	if c.visit.door.leaving.Load() {
		h["Connection"] = []string{"close"}
	}
}

func (c *h2Visitor) flush() error {
	c.watch.writing.Store(true)
	defer c.watch.writing.Store(false)
	return c.control.Flush()
}

// setHeader puts the fields into the header, with one piece of memory for all
// their text.
func (c *h2Visitor) setHeader(s *h1.Response) http.Header {
	size := 0
	for i := range s.Fields {
		size += len(s.Fields[i].Name) + len(s.Fields[i].Value)
	}
	var b strings.Builder
	b.Grow(size)
	for i := range s.Fields {
		b.Write(s.Fields[i].Name)
		b.Write(s.Fields[i].Value)
	}
	h, text, values := c.w.Header(), b.String(), make([]string, len(s.Fields))
	for i := range s.Fields {
		n := len(s.Fields[i].Name)
		name := http.CanonicalHeaderKey(text[:n])
		values[i] = text[n : n+len(s.Fields[i].Value)]
		text = text[n+len(values[i]):]
		if h[name] == nil {
			h[name] = values[i : i+1 : i+1]
		} else {
			h[name] = append(h[name], values[i])
		}
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // or net/http would guess one
	}
	return h
}

// write writes frame by frame, so that it is known soon what was taken.
func (c *h2Visitor) write(b []byte, more bool) error {
	c.watch.writing.Store(true)
	defer c.watch.writing.Store(false)
	for len(b) > 0 {
		piece := b[:min(len(b), h2Frame)]
		c.watch.pending.Store(int64(len(piece)))
		n, err := c.w.Write(piece)
		c.watch.out.Add(uint64(n))
		if err != nil {
			return err
		}
		b = b[n:]
	}
	if more {
		return nil
	}
	return c.control.Flush()
}

// h2Frame is the least that a visitor of HTTP/2 must take at a time (RFC 9113,
// section 4.2).
const h2Frame = 16 << 10

// end leaves what is not flushed to the standard library, which sends it when
// the handler has returned, and nobody watches any more.
func (c *h2Visitor) end(trailers []h1.Field) error {
	c.control.SetWriteDeadline(time.Now().Add(slowFor))
	h := c.w.Header()
	for i := range trailers {
		name := http.TrailerPrefix + http.CanonicalHeaderKey(string(trailers[i].Name))
		h[name] = append(h[name], string(trailers[i].Value))
	}
	return nil
}

func (c *h2Visitor) refusing() {}

// abort resets the stream, at the latest when the handler returns.
func (c *h2Visitor) abort() {
	c.aborted.Store(true)
	c.control.SetWriteDeadline(longAgo)
}

// h2ConnState notes when a connection is idle, and its end.
func (d *door) h2ConnState(c net.Conn, state http.ConnState) {
	t, ok := c.(*tls.Conn)
	if !ok {
		return
	}
	if state == http.StateClosed || state == http.StateHijacked {
		d.leftH2(t)
		return
	}
	since := time.Duration(-1)
	if state == http.StateIdle {
		since = d.watchman.since()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if v := d.h2s[t]; v != nil {
		v.idle = since
	}
}
