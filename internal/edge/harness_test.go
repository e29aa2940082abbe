package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/certs"
	"github.com/culvertd/culvert/internal/memnet"
	"github.com/culvertd/culvert/internal/router"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	domain = "tunnel.test"
	blog   = "blog." + domain
)

// A doorstep is a listener that strangers come to from any address.
type doorstep struct {
	conns  chan net.Conn
	errs   chan error // to be returned by Accept
	once   sync.Once
	closed chan struct{}
	taken  atomic.Int32 // conns
}

func newDoorstep() *doorstep {
	return &doorstep{conns: make(chan net.Conn), errs: make(chan error), closed: make(chan struct{})}
}

func (d *doorstep) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case err := <-d.errs:
		return nil, err
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

func (d *doorstep) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

func (d *doorstep) Addr() net.Addr { return memnet.Addr("doorstep") }

func (d *doorstep) dial(from string) (*memnet.Conn, error) {
	ours, theirs := memnet.Pipe()
	addr := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))
	select {
	case d.conns <- &addressed{Conn: theirs, remote: addr}:
		d.taken.Add(1)
		return ours, nil
	case <-d.closed:
		return nil, errors.New("connection refused")
	}
}

// addressed is a socket: it has the visitor's address, and can be reset.
type addressed struct {
	*memnet.Conn
	remote net.Addr
	reset  atomic.Bool
}

func (a *addressed) RemoteAddr() net.Addr { return a.remote }

func (a *addressed) SetLinger(seconds int) error {
	a.reset.Store(seconds == 0)
	return nil
}

func (a *addressed) Close() error {
	if a.reset.Load() {
		a.Break()
	}
	return a.Conn.Close()
}

// A service is an Opener whose streams end at a handler, or at a function that
// is handed each of them.
type service struct {
	router.Opener // nil
	listener      handover
	server        *http.Server
	raw           func(net.Conn)
	wg            sync.WaitGroup

	refuse  atomic.Pointer[error] // what Open returns
	opened  atomic.Int32
	aborted atomic.Int32
	deaf    atomic.Bool // reads no more: the node's writes fail
	gone    atomic.Bool // its agent has left: what breaks is not the service's doing

	agent atomic.Pointer[error] // what the agent says of streams that break, in place of the service

	mu      sync.Mutex
	visits  []router.Visit
	streams []*memnet.Conn
}

func newService(h http.HandlerFunc) *service {
	s := &service{listener: handover{conns: make(chan net.Conn), closed: make(chan struct{})}}
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	s.server = &http.Server{Handler: h, Protocols: both, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	s.wg.Go(func() { s.server.Serve(&s.listener) })
	return s
}

func rawService(f func(net.Conn)) *service {
	s := newService(nil)
	s.raw = f
	return s
}

func (s *service) close() {
	s.breakAll()
	s.listener.Close()
	s.server.Close()
	s.wg.Wait()
}

func (s *service) Open(_ context.Context, v router.Visit) (net.Conn, error) {
	if err := s.refuse.Load(); err != nil {
		return nil, *err
	}
	s.opened.Add(1)
	node, far := memnet.Pipe()
	s.mu.Lock()
	s.visits = append(s.visits, v)
	s.streams = append(s.streams, node)
	s.mu.Unlock()
	if s.raw != nil {
		s.wg.Go(func() { s.raw(far); far.Close() })
	} else {
		go func() {
			if !s.listener.give(far) {
				far.Close()
			}
		}()
	}
	return &testStream{node, s}, nil
}

// breakAll cuts the streams that were opened, as the end of a session does.
func (s *service) breakAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.streams {
		c.Break()
	}
}

// testStream turns a broken pipe into what an agent would say about it.
type testStream struct {
	*memnet.Conn
	of *service
}

func (s *testStream) Abort() {
	s.of.aborted.Add(1)
	s.Break()
}

func (s *testStream) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	return n, s.of.translate(err)
}

func (s *testStream) Write(p []byte) (int, error) {
	if s.of.deaf.Load() {
		return 0, s.of.translate(memnet.ErrBroken)
	}
	n, err := s.Conn.Write(p)
	return n, s.of.translate(err)
}

func (s *service) translate(err error) error {
	if why := s.agent.Load(); why != nil && errors.Is(err, memnet.ErrBroken) {
		return fmt.Errorf("%w: %w", *why, err)
	}
	if errors.Is(err, memnet.ErrBroken) && !s.gone.Load() {
		return &router.ServiceError{Problem: router.ServiceReset, Err: err}
	}
	return err
}

// A world is an edge being served, with a CA that its visitors trust.
type world struct {
	t      *testing.T
	edge   *Edge
	routes *router.Router
	step   *doorstep
	roots  *x509.CertPool
	served chan error
	log    *safeBuffer
	from   string // where visitors come from

	cleanup []func()
}

type safeBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// newWorld serves an edge, after change has seen it. Its end is at the end of
// the test, and everything has ended by then.
func newWorld(t *testing.T, change func(*Edge)) *world {
	t.Helper()
	ca, err := certs.OpenAuthority(t.TempDir(), domain)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, step: newDoorstep(), roots: x509.NewCertPool(), served: make(chan error, 1),
		routes: &router.Router{Owned: func(host string) bool { return strings.HasPrefix(host, "away.") }},
		log:    new(safeBuffer), from: "192.0.2.7:4711",
	}
	w.roots.AppendCertsFromPEM(ca.Root())
	w.edge = &Edge{
		Domain:         domain,
		GetCertificate: ca.GetCertificate,
		Visitors:       w.routes,
		Log:            slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(w.edge)
	}
	go func() { w.served <- w.edge.Serve(context.Background(), w.step) }()
	t.Cleanup(func() {
		for _, f := range w.cleanup {
			f()
		}
		w.edge.Close()
		if err := <-w.served; err != nil {
			t.Errorf("Serve: got %v; want nil after Close", err)
		}
		if strings.Contains(w.log.String(), "level=ERROR") {
			t.Errorf("an error was logged:\n%s", w.log)
		}
	})
	return w
}

// bind puts a service behind a host and returns its epoch.
func (w *world) bind(host string, s *service) uint64 {
	w.cleanup = append(w.cleanup, s.close)
	return w.routes.Add(host, s, router.Options{})
}

// visitor is a browser: one of HTTP/2 if h2, with connections of its own.
func (w *world) visitor(h2 bool) *http.Client {
	tr := &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return w.step.dial(w.from) },
		TLSClientConfig: &tls.Config{
			RootCAs: w.roots, NextProtos: []string{"http/1.1"},
		},
		DisableCompression: true,
	}
	if h2 {
		tr.TLSClientConfig.NextProtos = []string{"h2", "http/1.1"}
		tr.ForceAttemptHTTP2 = true
	}
	w.cleanup = append(w.cleanup, tr.CloseIdleConnections)
	return &http.Client{
		Transport:     tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// raw is a visitor that speaks for itself, through TLS if the edge does.
func (w *world) raw(host string) *rawVisitor {
	w.t.Helper()
	c, err := w.step.dial(w.from)
	if err != nil {
		w.t.Fatal(err)
	}
	v := &rawVisitor{t: w.t, Conn: c, socket: c}
	if w.edge.GetCertificate != nil {
		tc := tls.Client(c, &tls.Config{RootCAs: w.roots, ServerName: host, NextProtos: []string{"http/1.1"}})
		if err := tc.Handshake(); err != nil {
			w.t.Fatal(err)
		}
		v.Conn = tc
	}
	v.r = bufio.NewReader(v.Conn)
	w.cleanup = append(w.cleanup, func() { c.Close() })
	return v
}

type rawVisitor struct {
	t *testing.T
	net.Conn
	socket *memnet.Conn
	r      *bufio.Reader
}

func (v *rawVisitor) send(format string, args ...any) {
	v.t.Helper()
	text := format
	if len(args) > 0 {
		text = fmt.Sprintf(format, args...)
	}
	if _, err := io.WriteString(v, strings.ReplaceAll(text, "\n", "\r\n")); err != nil {
		v.t.Fatal(err)
	}
}

// answer reads the head of an answer and, if body, all of its body.
func (v *rawVisitor) answer(method string) *http.Response {
	v.t.Helper()
	res, err := http.ReadResponse(v.r, &http.Request{Method: method})
	if err != nil {
		v.t.Fatalf("read answer: %v", err)
	}
	return res
}

func read(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil {
		t.Fatalf("read body: %v", err)
	}
	return string(b)
}

// get asks for a URL and returns answer and body.
func get(t *testing.T, c *http.Client, url string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header[header[i]] = append(r.Header[header[i]], header[i+1])
	}
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return res, read(t, res)
}

// both runs a test as a visitor of HTTP/1.1 and of HTTP/2.
func both(t *testing.T, f func(t *testing.T, h2 bool)) {
	for _, h2 := range []bool{false, true} {
		t.Run(map[bool]string{false: "h1", true: "h2"}[h2], func(t *testing.T) { f(t, h2) })
	}
}

// ok200 begins an answer.
const ok200 = "HTTP/1.1 200 OK\n"

// inBubble runs f where time is virtual.
func inBubble(f func(*testing.T)) func(*testing.T) {
	return func(t *testing.T) { synctest.Test(t, f) }
}

// within fails the test unless ch delivers in reasonable time.
func within[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: nothing after 10 s", what)
		panic("unreachable")
	}
}
