package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertd/culvert"
	"github.com/culvertd/culvert/internal/admin"
	"github.com/culvertd/culvert/internal/server"
	"github.com/culvertd/culvert/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a running one, and everything that comes to it.
type node struct {
	t     *testing.T
	data  string
	ready server.Ready
	node  *server.Node
	stop  context.CancelFunc
	ended chan error
	admin *admin.Client
	roots *x509.CertPool
}

func start(t *testing.T, data string, change func(*server.Config)) *node {
	t.Helper()
	ready := make(chan server.Ready, 1)
	cfg := server.Config{
		Domain: "tunnel.test", Data: data, Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0",
		OnReady: func(r server.Ready) { ready <- r },
	}
	if change != nil {
		change(&cfg)
	}
	made, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	n := &node{t: t, data: data, node: made, stop: stop, ended: make(chan error, 1), roots: x509.NewCertPool()}
	go func() { n.ended <- made.Run(ctx) }()
	select {
	case n.ready = <-ready:
	case err := <-n.ended:
		t.Fatalf("the node ended: %v", err)
	}
	t.Cleanup(n.end)
	if n.admin, err = admin.Dial(data); err != nil {
		t.Fatal(err)
	}
	if n.ready.CAFile != "" {
		pem, err := os.ReadFile(n.ready.CAFile)
		if err != nil || !n.roots.AppendCertsFromPEM(pem) {
			t.Fatalf("CA file: %v", err)
		}
	}
	return n
}

// end stops the node at once and checks that it ended well.
func (n *node) end() {
	n.node.Close()
	n.stop()
	if n.admin != nil {
		n.admin.Close()
	}
	if err, ok := <-n.ended; ok {
		if err != nil {
			n.t.Errorf("Run: %v", err)
		}
		close(n.ended)
	}
}

func (n *node) token(owner string) admin.CreatedToken {
	n.t.Helper()
	made, err := n.admin.CreateToken(n.t.Context(), admin.NewToken{Owner: owner})
	if err != nil {
		n.t.Fatal(err)
	}
	return made
}

func (n *node) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", n.ready.Listen.String())
}

// serve runs an agent with a tunnel of that name, and h behind it.
func (n *node) serve(secret, name string, h http.HandlerFunc) (*culvert.Listener, error) {
	n.t.Helper()
	agent := &culvert.Agent{Server: "tunnel.test", Token: secret, RootCAs: n.roots, Transport: culvert.TransportTLS, Dial: n.dial}
	n.t.Cleanup(func() { agent.Close() })
	ln, err := agent.Listen(n.t.Context(), culvert.Tunnel{Name: name})
	if err != nil {
		agent.Close()
		return nil, err
	}
	s := &http.Server{Handler: h}
	served := make(chan struct{})
	go func() { s.Serve(ln); close(served) }()
	n.t.Cleanup(func() { agent.Close(); s.Close(); <-served })
	return ln, nil
}

// visitor is an HTTP/1.1 client that finds every name on the node.
func (n *node) visitor() *http.Client {
	t := &http.Transport{DialContext: n.dial, TLSClientConfig: &tls.Config{RootCAs: n.roots}}
	n.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

func hello(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello %s", r.Host) }

func get(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestFirstLight(t *testing.T) {
	data := t.TempDir()
	n := start(t, data, nil)
	if n.ready.Tokens {
		t.Error("a new node says that there is a token")
	}
	if _, err := n.serve("cvt_nonsense", "blog", hello); !errors.Is(err, culvert.ErrUnauthorized) {
		t.Errorf("without a token: %v; want to be refused", err)
	}
	ann := n.token("ann")
	ln, err := n.serve(ann.Secret, "blog", hello)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(n.ready.Listen.String())
	if want := "https://blog.tunnel.test:" + port; ln.URL() != want {
		t.Errorf("URL is %s; want %s", ln.URL(), want)
	}
	if status, body := get(t, n.visitor(), ln.URL()); status != 200 || body != "hello blog.tunnel.test:"+port {
		t.Errorf("got %d %q", status, body)
	}
	if status, _ := get(t, n.visitor(), "https://nobody.tunnel.test"); status != 404 {
		t.Errorf("a name nobody owns: %d; want 404", status)
	}
	redirect, err := http.NewRequest("GET", "http://"+n.ready.HTTP.String()+"/a?b", nil)
	if err != nil {
		t.Fatal(err)
	}
	redirect.Host = "blog.tunnel.test"
	plain := &http.Transport{}
	defer plain.CloseIdleConnections()
	resp, err := plain.RoundTrip(redirect)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Header.Get("Location"); got != ln.URL()+"/a?b" {
		t.Errorf("port 80 sends to %q; want %s/a?b", got, ln.URL())
	}
	n.end()

	// The names and tokens of a node outlive it.
	n = start(t, data, func(c *server.Config) { c.Hold = -1 })
	if !n.ready.Tokens {
		t.Error("after a restart: no token")
	}
	if status, _ := get(t, n.visitor(), "https://blog.tunnel.test"); status != 503 {
		t.Errorf("an owned name whose owner is away: %d; want 503", status)
	}
	if _, err := n.serve(n.token("bob").Secret, "blog", hello); !errors.Is(err, culvert.ErrNameTaken) {
		t.Errorf("another owner: %v; want ErrNameTaken", err)
	}
	if _, err := n.serve(ann.Secret, "blog", hello); err != nil {
		t.Errorf("the owner: %v", err)
	}
	if status, _ := get(t, n.visitor(), "https://blog.tunnel.test"); status != 200 {
		t.Errorf("after the owner is back: %d", status)
	}
}

// TestRevoke: two seconds after a token is revoked no byte flows any more, and
// the agent knows that coming back is of no use.
// TestHold: a node that has just begun expects the agents of the one before,
// and their visitors wait; until it is stopped.
func TestHold(t *testing.T) {
	data := t.TempDir()
	n := start(t, data, nil)
	ann := n.token("ann")
	if _, err := n.serve(ann.Secret, "blog", hello); err != nil {
		t.Fatal(err)
	}
	n.end()

	for _, comes := range []bool{true, false} {
		n = start(t, data, func(c *server.Config) { c.Hold, c.HoldMax = time.Hour, 1 })
		type answer struct {
			status int
			err    error
		}
		answers := make(chan answer, 2)
		c := n.visitor()
		for range 2 {
			go func() {
				res, err := c.Get("https://blog.tunnel.test")
				if err != nil {
					answers <- answer{err: err}
					return
				}
				res.Body.Close()
				answers <- answer{status: res.StatusCode}
			}()
		}
		one := <-answers
		if one.status != 503 {
			t.Fatalf("got %+v; want 503 for one of two, at once", one)
		}
		want := 503
		if comes {
			want = 200
			if _, err := n.serve(ann.Secret, "blog", hello); err != nil {
				t.Fatal(err)
			}
		} else {
			n.stop()
		}
		if a := <-answers; a.err != nil || a.status != want {
			t.Errorf("agent comes %v: got %+v; want %d", comes, a, want)
		}
		n.end()
	}
}

func TestRevoke(t *testing.T) {
	n := start(t, t.TempDir(), nil)
	ann, bob := n.token("ann"), n.token("bob")
	endless := func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			if _, err := fmt.Fprintln(w, "more"); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	}
	ln, err := n.serve(ann.Secret, "blog", endless)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.serve(bob.Secret, "wiki", hello); err != nil {
		t.Fatal(err)
	}
	resp, err := n.visitor().Get(ln.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() {
		t.Fatal("nothing flows")
	}
	if err := n.admin.RevokeToken(t.Context(), ann.Token.ID); err != nil {
		t.Fatal(err)
	}
	revoked := time.Now()
	for lines.Scan() {
	}
	if took := time.Since(revoked); took > 2*time.Second {
		t.Errorf("bytes flowed for %v after the token was revoked", took)
	}
	if lines.Err() == nil {
		t.Error("the cut answer looks like a complete one")
	}
	if status, _ := get(t, n.visitor(), ln.URL()); status != 503 {
		t.Errorf("a visitor after that: %d; want 503, for the name is still owned", status)
	}
	if status, _ := get(t, n.visitor(), "https://wiki.tunnel.test"); status != 200 {
		t.Errorf("the tunnel of another token: %d; want it unharmed", status)
	}
	if _, err := n.serve(ann.Secret, "blog", hello); !errors.Is(err, culvert.ErrUnauthorized) {
		t.Errorf("the agent comes back: %v; want ErrUnauthorized", err)
	}
	sessions, err := n.admin.Sessions(t.Context())
	if err != nil || len(sessions) != 1 || sessions[0].Owner != "bob" {
		t.Errorf("sessions: %+v, %v; want bob's alone", sessions, err)
	}
}

// TestDrain: who is being served when the node is asked to stop is served to
// the end; nobody else is let in.
func TestDrain(t *testing.T) {
	n := start(t, t.TempDir(), nil)
	entered, finish := make(chan struct{}), make(chan struct{})
	ln, err := n.serve(n.token("ann").Secret, "blog", func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-finish
		io.WriteString(w, "done")
	})
	if err != nil {
		t.Fatal(err)
	}
	c, url := n.visitor(), ln.URL()
	answer := make(chan string, 1)
	go func() {
		resp, err := c.Get(url)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		answer <- fmt.Sprint(string(body), err)
	}()
	<-entered
	n.stop()
	for { // until the door is closed, which is the first thing to happen
		conn, err := net.Dial("tcp", n.ready.Listen.String())
		if err != nil {
			break
		}
		conn.Close()
	}
	select {
	case err := <-n.ended:
		t.Fatalf("the node ended before its visitor was served: %v", err)
	default:
	}
	close(finish)
	if got := <-answer; got != "done<nil>" {
		t.Errorf("the visitor got %q; want to be served to the end", got)
	}
}

// TestClose: a second signal cuts.
func TestClose(t *testing.T) {
	n := start(t, t.TempDir(), nil)
	entered, gone := make(chan struct{}), make(chan struct{})
	ln, err := n.serve(n.token("ann").Secret, "blog", func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-gone
	})
	if err != nil {
		t.Fatal(err)
	}
	c, url := n.visitor(), ln.URL()
	visited := make(chan error, 1)
	go func() {
		resp, err := c.Get(url)
		if err == nil {
			resp.Body.Close()
			err = errors.New(resp.Status)
		}
		visited <- err
	}()
	<-entered
	n.stop()
	n.node.Close()
	if err := <-n.ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	close(n.ended)
	close(gone)
	<-visited
}

// TestPortTaken: a node that cannot listen says so and leaves nothing behind.
func TestPortTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	data := t.TempDir()
	for _, change := range []func(*server.Config){
		func(c *server.Config) { c.Listen = ln.Addr().String() },
		func(c *server.Config) { c.HTTP = ln.Addr().String() },
	} {
		cfg := server.Config{Domain: "tunnel.test", Data: data, Listen: "127.0.0.1:0"}
		change(&cfg)
		n, err := server.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Run(t.Context()); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("got %v; want address in use", err)
		} else if redirect := cfg.HTTP != ""; errors.Is(err, server.ErrRedirect) != redirect {
			t.Errorf("%v: ErrRedirect is %t; want %t", err, !redirect, redirect)
		}
	}
	n := start(t, data, nil)
	second, err := server.New(server.Config{Domain: "tunnel.test", Data: data, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); !errors.Is(err, store.ErrLocked) {
		t.Errorf("a second node on the same data: %v; want ErrLocked", err)
	}
	if _, err := n.admin.Status(t.Context()); err != nil {
		t.Errorf("the first node, after that: %v", err)
	}
}

// TestFrontEnd: with TLS off the node speaks plain HTTP and its URLs are the
// front end's.
func TestFrontEnd(t *testing.T) {
	n := start(t, t.TempDir(), func(c *server.Config) {
		c.TLS, c.HTTP = server.TLSOff, ""
		c.TrustedProxies = append(c.TrustedProxies, mustPrefix("127.0.0.1/32"))
	})
	if n.ready.CAFile != "" || n.ready.HTTP != nil {
		t.Errorf("ready is %+v; want neither CA nor redirect", n.ready)
	}
	r, _ := http.NewRequest("GET", "http://"+n.ready.Listen.String()+"/", nil)
	r.Host = "nobody.tunnel.test"
	plain := &http.Transport{}
	defer plain.CloseIdleConnections()
	resp, err := plain.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 404 {
		t.Errorf("got %d; want 404", resp.StatusCode)
	}
}

// TestFiles: files that are missing are a mistake in the setting that names them.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there.pem")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for field, cfg := range map[string]server.Config{
		"cert": {CertFile: filepath.Join(dir, "none.pem"), KeyFile: there},
		"key":  {CertFile: there, KeyFile: filepath.Join(dir, "none.pem")},
	} {
		cfg.Domain, cfg.Data, cfg.Listen, cfg.TLS = "tunnel.test", t.TempDir(), "127.0.0.1:0", server.TLSFiles
		n, err := server.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		err = n.Run(t.Context())
		if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "none.pem") {
			t.Errorf("got %v; want the file that is missing", err)
		}
		if e, ok := errors.AsType[*server.ConfigError](err); !ok || e.Field != field {
			t.Errorf("got %v; want an error about %s", err, field)
		}
	}
}

// TestServiceTimeout: the operator's limit reaches the edge.
func TestServiceTimeout(t *testing.T) {
	n := start(t, t.TempDir(), func(c *server.Config) { c.ServiceTimeout = 50 * time.Millisecond })
	ln, err := n.serve(n.token("ann").Secret, "slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	if err != nil {
		t.Fatal(err)
	}
	if status, _ := get(t, n.visitor(), ln.URL()); status != http.StatusGatewayTimeout {
		t.Errorf("got %d; want 504", status)
	}
}
