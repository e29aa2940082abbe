package session

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertd/culvert/internal/auth"
	"github.com/culvertd/culvert/internal/memnet"
	"github.com/culvertd/culvert/internal/name"
	"github.com/culvertd/culvert/internal/router"
	"github.com/culvertd/culvert/internal/wire"
	"github.com/culvertd/culvert/mux"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An authority knows ann, bob and their tokens, "ann-1" and so on.
type authority struct {
	mu      sync.Mutex // guards the fields below
	owners  map[string]string
	revoked map[string]bool
	random  int
	trouble error // what Authenticate and Claim say, if anything
}

func (a *authority) Authenticate(secret string) (auth.Grant, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	owner := secret[:min(3, len(secret))]
	switch {
	case a.trouble != nil:
		return auth.Grant{}, a.trouble
	case owner != "ann" && owner != "bob" || a.revoked[secret]:
		return auth.Grant{}, auth.ErrUnauthorized
	}
	return auth.Grant{TokenID: secret, Owner: owner}, nil
}

func (a *authority) Valid(g auth.Grant) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.revoked[g.TokenID] {
		return auth.ErrUnauthorized
	}
	return nil
}

func (a *authority) Claim(_ context.Context, g auth.Grant, asked string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.trouble != nil {
		return "", a.trouble
	}
	if asked == "" {
		a.random++
		asked = "random" + string(rune('0'+a.random))
	}
	label, err := name.Parse(asked)
	if err != nil {
		return "", err
	}
	if label == "forbidden" {
		return "", auth.ErrNameNotAllowed
	}
	if owner := a.owners[label]; owner != "" && owner != g.Owner {
		return "", auth.ErrNameTaken
	}
	a.owners[label] = g.Owner
	return label, nil
}

func (a *authority) revoke(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked[token] = true
}

func (a *authority) give(label, owner string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.owners[label] = owner
}

func (a *authority) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trouble = err
}

// A fixture is a server with agents that a test plays word by word.
type fixture struct {
	*testing.T
	*Server
	authority *authority
	router    *router.Router
	serving   sync.WaitGroup
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{T: t, router: new(router.Router), authority: &authority{owners: map[string]string{}, revoked: map[string]bool{}}}
	f.Server = &Server{Auth: f.authority, Router: f.router, Domain: "node.test"}
	return f
}

// bubble runs test in virtual time, and closes the server after it.
func bubble(t *testing.T, test func(f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		test(f)
		f.Close()
		f.serving.Wait()
		if left := f.Sessions(); len(left) > 0 || len(f.strangers) > 0 || f.present > 0 || len(f.sessions) > 0 || len(f.tunnels) > 0 {
			t.Errorf("left behind: %v, %d strangers, %d present, %d tunnels", left, len(f.strangers), f.present, len(f.tunnels))
		}
	})
}

// dial is a stranger, who has said nothing yet.
func (f *fixture) dial() (*memnet.Conn, *agentPeer) {
	ours, theirs := memnet.Pipe()
	f.serving.Go(func() { f.ServeAgent(context.Background(), theirs) })
	return ours, &agentPeer{f: f, raw: ours}
}

// An agentPeer is the agent's end of a session, or of a conn that may become
// one.
type agentPeer struct {
	f       *fixture
	raw     *memnet.Conn
	conn    *mux.Conn   // nil before the welcome
	control *mux.Stream // the same
	welcome wire.Welcome
	token   wire.Secret
	lane    uint64 // number of the latest
}

// hello is a stranger who has said hello.
func (f *fixture) hello(h *wire.Hello) *agentPeer {
	f.Helper()
	_, p := f.dial()
	p.token = h.Token
	p.say(h)
	return p
}

// join is an agent that was welcomed. id tells runs of it apart.
func (f *fixture) join(token string, id byte) *agentPeer {
	f.Helper()
	p := f.hello(&wire.Hello{Version: 1, Agent: [16]byte{id}, Token: wire.Secret(token), Software: "test/1"})
	p.welcomed()
	return p
}

// welcomed hears the node's welcome, and begins the mux.
func (p *agentPeer) welcomed() {
	p.f.Helper()
	m, ok := p.read().(*wire.Welcome)
	if !ok || m.Version != 1 || m.Session == [16]byte{} || m.Domain != "node.test" || m.Secret == (wire.Key{}) {
		p.f.Fatalf("the node said %+v, want welcome", m)
	}
	p.welcome = *m
	cfg := mux.Config{KeepAlive: 2 * time.Second, Timeout: 3 * time.Second}
	if cfg.Resume = wire.Duration(m.Resume, time.Hour); cfg.Resume > 0 {
		cfg.Keep = 8 << 20
	}
	p.conn = mux.Client(p.raw, cfg)
	p.open()
	synctest.Wait() // the node has heard it
}

// open opens the control stream.
func (p *agentPeer) open() {
	control, err := p.conn.Open(p.f.Context())
	if err != nil {
		p.f.Fatal(err)
	}
	p.control = control
}

// talk is where the next message is: before the welcome there is no mux.
func (p *agentPeer) talk() net.Conn {
	if p.conn == nil {
		return p.raw
	}
	return p.control
}

func (p *agentPeer) say(m wire.Message) {
	p.f.Helper()
	if err := wire.Write(p.talk(), m); err != nil {
		p.f.Fatalf("say %+v: %v", m, err)
	}
}

func (p *agentPeer) read() wire.Message {
	p.f.Helper()
	p.talk().SetReadDeadline(time.Now().Add(time.Minute))
	m, err := wire.Read(p.talk())
	if err != nil {
		p.f.Fatalf("read: %v", err)
	}
	p.talk().SetReadDeadline(time.Time{})
	return m
}

// goes is an agent that leaves in order.
func (p *agentPeer) goes() {
	if p.conn != nil {
		p.conn.Close()
	}
	p.raw.Close()
}

func (p *agentPeer) want(why string, want wire.Message) {
	p.f.Helper()
	got := p.read()
	if b, ok := got.(*wire.Bound); ok {
		b.Epoch = 0 // the router's affair
	}
	if !reflect.DeepEqual(got, want) {
		p.f.Fatalf("%s: the node said %T%+v, want %T%+v", why, got, got, want, want)
	}
}

// wantRefused waits for a no, whatever its words.
func (p *agentPeer) wantRefused(why string, request uint32, code wire.Code) *wire.Refused {
	p.f.Helper()
	m, ok := p.read().(*wire.Refused)
	if !ok || m.Request != request || m.Code != code {
		p.f.Fatalf("%s: the node said %+v, want %v for %d", why, m, code, request)
	}
	return m
}

// wantGone waits until the node has hung up.
func (p *agentPeer) wantGone(why string, most time.Duration) {
	p.f.Helper()
	start := time.Now()
	if p.conn == nil {
		io.Copy(io.Discard, p.raw)
		p.raw.Close()
	} else {
		<-p.conn.Done()
	}
	if waited := time.Since(start); waited > most {
		p.f.Errorf("%s: the node hung up after %v, want %v at most", why, waited, most)
	}
}

// bind asks for a tunnel and gets it.
func (p *agentPeer) bind(request uint32, label string) {
	p.f.Helper()
	p.say(&wire.Bind{Request: request, Name: label})
	p.want("bind", &wire.Bound{Request: request, Name: label, URL: "https://" + label + ".node.test"})
}

// accept takes the next stream, with its head.
func (p *agentPeer) accept() (*mux.Stream, wire.Visit) {
	p.f.Helper()
	stream, err := p.conn.Accept(p.f.Context())
	if err != nil {
		p.f.Fatal(err)
	}
	m, err := wire.Read(stream)
	v, ok := m.(*wire.Visit)
	if !ok {
		p.f.Fatalf("a stream began with %+v, %v", m, err)
	}
	return stream, *v
}

var visitorAddr = netip.MustParseAddrPort("192.0.2.7:1234")

// visit opens a stream as the edge does.
func (f *fixture) visit(label string) (net.Conn, error) {
	return f.router.Open(f.Context(), router.Visit{Host: label + ".node.test", ID: "v1", Remote: visitorAddr})
}

// mustVisit opens a stream and takes it at the agent.
func (f *fixture) mustVisit(label string, p *agentPeer) (net.Conn, *mux.Stream) {
	f.Helper()
	conn, err := f.visit(label)
	if err != nil {
		f.Fatalf("visit %s: %v", label, err)
	}
	stream, v := p.accept()
	if v.ID != "v1" || v.Remote != visitorAddr {
		f.Errorf("the agent was told %+v", v)
	}
	return conn, stream
}

// wantNobody checks that no session carries label.
func (f *fixture) wantNobody(why, label string) {
	f.Helper()
	if _, err := f.visit(label); !errors.Is(err, router.ErrNoTunnel) {
		f.Errorf("%s: %v, want nobody there", why, err)
	}
}

func readAll(r io.Reader) (string, error) {
	b, err := io.ReadAll(r)
	return string(b), err
}
