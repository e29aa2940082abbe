package culvert

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"os"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertd/culvert/internal/memnet"
	"github.com/culvertd/culvert/internal/wire"
	"github.com/culvertd/culvert/mux"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// identity is a CA and a certificate that it signed for names.
type identity struct {
	roots *x509.CertPool
	cert  tls.Certificate
}

func newIdentity(t testing.TB, names ...string) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	valid := func(serial int64) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial),
			Subject:      pkix.Name{CommonName: "test"},
			NotBefore:    time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC), // bubbles begin in 2000
			NotAfter:     time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		}
	}
	root := valid(1)
	root.IsCA, root.BasicConstraintsValid, root.KeyUsage = true, true, x509.KeyUsageCertSign
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if root, err = x509.ParseCertificate(rootDER); err != nil {
		t.Fatal(err)
	}
	leaf := valid(2)
	leaf.DNSNames, leaf.ExtKeyUsage = names, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	id := identity{roots: x509.NewCertPool(), cert: tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: key}}
	id.roots.AddCert(root)
	return id
}

// A node is the other side of an agent, played by a test, which says what it
// says message by message.
type node struct {
	t        *testing.T
	id       identity
	ln       *memnet.Listener
	sessions chan *peer

	mu    sync.Mutex // guards dials
	dials []time.Time
	net   memnet.Net
}

// newNode listens at node.test:443. It is to be called in a bubble, which ends
// when the test closes what it opened.
func newNode(t *testing.T) *node {
	n := &node{t: t, id: newIdentity(t, "node.test"), sessions: make(chan *peer, 16)}
	n.listen()
	return n
}

func (n *node) listen() {
	ln, err := n.net.Listen("node.test:443")
	if err != nil {
		n.t.Fatal(err)
	}
	n.ln = ln
	go n.accept(ln, n.id)
}

func (n *node) accept(ln net.Listener, id identity) {
	for {
		raw, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			conn := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{id.cert}, NextProtos: []string{wire.ALPN}})
			if err := conn.Handshake(); err != nil {
				raw.Close()
				return
			}
			n.sessions <- &peer{t: n.t, raw: raw.(*memnet.Conn), tls: conn}
		}()
	}
}

// agent returns an agent of n, closed when the test ends.
func (n *node) agent() *Agent {
	return &Agent{Server: "node.test", Token: "cvt_test", RootCAs: n.id.roots, Dial: n.dial}
}

func (n *node) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	n.mu.Lock()
	n.dials = append(n.dials, time.Now())
	n.mu.Unlock()
	return n.net.Dial(ctx, network, addr)
}

func (n *node) dialled() []time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.dials)
}

// next waits for the next session that an agent begins.
func (n *node) next() *peer {
	n.t.Helper()
	select {
	case p := <-n.sessions:
		return p
	case <-time.After(time.Hour):
		n.t.Fatal("no agent came in an hour")
		return nil
	}
}

// welcome waits for the next session, and welcomes it.
func (n *node) welcome() *peer {
	n.t.Helper()
	p := n.next()
	if _, ok := p.read().(*wire.Hello); !ok {
		n.t.Fatal("the agent did not begin with hello")
	}
	p.say(&wire.Welcome{Version: 1, Session: [16]byte{1}, Domain: "node.test", Secret: secret})
	return p
}

var secret = wire.Key{1, 2, 3}

// A peer is the node's end of one session.
type peer struct {
	t       *testing.T
	raw     *memnet.Conn
	tls     *tls.Conn
	conn    *mux.Conn   // nil before the welcome
	control *mux.Stream // the same
}

// say says m before there is a mux, or in the control stream. A welcome begins
// the mux.
func (p *peer) say(m wire.Message) {
	p.t.Helper()
	if err := wire.Write(p.talk(), m); err != nil {
		p.t.Fatalf("say %+v: %v", m, err)
	}
	w, ok := m.(*wire.Welcome)
	if !ok || p.conn != nil {
		return
	}
	cfg := mux.Config{KeepAlive: keepAlive, Timeout: silence}
	if w.Resume > 0 {
		cfg.Keep, cfg.Resume = keep, wire.Duration(w.Resume, longestResume)
	}
	p.conn = mux.Server(p.tls, cfg)
	control, err := p.conn.Accept(context.Background())
	if err != nil {
		p.t.Fatalf("wait for the control stream: %v", err)
	}
	p.control = control
}

// talk is where the next message is.
func (p *peer) talk() net.Conn {
	if p.conn == nil {
		return p.tls
	}
	return p.control
}

func (p *peer) read() wire.Message {
	p.t.Helper()
	p.talk().SetReadDeadline(time.Now().Add(time.Hour))
	m, err := wire.Read(p.talk())
	if err != nil {
		p.t.Fatalf("read: %v", err)
	}
	p.talk().SetReadDeadline(time.Time{})
	return m
}

// hangUp ends the connection in order.
func (p *peer) hangUp() {
	if p.conn != nil {
		p.conn.Close()
	}
	p.tls.Close()
}

// want waits for what the agent says next.
func (p *peer) want(why string, want wire.Message) {
	p.t.Helper()
	if got := p.read(); !reflect.DeepEqual(got, want) {
		p.t.Fatalf("%s: the agent said %T%+v, want %T%+v", why, got, got, want, want)
	}
}

// wantQuiet waits for d, in which the agent is to say nothing.
func (p *peer) wantQuiet(why string, d time.Duration) {
	p.t.Helper()
	if p.conn == nil {
		time.Sleep(d) // a deadline that passed would be the end of TLS
		if !p.raw.Quiet() {
			p.t.Fatalf("%s: the agent spoke, want silence", why)
		}
		return
	}
	p.control.SetReadDeadline(time.Now().Add(d))
	if m, err := wire.Read(p.control); err == nil {
		p.t.Fatalf("%s: the agent said %T%+v, want silence", why, m, m)
	} else if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() {
		p.t.Fatalf("%s: %v, want silence", why, err)
	}
}

// bound answers a bind for name.
func (p *peer) bound(request uint32, name string) {
	p.t.Helper()
	p.say(&wire.Bound{Request: request, Name: name, URL: "https://" + name + ".node.test", Epoch: 1})
}

// wantGone waits until the agent has hung up.
func (p *peer) wantGone(why string, d time.Duration) {
	p.t.Helper()
	if p.conn == nil {
		p.raw.SetReadDeadline(time.Now().Add(d))
		if _, err := io.Copy(io.Discard, p.raw); errors.Is(err, os.ErrDeadlineExceeded) {
			p.t.Fatalf("%s: the agent is still there after %v", why, d)
		}
		p.raw.Close()
		return
	}
	select {
	case <-p.conn.Done():
	case <-time.After(d):
		p.t.Fatalf("%s: the agent is still there after %v", why, d)
	}
}

// visit opens a stream for a visitor, with whatever stands at its head.
func (p *peer) visit(head string) *mux.Stream {
	p.t.Helper()
	stream, err := p.conn.Open(context.Background())
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := io.WriteString(stream, head); err != nil {
		p.t.Fatal(err)
	}
	return stream
}

func head(v wire.Visit) string { return string(wire.Append(nil, &v)) }

// wantReset waits until a stream is reset with code.
func wantReset(t *testing.T, why string, stream *mux.Stream, code mux.Code) {
	t.Helper()
	_, err := io.ReadAll(stream)
	e, ok := errors.AsType[*mux.StreamError](err)
	if !ok || !e.Remote || e.Code != code {
		t.Errorf("%s: got %v, want a reset with %v", why, err, code)
	}
}

// bubble runs a test in virtual time. What it starts must end with it.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

// A promise is what a call in another goroutine will return.
type promise[T any] struct {
	done  chan struct{}
	value T
	err   error
}

func async[T any](f func() (T, error)) *promise[T] {
	p := &promise[T]{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.value, p.err = f()
	}()
	return p
}

func (p *promise[T]) wait() (T, error) {
	<-p.done
	return p.value, p.err
}

// listening is Listen in another goroutine.
func listening(ctx context.Context, a *Agent, t Tunnel) *promise[*Listener] {
	return async(func() (*Listener, error) { return a.Listen(ctx, t) })
}

// A diary remembers events.
type diary struct {
	mu     sync.Mutex // guards events
	events []Event
}

func (d *diary) note(e Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, e)
}

func (d *diary) kinds() (kinds []EventKind) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

func (d *diary) of(kind EventKind) (events []Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.events {
		if e.Kind == kind {
			events = append(events, e)
		}
	}
	return events
}

// quiet is a log for servers that are about to be mistreated.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
