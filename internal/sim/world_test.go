package sim

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvertd/culvert"
	"github.com/culvertd/culvert/internal/auth"
	"github.com/culvertd/culvert/internal/edge"
	"github.com/culvertd/culvert/internal/memnet"
	"github.com/culvertd/culvert/internal/router"
	"github.com/culvertd/culvert/internal/session"
)

// A world is everything between a visitor and a service.
type world struct {
	t        *testing.T
	rng      *mrand.Rand // of whoever makes trouble; nobody else
	roots    *x509.CertPool
	public   memnet.Net // on which visitors and agents find the node
	ctx      context.Context
	sessions *session.Server
	agent    *culvert.Agent
	end      func()

	mu        sync.Mutex // guards the fields below
	lanes     []*memnet.Conn
	delivered map[string]int // how often the service has had a request
	troubles  int
	diary     []string // what happened
	resumed   int      // how often the agent had a lane again after it had none
	begun     int      // sessions
}

// anybody is an authority that knows one owner, and gives out every name.
type anybody struct{}

func (anybody) Authenticate(string) (auth.Grant, error) {
	return auth.Grant{Owner: "owner", TokenID: "token"}, nil
}
func (anybody) Valid(auth.Grant) error { return nil }
func (anybody) Claim(_ context.Context, _ auth.Grant, name string) (string, error) {
	return name, nil
}

// newWorld starts everything; end stops it.
func newWorld(t *testing.T, rng *mrand.Rand) *world {
	w := &world{t: t, rng: rng, delivered: make(map[string]int)}
	cert := w.certificate()
	w.public.Link = memnet.Link{Delay: time.Duration(rng.IntN(4)) * 10 * time.Millisecond}
	if rng.IntN(2) == 0 {
		w.public.Link.Rate = 1<<20 + rng.IntN(20<<20)
		w.public.Link.Buffer = 16<<10 + rng.IntN(256<<10)
	}
	ln, err := w.public.Listen("node.test:443")
	if err != nil {
		t.Fatal(err)
	}
	var cancel context.CancelFunc
	w.ctx, cancel = context.WithCancel(context.Background())
	routes := &router.Router{Owned: func(string) bool { return true }, Hold: time.Minute} // troubles may come one after another
	w.sessions = &session.Server{Auth: anybody{}, Router: routes, Domain: "node.test", Log: slog.New(slog.NewTextHandler(w, nil))}
	e := &edge.Edge{
		Domain: "node.test", Visitors: routes, Agents: w.sessions,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil },
	}
	var wg sync.WaitGroup
	wg.Go(func() { e.Serve(w.ctx, ln) })

	w.agent = &culvert.Agent{Server: "node.test", Token: "t", RootCAs: w.roots, Dial: w.dialLane, OnEvent: w.note}
	tunnel, err := w.agent.Listen(w.ctx, culvert.Tunnel{Name: "blog"})
	if err != nil {
		t.Fatal(err)
	}
	service := &http.Server{Handler: w.service()}
	wg.Go(func() { service.Serve(tunnel) })
	w.end = func() {
		w.agent.Close()
		service.Close()
		e.Close()
		w.sessions.Close()
		cancel()
		wg.Wait()
	}
	return w
}

func (w *world) certificate() *tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"node.test", "*.node.test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		w.t.Fatal(err)
	}
	w.roots = x509.NewCertPool()
	w.roots.AddCert(leaf)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// dialLane is how the agent comes to the node. Only its road knows trouble: a
// visitor whose own connection breaks knows whom to blame.
func (w *world) dialLane(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := w.public.Dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lanes = append(w.lanes, c.(*memnet.Conn))
	w.happenedLocked("the agent dialled")
	return c, nil
}

// dial is how visitors come. Their sockets take whatever is written: HTTP/2 of
// net/http waits for its own locks while it writes, and then time would stand
// still.
func (w *world) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return w.public.DialOver(ctx, memnet.Link{Delay: w.public.Link.Delay, Buffer: 1 << 30}, "node.test:443")
}

func (w *world) note(e culvert.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.happenedLocked("agent: %s %v", e.Kind, e.Err)
	switch e.Kind {
	case culvert.EventConnected:
		w.begun++
	case culvert.EventResumed:
		w.resumed++
	}
}

// trouble does something to a connection of the agent, and says what.
func (w *world) trouble() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.lanes) == 0 {
		return
	}
	i := w.rng.IntN(len(w.lanes))
	lane, before := w.lanes[i], len(w.lanes)
	what := w.rng.IntN(4)
	switch what {
	case 0:
		lane.Break()
	case 1:
		lane.Silence()
	default: // for less than what is taken for death, or more
		lane.Pause(time.Duration(w.rng.IntN(8000)) * time.Millisecond)
	}
	if what < 2 {
		w.lanes = append(w.lanes[:i], w.lanes[i+1:]...)
	}
	w.troubles++
	w.happenedLocked("%s of lane %d, of %d", []string{"break", "silence", "pause", "pause"}[what], i+1, before)
}

// happenedLocked notes something for who looks into a failure.
func (w *world) happenedLocked(format string, args ...any) {
	w.diary = append(w.diary, time.Now().Format("04:05.000 ")+fmt.Sprintf(format, args...))
}

// Write notes what the node logs.
func (w *world) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.happenedLocked("node: %s", strings.TrimSpace(string(line)))
	return len(line), nil
}

// service answers three kinds of requests, and counts them.
func (w *world) service() http.Handler {
	mux := http.NewServeMux()
	count := func(r *http.Request) (id string, size int) {
		id = r.FormValue("id")
		size, _ = strconv.Atoi(r.FormValue("size"))
		w.mu.Lock()
		defer w.mu.Unlock()
		w.delivered[id]++
		return id, size
	}
	mux.HandleFunc("GET /down", func(out http.ResponseWriter, r *http.Request) {
		id, size := count(r)
		if size%2 == 0 { // with and without a length
			out.Header().Set("Content-Length", strconv.Itoa(size))
		}
		io.Copy(out, &pattern{id: id, left: size})
	})
	mux.HandleFunc("POST /up", func(out http.ResponseWriter, r *http.Request) {
		id, size := count(r)
		if err := same(r.Body, id, size); err != nil {
			http.Error(out, err.Error(), http.StatusTeapot)
			return
		}
		io.WriteString(out, "whole")
	})
	mux.HandleFunc("GET /talk", func(out http.ResponseWriter, r *http.Request) {
		count(r)
		conn, rw, err := http.NewResponseController(out).Hijack()
		if err != nil {
			http.Error(out, err.Error(), http.StatusTeapot)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		lines := bufio.NewReader(rw)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			io.WriteString(conn, line)
		}
	})
	return mux
}

// A pattern is the bytes that belong to an id.
type pattern struct {
	id       string
	at, left int
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := min(len(b), p.left)
	for i := range n {
		at := p.at + i
		b[i] = p.id[at%len(p.id)] + byte(at>>8)
	}
	p.at, p.left = p.at+n, p.left-n
	return n, nil
}
