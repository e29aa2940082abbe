package edge

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

// echo upgrades to a protocol without rules: what comes goes back, until the
// end of what comes.
func echo(rw http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "echo" || r.Header.Get("Connection") != "Upgrade" {
		http.Error(rw, fmt.Sprintf("no upgrade: %q %q", r.Header["Upgrade"], r.Header["Connection"]), http.StatusUpgradeRequired)
		return
	}
	c, brw, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		panic(err)
	}
	defer c.Close()
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: Echo\r\nCulvert-Error: x\r\n\r\n")
	io.Copy(c, brw.Reader)
	io.WriteString(c, "end")
}

func TestUpgrade(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain %v", plain), func(t *testing.T) {
			w := newWorld(t, func(e *Edge) {
				if plain {
					e.GetCertificate = nil
				}
			})
			s := newService(echo)
			w.bind(blog, s)
			v := w.raw(blog)
			// What the visitor sends before he is answered is not lost.
			v.send("GET / HTTP/1.1\nHost: %s\nConnection: keep-alive, Upgrade\nUpgrade: echo\n\nearly", blog)
			res := v.answer("GET")
			if res.StatusCode != 101 || res.Header.Get("Upgrade") != "Echo" || res.Header.Get("Culvert-Error") != "" {
				t.Fatalf("got %d %v", res.StatusCode, res.Header)
			}
			want := make([]byte, 1<<20)
			rand.Read(want)
			go func() {
				v.Write(want)
				v.Conn.(interface{ CloseWrite() error }).CloseWrite()
			}()
			// The end of one direction is passed on, and the other still speaks.
			got, err := io.ReadAll(v.r)
			if err != nil || string(got[:5]) != "early" || !bytes.Equal(got[5:len(got)-3], want) || string(got[len(got)-3:]) != "end" {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			v.Close()
			if n := s.aborted.Load(); n != 0 {
				t.Errorf("%d streams aborted after a clean end", n)
			}
		})
	}
}

// TestUpgradeThatFails: bytes after an answer that is no upgrade are HTTP, and
// the edge reads them as such (WS-05).
func TestUpgradeThatFails(t *testing.T) {
	w := newWorld(t, nil)
	asked := make(chan string, 2)
	w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path + r.Header.Get("X-Forwarded-For")
		rw.WriteHeader(http.StatusUpgradeRequired)
	}))
	v := w.raw(blog)
	v.send("GET /a HTTP/1.1\nHost: %s\nConnection: Upgrade\nUpgrade: websocket\n\nGET /b HTTP/1.1\nHost: %s\nX-Forwarded-For: 6.6.6.6\n\n", blog, blog)
	for _, want := range []string{"/a192.0.2.7", "/b192.0.2.7"} {
		if res := v.answer("GET"); res.StatusCode != http.StatusUpgradeRequired {
			t.Errorf("got %d", res.StatusCode)
		}
		if got := within(t, "request", asked); got != want {
			t.Errorf("got %s want %s", got, want)
		}
	}
}

// TestUpgradesThatAreIgnored: h2c would hide requests from the edge, and
// HTTP/1.0 has no upgrades.
func TestUpgradesThatAreIgnored(t *testing.T) {
	w := newWorld(t, nil)
	w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprint(rw, r.Header["Upgrade"], r.Header["Connection"], r.Header["Http2-Settings"])
	}))
	for _, head := range []string{
		"GET / HTTP/1.1\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABk\n",
		"GET / HTTP/1.1\nConnection: Upgrade\nUpgrade: echo, H2C\nHTTP2-Settings: AAMAAABk\n",
		"GET / HTTP/1.0\nConnection: Upgrade\nUpgrade: echo\n",
	} {
		if res := w.ask(head + "Host: " + blog + "\n\n"); res.StatusCode != 200 {
			t.Errorf("got %d", res.StatusCode)
		} else if got := read(t, res); got != "[] [] []" {
			t.Errorf("%q: service got %s", head, got)
		}
	}
}

// TestUpgradedIsNeverIdle: a WebSocket may be silent for as long as it likes.
func TestUpgradedIsNeverIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.bind(blog, newService(echo))
		v := w.raw(blog)
		v.send("GET / HTTP/1.1\nHost: %s\nConnection: Upgrade\nUpgrade: echo\n\n", blog)
		v.answer("GET")
		time.Sleep(24 * time.Hour)
		go io.WriteString(v, "still here")
		got := make([]byte, 10)
		if _, err := io.ReadFull(v.r, got); err != nil || string(got) != "still here" {
			t.Errorf("after a day: got %q, %v", got, err)
		}
		v.socket.Break()
	})
}

// TestUpgradedIsCut: whoever breaks off, the other is not told that it ended
// well.
func TestUpgradedIsCut(t *testing.T) {
	open := func(t *testing.T) (*service, *rawVisitor, chan error) {
		w := newWorld(t, nil)
		ended := make(chan error, 1)
		s := rawService(func(c net.Conn) {
			c.Read(make([]byte, 4096))
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			_, err := c.Read(make([]byte, 1))
			ended <- err
		})
		w.bind(blog, s)
		v := w.raw(blog)
		v.send("GET / HTTP/1.1\nHost: %s\nConnection: Upgrade\nUpgrade: echo\n\n", blog)
		v.answer("GET")
		return s, v, ended
	}
	t.Run("by the visitor", func(t *testing.T) {
		_, v, ended := open(t)
		v.socket.Break()
		if err := within(t, "end at the service", ended); err == io.EOF {
			t.Error("the service saw a clean end")
		}
	})
	t.Run("by the service", func(t *testing.T) {
		s, v, _ := open(t)
		s.breakAll()
		if _, err := v.r.ReadByte(); err == nil || err == io.EOF {
			t.Errorf("the visitor got %v", err)
		}
	})
}

// TestAgentByWebSocket: the bytes of an agent's connection, in both directions,
// from the agent's own address.
func TestAgentByWebSocket(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain %v", plain), func(t *testing.T) {
			stays := make(agents, 1)
			w := newWorld(t, func(e *Edge) {
				e.Agents = stays
				e.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}
				if plain {
					e.GetCertificate = nil
				}
			})
			scheme := map[bool]string{false: "wss://", true: "ws://"}[plain]
			ws, _, err := websocket.Dial(t.Context(), scheme+domain+"/connect", &websocket.DialOptions{
				HTTPClient: w.visitor(false), Subprotocols: []string{"culvert.1"},
				HTTPHeader: http.Header{"X-Forwarded-For": {"198.51.100.9"}},
			})
			if err != nil {
				t.Fatal(err)
			}
			s := within(t, "agent", stays)
			if got := s.conn.RemoteAddr().String(); got != "198.51.100.9:0" {
				t.Errorf("agent comes from %s", got)
			}
			agent := websocket.NetConn(t.Context(), ws, websocket.MessageBinary)
			want := make([]byte, 300<<10) // more than a message may hold by default
			rand.Read(want)
			for _, way := range []struct{ from, to net.Conn }{{agent, s.conn}, {s.conn, agent}} {
				go way.from.Write(want)
				got := make([]byte, len(want))
				if _, err := io.ReadFull(way.to, got); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("got %v", err)
				}
			}
			start := time.Now()
			s.conn.Close()
			if took := time.Since(start); took > time.Second {
				t.Errorf("Close took %v", took)
			}
			if _, err := agent.Read(make([]byte, 1)); err == nil {
				t.Error("the agent hears on")
			}
			close(s.done)
		})
	}
}

// TestNodesOwnHost is everything at the node's host that is not an agent.
func TestNodesOwnHost(t *testing.T) {
	stays := make(agents, 1)
	w := newWorld(t, func(e *Edge) { e.Agents = stays })
	c := w.visitor(false)
	const upgrade = "Connection: Upgrade\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n"
	for name, test := range map[string]struct {
		request string
		status  int
	}{
		"home":             {"GET / HTTP/1.1\n", 200},
		"home by HEAD":     {"HEAD / HTTP/1.1\n", 200},
		"home by POST":     {"POST / HTTP/1.1\nContent-Length: 0\n", 400},
		"elsewhere":        {"GET /admin HTTP/1.1\n", 404},
		"connect":          {"GET /connect HTTP/1.1\n", 400},
		"no subprotocol":   {"GET /connect HTTP/1.1\nUpgrade: websocket\n" + upgrade, 400},
		"other protocol":   {"GET /connect HTTP/1.1\nUpgrade: websocket\nSec-WebSocket-Protocol: chat\n" + upgrade, 400},
		"from a page":      {"GET /connect HTTP/1.1\nUpgrade: websocket\nSec-WebSocket-Protocol: culvert.1\nOrigin: https://" + domain + "\n" + upgrade, 400},
		"no WebSocket key": {"GET /connect HTTP/1.1\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\nSec-WebSocket-Protocol: culvert.1\n", 400},
	} {
		t.Run(name, func(t *testing.T) {
			v := w.raw(domain)
			v.send("%sHost: %s\n\n", test.request, domain)
			method, _, _ := strings.Cut(test.request, " ")
			if res := v.answer(method); res.StatusCode != test.status {
				t.Errorf("got %d want %d", res.StatusCode, test.status)
			}
		})
	}
	if res, body := get(t, c, "https://"+domain+"/"); !strings.Contains(body, "Culvert node") || res.Header.Get("Content-Security-Policy") == "" {
		t.Errorf("got %v %s", res.Header, body)
	}
	select {
	case <-stays:
		t.Error("somebody was taken for an agent")
	default:
	}
}

func TestRedirect(t *testing.T) {
	w := newWorld(t, nil)
	for _, port := range []int{0, 443, 8443} {
		e := &Edge{Domain: domain, Visitors: w.routes, RedirectPort: port}
		step := newDoorstep()
		served := make(chan error, 1)
		go func() { served <- e.ServeRedirect(context.Background(), step) }()
		suffix := ""
		if port == 8443 {
			suffix = ":8443"
		}
		for _, test := range []struct {
			request  string
			status   int
			location string
		}{
			{"GET /a/b?c=d HTTP/1.1\nHost: " + blog + "\n\n", 301, "https://" + blog + suffix + "/a/b?c=d"},
			{"HEAD / HTTP/1.1\nHost: " + domain + ":80\n\n", 301, "https://" + domain + suffix + "/"},
			{"POST /x HTTP/1.1\nHost: BLOG." + domain + ".\nContent-Length: 1\n\nx", 308, "https://" + blog + suffix + "/x"},
			{"OPTIONS * HTTP/1.1\nHost: " + blog + "\n\n", 308, "https://" + blog + suffix + "/"},
			{"GET //evil.example/ HTTP/1.1\nHost: " + blog + "\n\n", 301, "https://" + blog + suffix + "//evil.example/"},
			{"GET http://" + blog + "/x HTTP/1.1\nHost: " + blog + "\n\n", 301, "https://" + blog + suffix + "/x"},
			{"GET http://" + blog + "/x HTTP/1.1\nHost: evil.example\n\n", 400, ""},
			{"GET /<\"'`\\ HTTP/1.1\nHost: " + blog + "\n\n", 301, "https://" + blog + suffix + "/%3C%22'%60%5C"},
			{"GET / HTTP/1.1\nHost: evil.example\n\n", 404, ""},
			{"GET / HTTP/1.1\nHost: a." + blog + "\n\n", 404, ""},
			{"GET / HTTP/1.1\nHost: x" + domain + "\n\n", 404, ""},
			{"GET / HTTP/1.1\nHost: 192.0.2.1\n\n", 404, ""},
			{"GET / HTTP/1.1\nHost: <script>\n\n", 400, ""},
			{"GET / HTTP/1.1\n\n", 400, ""},
			{"CONNECT " + blog + ":443 HTTP/1.1\nHost: " + blog + "\n\n", 501, ""},
			{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", 400, ""},
		} {
			c, err := step.dial(w.from)
			if err != nil {
				t.Fatal(err)
			}
			go fmt.Fprint(c, strings.ReplaceAll(test.request, "\n", "\r\n"))
			b, _ := io.ReadAll(c)
			c.Close()
			got := string(b)
			if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", test.status)) {
				t.Errorf("%q: got %q; want %d", test.request, got, test.status)
			}
			if want := "\r\nLocation: " + test.location + "\r\n"; test.location != "" && !strings.Contains(got, want) {
				t.Errorf("%q: got %q; want location %q", test.request, got, test.location)
			}
			if test.location == "" && !strings.Contains(got, "Culvert-Error: ") || strings.Contains(got, "script") {
				t.Errorf("%q: got %q", test.request, got)
			}
		}
		if err := e.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := within(t, "ServeRedirect", served); err != nil {
			t.Error(err)
		}
	}
}

func TestRedirectIsNotHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		step := newDoorstep()
		e := &Edge{Domain: domain, Visitors: w.routes}
		served := make(chan error, 1)
		go func() { served <- e.ServeRedirect(context.Background(), step) }()
		c, err := step.dial(w.from)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		io.WriteString(c, "GET / HT")
		io.Copy(io.Discard, c)
		if took := time.Since(start); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("hung up after %v; want 10 s", took)
		}
		c.Close()
		e.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}
