package edge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/culvertd/culvert/internal/h1"
	"github.com/culvertd/culvert/internal/router"
)

// newH2Transport speaks to services of HTTP/2, with the standard library: one
// stream of ours for each stay, and as many of HTTP/2 on it as they allow. TLS,
// if they want it, is between them and their agent.
func newH2Transport(d *door) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{
		DialContext:            d.dialH2,
		DisableCompression:     true,
		IdleConnTimeout:        idleStream,
		MaxResponseHeaderBytes: h1.MaxResponseHead,
		Protocols:              protocols,
	}
}

type ridingKey struct{} // of a *riding

// A riding is what is known of the connection that carries a visit.
type riding struct {
	visit  router.Visit
	opened atomic.Pointer[flowGuard] // for it; others may use it as well,
	on     atomic.Pointer[flowGuard] // and it another, if this is not nil
}

// dialH2 opens a stream. addr is the host and epoch that serviceURL wrote, and
// the visit is the one for which it is opened; others will use it as well.
func (d *door) dialH2(ctx context.Context, _, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	epoch, err := strconv.ParseUint(port, 10, 64)
	if err != nil {
		return nil, err
	}
	ride := ctx.Value(ridingKey{}).(*riding)
	v := ride.visit
	v.Host, v.Epoch = host, epoch
	c, err := d.edge.Visitors.Open(ctx, v)
	if err != nil {
		return nil, &openError{err}
	}
	g := newFlowGuard(c)
	ride.opened.Store(g)
	g.closed = func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.guards, g)
	}
	d.mu.Lock()
	late := d.ended
	if !late {
		d.guards[g] = struct{}{}
	}
	d.mu.Unlock()
	if late {
		g.Close()
		return nil, net.ErrClosed
	}
	return g, nil
}

// closeGuards ends the connections to services of HTTP/2, when nobody uses them
// any more: the Transport lets go only of those that it takes for idle.
func (d *door) closeGuards() {
	d.mu.Lock()
	d.ended = true
	all := slices.Collect(maps.Keys(d.guards))
	d.mu.Unlock()
	for _, g := range all {
		g.Close()
	}
}

// carryH2 takes a request to a service of HTTP/2. Which stream it shares, and
// with whom, is the Transport's to choose, fresh or not.
func (d *door) carryH2(v *visit, body []byte, whole, _ bool) (outcome, error) {
	ride := &riding{visit: router.Visit{ID: v.id.String(), Remote: v.from.addr}}
	ctx, cancel := context.WithCancel(context.WithValue(d.ctx, ridingKey{}, ride))
	defer cancel()
	if cause := v.opening(cancel); cause != nil {
		return ended, cause
	}
	defer v.opening(nil)
	r, up := v.requestH2(body, whole)
	if whole {
		v.watch.advance(phaseSending, phaseWaiting)
	}
	res, err := v.roundTrip(r.WithContext(ctx), ride)
	if err == nil {
		err = v.answerH2(res)
	}
	if up != nil {
		up.stop() // before Close, which waits for it
	}
	if res != nil {
		res.Body.Close()
	}
	unread := up == nil || up.begun.Load() != bodyRead
	if err == nil || res != nil || v.hinted || !unread {
		return ended, err
	}
	if elsewhere(err) {
		return unseen, err
	}
	g := cmp.Or(ride.on.Load(), ride.opened.Load())
	if g == nil || g.agentError() == nil {
		return ended, err
	}
	err = g.agentError()
	switch {
	case errors.Is(err, router.ErrOffline) && !g.heard.Load():
		return unseen, err
	case errors.Is(err, router.ErrLost) && whole && replayable(v.req):
		return unsure, err
	}
	return ended, err
}

// roundTrip passes interim answers on until there is another. The Transport
// tells of them in the goroutine that reads for all visits of the stay, where
// nothing may wait for a visitor.
func (v *visit) roundTrip(r *http.Request, ride *riding) (*http.Response, error) {
	interim := make(chan h1.Response, maxInterim)
	var bad atomic.Pointer[badAnswer] // the Transport forgets what kind of error it was told
	refuse := func(why badAnswer) error {
		bad.Store(&why)
		return why
	}
	n, size := 0, 0
	ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn: func(got httptrace.GotConnInfo) {
			if g, ok := got.Conn.(*flowGuard); ok {
				ride.on.Store(g)
			}
		},
		Got1xxResponse: func(status int, h textproto.MIMEHeader) error {
			if status == http.StatusSwitchingProtocols { // RFC 9113, section 8.6
				return refuse("101 over HTTP/2")
			}
			s := h1.Response{Status: status, Head: h1.Head{Declared: -1}}
			var ok bool
			if s.Fields, ok = fieldsOf(nil, http.Header(h)); !ok {
				return refuse("a field has no equal in HTTP/1.1")
			}
			for i := range s.Fields {
				size += len(s.Fields[i].Name) + len(s.Fields[i].Value)
			}
			if n++; n > maxInterim || size > h1.MaxResponseHead {
				return refuse("too many 1xx answers")
			}
			interim <- s // has room for all
			return nil
		},
	})
	type result struct {
		res *http.Response
		err error
	}
	done := make(chan result, 1)
	go func() {
		res, err := v.door.h2.RoundTrip(r.WithContext(ctx))
		done <- result{res, err}
	}()
	var unheard error
	pass := func(s h1.Response) {
		v.hinted = true
		if unheard == nil {
			cleanAnswer(v, &s)
			if err := v.visitor.interim(&s); err != nil {
				unheard = &visitorError{err}
			}
		}
	}
	for {
		select {
		case s := <-interim:
			pass(s)
		case got := <-done:
			for len(interim) > 0 {
				pass(<-interim)
			}
			if unheard != nil {
				if got.res != nil {
					got.res.Body.Close()
				}
				return nil, unheard
			}
			if why := bad.Load(); why != nil && got.err != nil {
				return nil, *why
			}
			return got.res, got.err
		}
	}
}

// requestH2 makes the request. Its body, unless it is here as a whole, is read
// by the Transport as long as up is not stopped.
func (v *visit) requestH2(body []byte, whole bool) (r *http.Request, up *uploadH2) {
	q := v.req
	host := string(q.Host)
	if v.route.HostHeader != "" {
		host = v.route.HostHeader
	}
	r = &http.Request{
		Method: string(q.Method), URL: v.serviceURL(host), Host: host,
		Header: make(http.Header), ContentLength: q.Length,
	}
	for i := range q.Fields {
		name := http.CanonicalHeaderKey(string(q.Fields[i].Name))
		r.Header[name] = append(r.Header[name], string(q.Fields[i].Value))
	}
	if v.trailing {
		r.Header["Te"] = []string{"trailers"}
	}
	if _, ok := r.Header["User-Agent"]; !ok {
		r.Header["User-Agent"] = nil // or net/http would name itself
	}
	switch {
	case whole && len(body) > 0:
		r.Body = io.NopCloser(strings.NewReader(string(body)))
	case whole:
		r.Body = http.NoBody
	default:
		up = &uploadH2{v: v, r: r}
		r.Body = up
		r.Trailer = make(http.Header) // the Transport sends those that were announced
		for _, list := range r.Header["Trailer"] {
			for name := range strings.SplitSeq(list, ",") {
				if name = strings.TrimSpace(name); h1.ValidName(name) && h1.MayTrail(name) {
					r.Trailer[http.CanonicalHeaderKey(name)] = nil
				}
			}
		}
		delete(r.Header, "Trailer") // it writes that itself
	}
	return r, up
}

// serviceURL is the URL that has the target as the visitor sent it, byte for
// byte, and whose host is one stay. The epoch takes the place of the port. Of
// an opaque part that names the host the Transport sends what is behind that.
func (v *visit) serviceURL(host string) *url.URL {
	path, query, asked := strings.Cut(string(v.req.AppendTarget(nil)), "?")
	u := &url.URL{
		Scheme:     "http",
		Host:       v.route.Host + ":" + strconv.FormatUint(v.route.Epoch, 10),
		Opaque:     path,
		RawQuery:   query,
		ForceQuery: asked && query == "",
	}
	if path != "*" {
		u.Opaque = "//" + host + path
	}
	return u
}

// answerH2 passes the answer on.
func (v *visit) answerH2(res *http.Response) error {
	v.watch.turnTo(phaseAnswering)
	v.watch.heard.Add(1)
	s := h1.Response{Status: res.StatusCode, Head: h1.Head{Length: res.ContentLength, Declared: -1}}
	if s.Status < 200 || s.Status > 599 {
		return badAnswer(fmt.Sprintf("status %d", s.Status))
	}
	var ok bool
	if s.Fields, ok = fieldsOf(nil, res.Header); !ok {
		return badAnswer("a field has no equal in HTTP/1.1")
	}
	if _, ok := res.Header["Content-Length"]; ok {
		s.Declared = res.ContentLength
	}
	if s.Length < 0 {
		s.Length = h1.Chunked
	}
	if v.isHEAD() || s.Status == 204 || s.Status == 304 {
		s.Length = 0
	}
	cleanAnswer(v, &s)
	if err := v.acceptable(&s); err != nil {
		return err
	}
	v.status = s.Status
	if err := v.visitor.begin(&s, s.Length == 0); err != nil {
		return &visitorError{err}
	}
	buf := takeBuffer()
	defer buf.free()
	for {
		n, err := res.Body.Read(buf.b[:batch])
		if n > 0 {
			v.watch.heard.Add(uint64(n))
			if err := v.visitor.write(buf.b[:n], err == io.EOF); err != nil {
				return &visitorError{err}
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := v.visitor.end(cleanTrailers(trailersOf(res.Trailer), answerOwned)); err != nil {
		return &visitorError{err}
	}
	return nil
}

// trailersOf gives those trailers of a message of HTTP/2 that may be some.
func trailersOf(h http.Header) []h1.Field {
	fields, ok := fieldsOf(nil, h)
	if !ok {
		return nil
	}
	for i := range fields {
		if !h1.MayTrail(fields[i].Name) {
			fields[i].Name = nil
		}
	}
	return compact(fields)
}

// An uploadH2 is the body of a request, as the Transport reads it.
type uploadH2 struct {
	v *visit
	r *http.Request

	begun atomic.Int32 // 0 for not yet; once it is read, or stopped, it will not be the other
	mu    sync.Mutex   // held while reading; guards the fields below
	rest  []byte
	done  bool

	stopped bool
}

const (
	bodyRead = 1 + iota
	bodyStopped
)

func (u *uploadH2) Read(p []byte) (int, error) {
	if !u.begun.CompareAndSwap(0, bodyRead) && u.begun.Load() == bodyStopped {
		return 0, errStopped
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.rest) == 0 {
		if u.stopped {
			return 0, errStopped // not the end: that would make a whole of it
		}
		if u.done {
			return 0, io.EOF
		}
		u.v.watch.reading.Store(true)
		b, err := u.v.visitor.next()
		u.v.watch.reading.Store(false)
		if err == io.EOF {
			u.done = true
			for _, f := range cleanTrailers(u.v.visitor.trailers(), requestOwned) {
				u.r.Trailer.Add(string(f.Name), string(f.Value))
			}
			u.v.watch.advance(phaseSending, phaseWaiting)
			return 0, io.EOF
		}
		if err != nil {
			if cause := bodyCause(err); cause != nil {
				u.v.stop(cause)
			}
			return 0, err
		}
		u.v.watch.in.Add(uint64(len(b)))
		u.rest = b
	}
	n := copy(p, u.rest)
	u.rest = u.rest[n:]
	return n, nil
}

// Close does nothing: stop is called when the answer has ended.
func (u *uploadH2) Close() error { return nil }

// stop returns when nobody reads the body any more.
func (u *uploadH2) stop() {
	if u.begun.CompareAndSwap(0, bodyStopped) {
		return // and it may be carried elsewhere
	}
	u.v.visitor.stopReading()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stopped, u.rest = true, nil
}

// bodyCause is why a visit is stopped whose request could not be read; nil if
// it was us who did not want the rest.
func bodyCause(err error) error {
	if errors.Is(err, errStopped) {
		return nil
	}
	if e, ok := errors.AsType[*h1.Error](err); ok {
		return e
	}
	if errors.Is(err, errLate) {
		return errVisitorSlow
	}
	return errVisitorLeft
}
