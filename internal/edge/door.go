package edge

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvertd/culvert/internal/name"
)

// A door is where visitors come in, and what they ask for is carried to
// services. HTTP/1.1 is ours, HTTP/2 the standard library's, and both meet in
// serve.
type door struct {
	edge       *Edge
	domain     string
	log        *slog.Logger
	serveAgent func(net.Conn) // returns when the agent has left
	handle     func(*visit)   // what serve does; the redirect's differs
	once       bool           // no connection has a second request
	hsts       atomic.Pointer[[]byte]

	watchman *watchman
	streams  *streams
	h2       *http.Transport // to services of HTTP/2

	agents context.Context // of agents that come by WebSocket
	ctx    context.Context // of all visits; ends with Close, and when Shutdown has no more time
	cut    context.CancelFunc

	stopped chan struct{} // closed by closeH2

	places places
	askers tally // connections from which a request may come yet, and strangers
	conns  tally // open connections of visitors
	visits tally // requests under way, upgraded ones as well

	leaving atomic.Bool    // no connection has more than one more request
	wg      sync.WaitGroup // servers, and those who close connections that were idle

	mu      sync.Mutex // guards the fields below
	server  *h2Server  // of the settings in force
	running bool
	closed  bool // there will be no other server
	h2s     map[*tls.Conn]*h2Conn
	guards  map[*flowGuard]struct{} // connections to services of HTTP/2
	ended   bool                    // there will be no more of these
}

// An h2Server is one of the standard library's for visitors of HTTP/2. Its
// settings cannot change: other settings take another server, for the
// connections that come from then on.
type h2Server struct {
	*http.Server
	listener handover
}

// An asker is a connection as long as a request may come from it.
type asker struct {
	of   *tally
	once sync.Once
}

func (d *door) asker() *asker {
	d.askers.add(1)
	return &asker{of: &d.askers}
}

// done says that no request comes any more. It may be called twice.
func (a *asker) done() { a.once.Do(func() { a.of.add(-1) }) }

// An h2Conn is a visitor's connection of HTTP/2.
type h2Conn struct {
	raw   net.Conn // the socket
	place *place
	asker *asker
	idle  time.Duration // since then, of the watchman's time; negative while it is not
}

func newDoor(ctx context.Context, e *Edge, domain string, serveAgent func(net.Conn)) *door {
	d := &door{
		edge:       e,
		agents:     ctx,
		domain:     domain,
		log:        e.logger(),
		serveAgent: serveAgent,
		stopped:    make(chan struct{}),
		h2s:        make(map[*tls.Conn]*h2Conn),
		guards:     make(map[*flowGuard]struct{}),
	}
	d.handle = d.serveVisit
	d.ctx, d.cut = context.WithCancel(ctx)
	d.streams = &streams{idle: make(map[stay][]*stream)}
	d.watchman = newWatchman(e.settings().limits(), d.sweep)
	d.streams.man = d.watchman
	d.h2 = newH2Transport(d)
	d.set(e.settings())
	return d
}

// set puts other settings in force.
func (d *door) set(s *Settings) {
	d.watchman.limits.Store(s.limits())
	d.places.resize(s.maxVisitors())
	hsts := s.hsts()
	d.hsts.Store(&hsts)

	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.server
	if d.closed || old != nil && old.IdleTimeout == s.idleTimeout() && old.ReadHeaderTimeout == s.headTimeout() {
		return
	}
	d.server = &h2Server{newH2Server(d, s), handover{conns: make(chan net.Conn), closed: make(chan struct{})}}
	if d.running {
		d.serveLocked()
	}
	if old != nil {
		old.listener.Close() // and its connections stay
	}
}

// serveLocked runs the server until its listener is closed.
func (d *door) serveLocked() {
	s := d.server
	d.wg.Go(func() { s.Serve(&s.listener) })
}

// sayHSTS is what the edge says for itself about https; nil for nothing.
func (d *door) sayHSTS() []byte {
	if b := d.hsts.Load(); b != nil {
		return *b
	}
	return nil
}

// run serves until Shutdown or Close, and returns when everything it started
// has ended.
func (d *door) run() {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { d.watchman.run(done) })
	d.mu.Lock()
	d.running = true
	d.serveLocked()
	d.mu.Unlock()
	<-d.stopped
	d.conns.wait(context.Background())
	d.visits.wait(context.Background())
	d.streams.close()
	d.h2.CloseIdleConnections()
	d.closeGuards()
	d.cut()
	close(done)
	wg.Wait()
	d.wg.Wait()
}

// serveH1 serves a visitor of HTTP/1.1 until he leaves, and closes the
// connection. With TLS, raw is what is under it.
func (d *door) serveH1(raw, c net.Conn, a *asker) {
	place := d.enter(raw)
	if place == nil {
		a.done()
		return
	}
	v := newH1Visitor(d, raw, c)
	v.place, v.asker = place, a
	d.conns.add(1)
	defer d.leftH1(v)
	if d.ctx.Err() != nil {
		v.cut()
	}
	v.serve()
}

// leftH1 forgets a visitor of HTTP/1.1, who has left or turned out to be an
// agent. It may be called twice.
func (d *door) leftH1(v *h1Visitor) {
	v.asker.done()
	if v.place != nil {
		v.place.leave()
		v.place = nil
		d.conns.add(-1)
	}
}

// takeH2 gives the standard library a visitor of HTTP/2.
func (d *door) takeH2(raw net.Conn, c *tls.Conn, a *asker) {
	place := d.enter(raw)
	if place == nil {
		a.done()
		return
	}
	d.conns.add(1)
	for {
		d.mu.Lock()
		d.h2s[c] = &h2Conn{raw: raw, place: place, asker: a, idle: -1}
		server, closed := d.server, d.closed
		d.mu.Unlock()
		if server.listener.give(c) {
			return
		}
		if closed {
			c.Close()
			d.leftH2(c)
			return
		}
	}
}

// leftH2 forgets a visitor of HTTP/2.
func (d *door) leftH2(c *tls.Conn) {
	d.mu.Lock()
	v := d.h2s[c]
	delete(d.h2s, c)
	d.mu.Unlock()
	if v != nil {
		v.asker.done()
		v.place.leave()
		d.conns.add(-1)
	}
}

// sweep is called every tick.
func (d *door) sweep() {
	d.streams.sweep()
	if !d.leaving.Load() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for c, v := range d.h2s {
		if v.idle >= 0 && d.watchman.since()-v.idle >= parting {
			v.idle = -1
			d.wg.Go(func() { c.Close() }) // which takes time if nobody reads
		}
	}
}

// enter takes a place for a visitor, who may make another leave.
func (d *door) enter(raw net.Conn) *place {
	boundQueue(raw)
	if contains(d.edge.settings().TrustedProxies, addrPort(raw.RemoteAddr()).Addr()) {
		return d.places.queue(raw)
	}
	return d.places.enter(raw)
}

// leave lets visitors go: the answer to the next request of each says that it
// is the last, and who does not ask for a while is hung up on. To close what is
// idle at once would fail the request that is on its way.
func (d *door) leave() {
	d.leaving.Store(true)
	d.watchman.leaving.Store(true)
}

// Shutdown waits until all visitors have left, and when ctx ends first, cuts
// them. Shutdown of the standard library does not know upgraded connections,
// and closes what is idle even if a request is on its way: it has no part in
// this.
func (d *door) Shutdown(ctx context.Context) error {
	d.leave()
	for _, t := range []*tally{&d.askers, &d.visits, &d.conns} {
		if t.wait(ctx) != nil {
			d.Close()
			return context.Cause(ctx)
		}
	}
	d.closeH2()
	d.streams.close()
	d.h2.CloseIdleConnections()
	return nil
}

// closeH2 ends the connections of HTTP/2, of whichever server, and takes no
// more.
func (d *door) closeH2() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.closed = true
		close(d.stopped)
		d.server.listener.Close()
	}
	for _, v := range d.h2s {
		v.raw.Close()
	}
}

// Close ends everything now.
func (d *door) Close() error {
	d.cut()
	d.watchman.tellAll(lateClosed)
	d.closeH2()
	d.streams.close()
	d.h2.CloseIdleConnections()
	return nil
}

// serve answers one request.
func (d *door) serve(v *visit) {
	if proxies := d.edge.settings().TrustedProxies; len(proxies) > 0 {
		v.from = originOf(v.peer, v.req.Fields, proxies)
	}
	d.handle(v)
}

// serveVisit takes a request to where it belongs.
func (d *door) serveVisit(v *visit) {
	switch refused := d.check(v); {
	case refused != nil:
		d.refuse(v, *refused, nil)
	case v.host == d.domain:
		d.serveNode(v)
	default:
		d.visits.add(1)
		defer d.visits.add(-1)
		d.forward(v)
	}
}

// check finds the host that a request is for, or why it is not served.
func (d *door) check(v *visit) *refusal {
	if string(v.req.Host) != v.asked { // mostly it is the same as in the last request
		v.asked = string(v.req.Host)
		v.canon, v.canonErr = name.Host(v.asked)
	}
	if v.canonErr != nil || v.asked == "" {
		return &badRequest
	}
	host := v.canon
	// Behind a front end we do not know what the visitor's scheme was.
	if scheme := v.req.Scheme(); len(scheme) == len("http") && !v.plain {
		return &badRequest
	}
	// A browser uses one HTTP/2 connection for all hosts of its certificate,
	// and may (RFC 9113, section 9.1.1). Nobody may with HTTP/1.1.
	if v.sni != "" && !v.h2 && v.sni != host {
		return &misdirected
	}
	v.host = host
	return nil
}

// canonicalSNI is the host of a TLS hello; one that no request can be for if it
// has no canonical spelling.
func canonicalSNI(sni string) string {
	if sni == "" {
		return ""
	}
	host, err := name.Host(sni)
	if err != nil {
		return "?"
	}
	return host
}

// handover is a listener for connections that somebody else accepted.
type handover struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// give hands c to whoever accepts, and reports whether anybody does.
func (h *handover) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.closed:
		return false
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
