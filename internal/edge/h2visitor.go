package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	_ "github.com/culvertd/culvert/internal/edge/xconnect"
	"github.com/culvertd/culvert/internal/h1"
)

// continueAfter is how long a body over HTTP/2 that the visitor holds back is
// not asked for when the service does not say whether it wants it (RFC 9110,
// section 10.1.1).
const continueAfter = time.Second

// newH2Server serves visitors of HTTP/2 with the standard library, which knows
// all of it but what a request may be.
func newH2Server(d *door) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler:                      http.HandlerFunc(d.serveH2),
		DisableGeneralOptionsHandler: true, // OPTIONS * is for the service
		ReadHeaderTimeout:            d.edge.headTimeout(),
		IdleTimeout:                  d.edge.idleTimeout(),
		MaxHeaderBytes:               d.edge.maxHead(),
		Protocols:                    protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 250,
			SendPingTimeout:      time.Minute, // finds out about visitors that vanished
		},
		ConnState:   d.h2ConnState,
		BaseContext: func(net.Listener) context.Context { return d.ctx },
		ErrorLog:    slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
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

	body    *buffer       // of next; nil until then
	wanted  chan struct{} // closed when the visitor is to be asked for the body; nil if he does not wait
	want    sync.Once
	waited  bool          // for wanted, by next
	stop    chan struct{} // closed when nobody wants the rest of it
	stopped sync.Once
}

// serveH2 is called by the standard library.
func (d *door) serveH2(w http.ResponseWriter, r *http.Request) {
	c := &h2Visitor{w: w, r: r, control: http.NewResponseController(w), stop: make(chan struct{})}
	c.watch.late = func(what lateness, turn uint32) { c.visit.late(what, turn) }
	c.watch.turnTo(phaseSending)
	v := &c.visit
	v.door, v.visitor, v.watch, v.req, v.h2 = d, c, &c.watch, &c.req, true
	addr, _ := netip.ParseAddrPort(r.RemoteAddr)
	addr = netip.AddrPortFrom(addr.Addr().Unmap().WithZone(""), addr.Port())
	v.peer = originAt(addr, false)
	v.open()
	d.watchman.add(&c.watch)
	defer d.watchman.remove(&c.watch)
	defer func() {
		c.visit.finish()
		if c.body != nil {
			c.body.free()
		}
		if c.aborted.Load() {
			panic(http.ErrAbortHandler) // how a handler says that an answer is not complete
		}
	}()
	defer d.contain(c.abort)
	defer context.AfterFunc(r.Context(), func() { c.visit.stop(errVisitorLeft) })()

	if !c.translate() {
		d.refuse(&c.visit, badRequest, errors.New("no equal in HTTP/1.1"))
		return
	}
	d.serve(&c.visit)
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
	if r.ContentLength >= 0 && len(r.Header["Content-Length"]) > 0 {
		q.Declared = r.ContentLength
	}
	if values := r.Header["Expect"]; len(values) == 1 && q.Length != 0 {
		q.ExpectContinue = true
		c.wanted = make(chan struct{})
	}
	return true
}

func (c *h2Visitor) whole() (body []byte, ok bool) { return nil, c.req.Length == 0 }

// next reads from the standard library, which tells the visitor to go on when
// it is asked for the first byte. So nobody asks before the service did.
func (c *h2Visitor) next() ([]byte, error) {
	if c.wanted != nil && !c.waited {
		c.waited = true
		t := time.NewTimer(continueAfter)
		defer t.Stop()
		select {
		case <-c.wanted:
		case <-c.stop:
			return nil, errStopped
		case <-t.C:
		}
	}
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

func (c *h2Visitor) trailers() []h1.Field {
	fields, ok := fieldsOf(nil, c.r.Trailer)
	if !ok {
		return nil
	}
	kept := fields[:0]
	for _, f := range fields {
		if h1.MayTrail(f.Name) {
			kept = append(kept, f)
		}
	}
	return kept
}

func (c *h2Visitor) stopReading() {
	c.stopped.Do(func() { close(c.stop) })
	c.control.SetReadDeadline(longAgo)
}

// interim passes everything on but 100, which the standard library says itself.
func (c *h2Visitor) interim(s *h1.Response) error {
	if s.Status == http.StatusContinue {
		if c.wanted != nil {
			c.want.Do(func() { close(c.wanted) })
		}
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
	c.w.WriteHeader(s.Status)
	if more {
		return nil
	}
	return c.control.Flush()
}

func (c *h2Visitor) setHeader(s *h1.Response) http.Header {
	h := c.w.Header()
	for i := range s.Fields {
		name := http.CanonicalHeaderKey(string(s.Fields[i].Name))
		h[name] = append(h[name], string(s.Fields[i].Value))
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // or net/http would guess one
	}
	return h
}

func (c *h2Visitor) write(b []byte, more bool) error {
	c.watch.writing.Store(true)
	defer c.watch.writing.Store(false)
	n, err := c.w.Write(b)
	if err == nil && !more {
		err = c.control.Flush()
	}
	c.watch.out.Add(uint64(n))
	return err
}

func (c *h2Visitor) end(trailers []h1.Field) error {
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

// h2ConnState notes the end of a connection.
func (d *door) h2ConnState(c net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		if t, ok := c.(*tls.Conn); ok {
			d.leftH2(t)
		}
	}
}
