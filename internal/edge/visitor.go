package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/culvertd/culvert/internal/name"
	"github.com/culvertd/culvert/internal/router"
)

const (
	// idleStream is how long a stream without a request is kept. Services
	// hang up on idle connections after 2 seconds and more; we let go first,
	// so that no request meets a service that is just hanging up. Another
	// stream costs no round trip.
	idleStream = 1500 * time.Millisecond

	maxIdleStreams = 4096 // of all tunnels
	maxIdlePerStay = 256

	maxAnswerHead = 256 << 10 // bytes of the head of a service's answer
	maxInterim    = 32        // 1xx answers to one request
	maxMoves      = 3         // how often a request follows a host that changes hands

	// continueAfter is how long we wait for a service to say whether it wants
	// a body that the visitor is holding back (RFC 9110, section 10.1.1).
	continueAfter = time.Second

	// leftover is how long we listen to a visitor who is still sending when he
	// has his answer, so that the answer is not lost to a reset.
	leftover = 2 * time.Second
)

// A door is where visitors come in: HTTP/1.1 and HTTP/2 by the standard
// library on one side, streams to services on the other. It serves what take
// is given.
type door struct {
	edge       *Edge
	domain     string
	log        *slog.Logger
	serveAgent func(net.Conn) // returns when the agent has left

	server    *http.Server
	listener  handover
	proxy     *httputil.ReverseProxy
	transport *http.Transport

	agents context.Context // of agents that come by WebSocket
	ctx    context.Context // of all visits; ends with Close, and when Shutdown has no more time
	cut    context.CancelFunc

	conns    tally // open connections of visitors
	visits   tally // requests under way, upgraded ones as well
	handlers tally // visits, and agents that came by WebSocket
}

func newDoor(ctx context.Context, e *Edge, domain string, serveAgent func(net.Conn)) *door {
	d := &door{
		edge:       e,
		agents:     ctx,
		domain:     domain,
		log:        e.logger(),
		serveAgent: serveAgent,
		listener:   handover{conns: make(chan net.Conn), closed: make(chan struct{})},
	}
	d.ctx, d.cut = context.WithCancel(ctx)
	strangers := slog.NewLogLogger(d.log.Handler(), slog.LevelDebug)

	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	d.server = &http.Server{
		Handler:                      d,
		DisableGeneralOptionsHandler: true, // OPTIONS * is for the service
		ReadHeaderTimeout:            e.headTimeout(),
		IdleTimeout:                  e.idleTimeout(),
		MaxHeaderBytes:               e.maxHead(),
		Protocols:                    protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 250,
			SendPingTimeout:      time.Minute, // finds out about visitors that vanished
		},
		ConnState:   d.connState,
		BaseContext: func(net.Listener) context.Context { return d.ctx },
		ConnContext: withVisitorConn,
		ErrorLog:    strangers,
	}
	d.transport = &http.Transport{
		DialContext:            d.dial,
		DisableCompression:     true,
		MaxIdleConns:           maxIdleStreams,
		MaxIdleConnsPerHost:    maxIdlePerStay,
		IdleConnTimeout:        idleStream,
		ResponseHeaderTimeout:  e.serviceTimeout(),
		ExpectContinueTimeout:  continueAfter,
		MaxResponseHeaderBytes: maxAnswerHead,
	}
	d.proxy = &httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      roundTripper(d.roundTrip),
		FlushInterval:  -1, // every byte of the service at once
		BufferPool:     new(bufferPool),
		ModifyResponse: modifyResponse,
		ErrorHandler:   d.serviceFailed,
		ErrorLog:       strangers,
	}
	return d
}

// take gives the door a connection, which it closes.
func (d *door) take(c net.Conn) { d.listener.give(c) }

// run serves until Shutdown or Close, and returns when everything it started
// has ended.
func (d *door) run() {
	d.server.Serve(&d.listener) // http.ErrServerClosed: the listener fails only when it is closed
	d.conns.wait(context.Background())
	d.handlers.wait(context.Background())
	d.transport.CloseIdleConnections()
	d.cut()
}

// Shutdown takes no more connections, waits for all visits, and when ctx ends
// first, cuts them. The standard library does not wait for upgraded
// connections, so they are counted here.
func (d *door) Shutdown(ctx context.Context) error {
	d.listener.Close() // also if Serve has not come to it yet
	err := d.server.Shutdown(ctx)
	if err == nil {
		err = d.visits.wait(ctx)
	}
	if err != nil {
		d.Close()
		return context.Cause(ctx)
	}
	d.transport.CloseIdleConnections()
	return nil
}

// Close ends everything now.
func (d *door) Close() error {
	d.listener.Close()
	d.cut()
	d.server.Close()
	d.transport.CloseIdleConnections()
	return nil
}

func (d *door) connState(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if d.conns.add(1) > d.edge.maxVisitors() {
			c.Close()
		}
	case http.StateIdle:
		if vc, ok := c.(interface{ http1() *visitorConn }); ok {
			vc.http1().idle()
		}
	case http.StateHijacked, http.StateClosed:
		d.conns.add(-1)
	}
}

// ServeHTTP serves one request.
func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.handlers.add(1)
	defer d.handlers.add(-1)
	conn := visitorConnOf(r.Context())
	if conn != nil {
		if conn.spent.Load() {
			panic(http.ErrAbortHandler) // this is no request, but the rest of the one before
		}
		conn.answering.Store(true)
		// An answer may come before the end of the request, and its end must
		// not wait for it. HTTP/2 is like that anyway.
		http.NewResponseController(w).EnableFullDuplex()
	}
	v := &visit{id: newVisitID(), from: originOf(r, d.edge.TrustedProxies), began: time.Now()}
	defer d.contain(v, conn)

	host, refused := d.check(r)
	switch {
	case refused != nil:
		d.refuse(v, w, r, *refused, nil)
	case host == d.domain:
		d.serveNode(v, w, r)
	default:
		d.visits.add(1)
		defer d.visits.add(-1)
		v.host = host
		d.forward(v, w, r)
	}
	if conn != nil && r.Body != http.NoBody && !v.body.done.Load() {
		conn.spent.Store(true)
		http.NewResponseController(w).SetReadDeadline(longAgo)
	}
}

// check finds the host that a request is for, or why it is not served.
func (d *door) check(r *http.Request) (host string, refused *refusal) {
	host, err := name.Host(r.Host)
	if err != nil || !forwardable(r) {
		return "", &badRequest
	}
	// HTTP/2 has :authority, and Host only as its repetition (RFC 9113,
	// section 8.3.1).
	for _, again := range r.Header["Host"] {
		if again, err := name.Host(again); err != nil || again != host {
			return "", &badRequest
		}
	}
	// A browser uses one HTTP/2 connection for all hosts of its certificate,
	// and may (RFC 9113, section 9.1.1). Nobody may with HTTP/1.1.
	if r.TLS != nil && r.TLS.ServerName != "" && r.ProtoMajor == 1 {
		if sni, err := name.Host(r.TLS.ServerName); err != nil || sni != host {
			return "", &misdirected
		}
	}
	return host, nil
}

// forward takes a request to the service that its host stands for.
func (d *door) forward(v *visit, w http.ResponseWriter, r *http.Request) {
	route, err := d.edge.Visitors.Lookup(v.host)
	if err != nil {
		d.refuse(v, w, r, d.diagnose(v, err), err)
		return
	}
	v.route = route
	v.watch(w, r, d.edge.idleTimeout())
	defer v.end()
	defer func() { // also when it ends by a panic, as every answer does that breaks off
		d.log.Debug("visit ended", "visit", v.id, "tunnel", v.host, "peer", v.from.addr,
			"method", r.Method, "status", v.status, "took", time.Since(v.began), "err", v.err)
	}()
	d.proxy.ServeHTTP(v, v.request)
}

// rewrite makes the request for the service. By now, ReverseProxy has removed
// what is meant for this hop alone, and what Connection names: nothing that is
// set here can be removed by the visitor.
func rewrite(pr *httputil.ProxyRequest) {
	v, in, out := visitOf(pr.In.Context()), pr.In, pr.Out
	out.URL = serviceURL(in, v.route)
	out.Host = in.Host
	if v.route.HostHeader != "" {
		out.Host = v.route.HostHeader
	}
	introduce(out.Header, in.Host, v.id, v.from)
	// Upgrade may be ignored, and is from HTTP/1.0 (RFC 9110, section 7.8). A
	// service that took up h2c would answer requests that we never saw.
	if strings.Contains(strings.ToLower(out.Header.Get("Upgrade")), "h2c") || !in.ProtoAtLeast(1, 1) {
		out.Header.Del("Upgrade")
		out.Header.Del("Connection")
	}
	out.Header.Del("Http2-Settings")
	if out.Body != nil {
		out.Body = in.Body // which can be offered again after the host has moved, as long as nobody read it
	}
	// Announced trailers get their values while the body is read.
	dropEdgeOwned(in.Trailer)
	out.Trailer = in.Trailer
}

// roundTrip carries a request over a stream of the stay that holds the host
// now. Nothing has been sent when the host turns out to have changed hands.
func (d *door) roundTrip(req *http.Request) (*http.Response, error) {
	v := visitOf(req.Context())
	for range maxMoves {
		res, err := d.transport.RoundTrip(req)
		if err == nil {
			v.answered(res)
			return res, nil
		}
		if !errors.Is(err, router.ErrMoved) {
			return nil, err
		}
		if v.route, err = d.edge.Visitors.Lookup(v.host); err != nil {
			return nil, err
		}
		next := *req.URL
		next.Host = serviceURL(v.request, v.route).Host
		req = req.WithContext(req.Context()) // a copy
		req.URL = &next
		req.Host = v.request.Host
		if v.route.HostHeader != "" {
			req.Host = v.route.HostHeader
		}
	}
	return nil, router.ErrMoved
}

// dial opens a stream. addr is the host and epoch that serviceURL wrote.
func (d *door) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	epoch, err := strconv.ParseUint(port, 10, 64)
	if err != nil {
		return nil, err
	}
	// The visit for which the stream is opened; others may use it later.
	v := visitOf(ctx)
	ctx, cancel := context.WithTimeout(ctx, d.edge.serviceTimeout())
	defer cancel()
	c, err := d.edge.Visitors.Open(ctx, router.Visit{Host: host, Epoch: epoch, ID: v.id, Remote: v.from.addr})
	if err != nil {
		return nil, &openError{err}
	}
	return newStream(c), nil
}

// modifyResponse refuses what cannot be passed on, and closes it.
func modifyResponse(res *http.Response) error {
	if res.StatusCode < 100 {
		return fmt.Errorf("answer with status %d", res.StatusCode)
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		asked, got := res.Request.Header.Get("Upgrade"), res.Header.Get("Upgrade")
		if _, ok := res.Body.(io.Writer); !ok || asked == "" || !strings.EqualFold(asked, got) {
			return fmt.Errorf("answer switches to protocol %q, asked for %q", got, asked)
		}
	}
	cleanAnswer(res.Header)
	cleanAnswer(res.Trailer)
	return nil
}

// serviceFailed answers a request whose carrying failed before there was an
// answer of the service to pass on.
func (d *door) serviceFailed(w http.ResponseWriter, _ *http.Request, err error) {
	v := w.(*visit)
	v.err = err
	if v.hasLeft() || v.status != 0 {
		panic(http.ErrAbortHandler) // nobody to tell, or too late
	}
	d.refuse(v, v, v.request, d.diagnose(v, err), err)
}

func (d *door) refuse(v *visit, w http.ResponseWriter, r *http.Request, f refusal, err error) {
	level := slog.LevelDebug // strangers cause these at will
	if f.status == http.StatusBadGateway || f.status == http.StatusGatewayTimeout {
		level = slog.LevelInfo // and these take a service that fails
	}
	d.log.Log(context.Background(), level, "visitor refused", "visit", v.id, "tunnel", r.Host,
		"peer", v.from.addr, "status", f.status, "reason", f.code, "err", err)
	f.write(w, r, v.id)
}

// contain ends a visit that panicked. A panic with ErrAbortHandler is how a
// handler says that an answer cannot be completed; the visitor must be able to
// tell, even where the end of the connection is the end of the answer.
func (d *door) contain(v *visit, conn *visitorConn) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
		d.log.Error("visit panicked", "visit", v.id, "err", fmt.Sprint(p), "stack", string(debug.Stack()))
	}
	if conn != nil {
		conn.abort()
	}
	panic(http.ErrAbortHandler)
}

// roundTripper is a function that is an http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// handover is a listener for connections that somebody else accepted.
type handover struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// give hands c to whoever accepts, or closes it if nobody does any more.
func (h *handover) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.closed:
		c.Close()
	}
}

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handover) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *handover) Addr() net.Addr { return &net.TCPAddr{} }

// bufferPool lends the buffers through which bodies pass.
type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[32 << 10]byte); ok {
		return b[:]
	}
	return new([32 << 10]byte)[:]
}

func (p *bufferPool) Put(b []byte) { p.pool.Put((*[32 << 10]byte)(b)) }
