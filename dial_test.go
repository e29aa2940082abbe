package culvert

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"

	"github.com/culvertd/culvert/internal/wire"
	"github.com/culvertd/culvert/mux"
)

// A frontEnd terminates TLS and knows only HTTP, as nginx before a node does.
type frontEnd struct {
	*httptest.Server
	id identity
}

// newFrontEnd serves the WebSocket of a node that welcomes everybody and gives
// every tunnel that it is asked for.
func newFrontEnd(t *testing.T, handler http.HandlerFunc) *frontEnd {
	f := &frontEnd{id: newIdentity(t, "node.test")}
	f.Server = httptest.NewUnstartedServer(handler)
	f.TLS = &tls.Config{Certificates: []tls.Certificate{f.id.cert}, NextProtos: []string{"http/1.1"}}
	f.Config.ErrorLog = quiet()
	f.StartTLS()
	t.Cleanup(f.Close)
	return f
}

// agent returns an agent that believes the front end to be node.test.
func (f *frontEnd) agent(t *testing.T) *Agent {
	a := &Agent{Server: "node.test", Token: "cvt_test", RootCAs: f.id.roots}
	a.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, f.Listener.Addr().String())
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func serveWebSocket(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != wire.Path || r.Host != "node.test" {
			t.Errorf("asked for %s at %s", r.URL, r.Host)
		}
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{wire.Subprotocol}})
		if err != nil {
			return
		}
		raw := websocket.NetConn(context.Background(), ws, websocket.MessageBinary)
		if m, err := wire.ReadFirst(raw); err != nil || m.Type() != wire.TypeHello {
			t.Errorf("the agent began with %+v, %v", m, err)
			return
		}
		wire.Write(raw, &wire.Welcome{Version: 1, Domain: "node.test"})
		conn := mux.Server(raw, mux.Config{})
		var visits sync.WaitGroup
		defer visits.Wait()
		defer conn.Close()
		control, err := conn.Accept(r.Context())
		if err != nil {
			return
		}
		for {
			m, err := wire.Read(control)
			if err != nil {
				return
			}
			switch m := m.(type) {
			case *wire.Bind:
				wire.Write(control, &wire.Bound{Request: m.Request, Name: m.Name, URL: "https://" + m.Name + ".node.test"})
				visits.Go(func() {
					if stream, err := conn.Open(r.Context()); err == nil {
						io.WriteString(stream, head(wire.Visit{Request: m.Request})+strings.Repeat("x", 1<<20))
						stream.Close()
					}
				})
			}
		}
	}
}

// TestWebSocket: behind a front end that terminates TLS, the agent finds its
// way by itself, over the connection that it has.
func TestWebSocket(t *testing.T) {
	f := newFrontEnd(t, serveWebSocket(t))
	for _, how := range []Transport{TransportAuto, TransportWebSocket} {
		var d diary
		a := f.agent(t)
		a.Transport, a.OnEvent = how, d.note
		ln, err := a.Listen(t.Context(), Tunnel{Name: "blog"})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); len(got) != 1<<20 || err != nil {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
		conn.Close()
		if e := d.of(EventConnected); len(e) != 1 || e[0].Transport != TransportWebSocket {
			t.Errorf("%v: events were %v", how, d.events)
		}
		a.Close()
	}
}

// TestOldTLS: a front end may have no more than TLS 1.2. A node has 1.3, and one
// that says otherwise is not believed.
func TestOldTLS(t *testing.T) {
	f := newFrontEnd(t, serveWebSocket(t))
	f.TLS.MaxVersion = tls.VersionTLS12
	if _, err := f.agent(t).Listen(t.Context(), Tunnel{Name: "blog"}); err != nil {
		t.Errorf("a front end with TLS 1.2: %v", err)
	}
	if _, err := f.agent(t).greet(t.Context(), [16]byte{1}, TransportTLS); err == nil {
		t.Error("a node with TLS 1.2, asked for TLS alone: it was taken")
	}
	f.TLS.NextProtos = []string{wire.ALPN}
	if _, err := f.agent(t).greet(t.Context(), [16]byte{1}, TransportAuto); err == nil || !strings.Contains(err.Error(), "older than 1.3") {
		t.Errorf("a node with TLS 1.2: %v", err)
	}
	f.TLS.MaxVersion, f.TLS.NextProtos = tls.VersionTLS11, []string{"http/1.1"}
	f.TLS.MinVersion = tls.VersionTLS10
	if _, err := f.agent(t).greet(t.Context(), [16]byte{1}, TransportAuto); err == nil {
		t.Error("a front end with TLS 1.1 was taken")
	}
}

// TestNotANode: what stands at the address, if it is not a node, and what the
// agent says of it.
func TestNotANode(t *testing.T) {
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		how     Transport
		want    string
	}{
		"a web server": {http.NotFound, TransportAuto, "no node answered at /connect: HTTP status 404 Not Found"},
		"a front end without its node": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "120")
			w.WriteHeader(http.StatusBadGateway)
		}, TransportAuto, "HTTP status 502"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.test/connect", http.StatusFound)
		}, TransportAuto, "HTTP status 302"},
		"another WebSocket": {func(w http.ResponseWriter, r *http.Request) {
			if ws, err := websocket.Accept(w, r, nil); err == nil {
				ws.CloseNow()
			}
		}, TransportAuto, "not a node's"},
		"no culvert in ALPN": {http.NotFound, TransportTLS, "application protocol"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFrontEnd(t, tt.handler)
			a := f.agent(t)
			_, err := a.greet(t.Context(), [16]byte{1}, tt.how)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if e, ok := errors.AsType[*statusError](err); ok && strings.Contains(e.status, "502") && retryAfter(err).Seconds() != 120 {
				t.Errorf("Retry-After became %v", retryAfter(err))
			}
		})
	}
}

// TestCutHandshake: a box on the road cuts handshakes that offer culvert/1, and
// lets browsers pass. The agent becomes one, and stays one.
func TestCutHandshake(t *testing.T) {
	f := newFrontEnd(t, serveWebSocket(t))
	var offers atomic.Int32
	f.TLS.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if h.SupportedProtos[0] == wire.ALPN {
			offers.Add(1)
			h.Conn.Close()
			return nil, io.EOF
		}
		return nil, nil
	}
	a := f.agent(t)
	for _, name := range []string{"blog", "wiki"} {
		if _, err := a.Listen(t.Context(), Tunnel{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	if n := offers.Load(); n != 2 {
		t.Errorf("culvert/1 was offered %d times, want 2", n)
	}
}

// TestProxy: an agent in an office asks the proxy for the node, and speaks TLS
// with the node through it.
func TestProxy(t *testing.T) {
	f := newFrontEnd(t, serveWebSocket(t))
	asked := make(chan *http.Request, 1)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		if r.Header.Get("Proxy-Authorization") == "" {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		node, err := net.Dial("tcp", f.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		defer node.Close()
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		go io.Copy(conn, node)
		io.Copy(node, buffered)
	}))
	defer proxy.Close()
	through := func(user *url.Userinfo) *Agent {
		a := f.agent(t)
		a.Dial = nil
		a.Proxy = func(target *url.URL) (*url.URL, error) {
			if target.String() != "https://node.test:443" {
				t.Errorf("the proxy was looked up for %v", target)
			}
			u, err := url.Parse(proxy.URL)
			u.User = user
			return u, err
		}
		return a
	}

	a := through(url.UserPassword("me", "secret"))
	if _, err := a.Listen(t.Context(), Tunnel{Name: "blog"}); err != nil {
		t.Fatal(err)
	}
	a.Close()
	r := <-asked
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:secret"))
	if r.Method != "CONNECT" || r.Host != "node.test:443" || r.Header.Get("Proxy-Authorization") != want {
		t.Errorf("the proxy was asked %s %s, %v", r.Method, r.Host, r.Header)
	}

	a = through(nil)
	_, err := a.dialTCP(t.Context(), "node.test:443")
	if _, ok := errors.AsType[*unreachableError](err); !ok || !strings.Contains(err.Error(), "407") {
		t.Errorf("without credentials: %v", err)
	}
}

// TestProxyThatTalks: what a proxy may answer is bounded, and the passwords in
// its URL are not told.
func TestProxyThatTalks(t *testing.T) {
	for name, answer := range map[string]string{
		"endless head": "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 1<<16),
		"more":         "HTTP/1.1 200 OK\r\n\r\nSSH-2.0",
		"nothing":      "",
		"nonsense":     "hello\r\n\r\n",
	} {
		ours, theirs := net.Pipe()
		go func() {
			http.ReadRequest(bufio.NewReader(theirs))
			io.WriteString(theirs, answer)
			theirs.Close()
		}()
		dial := func(context.Context, string, string) (net.Conn, error) { return ours, nil }
		proxy, _ := url.Parse("http://me:canary@proxy.test")
		_, err := dialThrough(t.Context(), dial, proxy, "node.test:443")
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSplitServer(t *testing.T) {
	for in, want := range map[string]string{
		"tunnel.example.com":          "tunnel.example.com tunnel.example.com:443",
		"tunnel.example.com:8443":     "tunnel.example.com tunnel.example.com:8443",
		"https://tunnel.example.com/": "tunnel.example.com tunnel.example.com:443",
		"192.0.2.1":                   "192.0.2.1 192.0.2.1:443",
		"[2001:db8::1]:8443":          "2001:db8::1 [2001:db8::1]:8443",
		"[2001:db8::1]":               "2001:db8::1 [2001:db8::1]:443",
		"":                            "server: none given",
		"http://tunnel.example.com":   "want HOST or HOST:PORT",
		"tunnel.example.com/x":        "want HOST or HOST:PORT",
		"tunnel.example.com?x":        "want HOST or HOST:PORT",
		"me@tunnel.example.com":       "want HOST or HOST:PORT",
		"tunnel.example.com:":         "no port",
		"tunnel.example.com:0":        "1 to 65535",
		"tunnel.example.com:65536":    "1 to 65535",
		":443":                        "want HOST or HOST:PORT",
		"two words":                   "want HOST or HOST:PORT",
		"2001:db8::1":                 "want HOST or HOST:PORT",
	} {
		host, addr, err := splitServer(in)
		got := host + " " + addr
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestLocalhostIsHere(t *testing.T) {
	for addr, want := range map[string]string{
		"tunnel.localhost:8443": "localhost:8443",
		"A.B.LOCALHOST:443":     "localhost:443",
		"localhost:443":         "localhost:443",
		"notlocalhost:443":      "notlocalhost:443",
		"localhost.example:443": "localhost.example:443",
	} {
		if got := localhost(addr); got != want {
			t.Errorf("%s is dialled at %s; want %s", addr, got, want)
		}
	}
}
