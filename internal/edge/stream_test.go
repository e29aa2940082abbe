package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/culvertd/culvert/internal/router"
)

// TestStreamsArePooledPerStay: the next request takes the same stream, but
// never one that was opened for an earlier stay.
func TestStreamsArePooledPerStay(t *testing.T) {
	w := newWorld(t, nil)
	says := func(word string) *service {
		return newService(func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, word) })
	}
	old, young := says("old"), says("young")
	w.bind(blog, old)
	c := w.visitor(false)
	for range 5 {
		if _, got := get(t, c, "https://"+blog); got != "old" {
			t.Fatalf("got %q", got)
		}
	}
	if got := old.opened.Load(); got != 1 {
		t.Errorf("5 requests one after another took %d streams; want 1", got)
	}
	w.bind(blog, young)
	if _, got := get(t, c, "https://"+blog); got != "young" {
		t.Errorf("got %q; want an answer of the stay that holds the host", got)
	}
	old.mu.Lock()
	defer old.mu.Unlock()
	v := old.visits[0]
	if v.Host != blog || v.Epoch != 1 || len(v.ID) != 16 || v.Remote.String() != w.from {
		t.Errorf("the opener was told %+v", v)
	}
}

// mover is Visitors whose routes are out of date as soon as they are looked up.
type mover struct {
	*router.Router
	stale int // lookups that are
}

func (m *mover) Lookup(host string) (router.Route, error) {
	route, err := m.Router.Lookup(host)
	if m.stale > 0 {
		m.stale--
		route.Epoch += 1000
	}
	return route, err
}

// TestMoved: a host that changes hands between looking and opening is followed
// with nothing lost, a few times.
func TestMoved(t *testing.T) {
	for stale, want := range map[int]string{1: "body", 2: "body", 9: "tunnel_offline"} {
		t.Run(fmt.Sprint(stale), func(t *testing.T) {
			m := &mover{stale: stale}
			w := newWorld(t, func(e *Edge) {
				m.Router = e.Visitors.(*router.Router)
				e.Visitors = m
			})
			s := newService(func(rw http.ResponseWriter, r *http.Request) {
				if r.Host != "kept.example" {
					t.Errorf("Host is %q", r.Host)
				}
				io.Copy(rw, r.Body)
			})
			w.bind(blog, s)
			w.routes.Add(blog, s, router.Options{HostHeader: "kept.example"})
			res, err := w.visitor(false).Post("https://"+blog, "x/y", strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			if got := read(t, res); !strings.Contains(got, want) {
				t.Errorf("got %d %q; want %q", res.StatusCode, got, want)
			}
		})
	}
}

// TestIdleStreamsLeave: a stream nobody uses is given back before a service
// would hang up on it, and gently.
func TestIdleStreamsLeave(t *testing.T) {
	w := newWorld(t, nil)
	ended := make(chan error, 1)
	s := rawService(func(c net.Conn) {
		c.Read(make([]byte, 4096))
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		_, err := c.Read(make([]byte, 1))
		ended <- err
	})
	w.bind(blog, s)
	get(t, w.visitor(false), "https://"+blog)
	start := time.Now()
	if err := within(t, "end of the stream", ended); err != io.EOF || s.aborted.Load() != 0 {
		t.Errorf("got %v, %d aborted; want a clean end", err, s.aborted.Load())
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("after %v; some services hang up after 2 s", took)
	}
}

// TestEarlyAnswerOverTCP: on a real socket, hanging up on a visitor who is
// still sending would take the answer with it.
func TestEarlyAnswerOverTCP(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain %v", plain), func(t *testing.T) {
			w := newWorld(t, nil)
			w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
				http.Error(rw, "too much", http.StatusRequestEntityTooLarge)
			}))
			e := &Edge{Domain: domain, Visitors: w.routes}
			if !plain {
				e.GetCertificate = w.edge.GetCertificate
			}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- e.Serve(context.Background(), ln) }()
			for range 2 {
				socket, err := net.Dial("tcp", ln.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				c := socket
				if !plain {
					c = tls.Client(socket, &tls.Config{RootCAs: w.roots, ServerName: blog})
				}
				fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n", blog)
				for range 30 { // slowly enough to be overtaken by the answer
					if _, err := fmt.Fprintf(c, "10000\r\n%s\r\n", make([]byte, 64<<10)); err != nil {
						t.Fatalf("while sending: %v", err)
					}
					time.Sleep(10 * time.Millisecond)
				}
				res, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Fatalf("the answer was lost: %v", err)
				}
				if got := read(t, res); res.StatusCode != 413 || got != "too much\n" {
					t.Errorf("got %d %q", res.StatusCode, got)
				}
				c.Close()
			}
			e.Close()
			if err := within(t, "Serve", served); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRestOfABodyIsNoRequest: what follows an answer that came before the end
// of its request is never read as another (H1-09).
func TestRestOfABodyIsNoRequest(t *testing.T) {
	const smuggled = "GET /smuggled HTTP/1.1\nHost: " + blog + "\n\n"
	for name, test := range map[string]struct{ head, body, rest string }{
		"length":             {"Content-Length: 1000", "x", smuggled},
		"length, at once":    {"Content-Length: 1000", "x" + smuggled, smuggled},
		"large length":       {"Content-Length: 1000000", "x", smuggled},
		"chunks":             {"Transfer-Encoding: chunked", "1\nx\n", smuggled},
		"chunks, bad":        {"Transfer-Encoding: chunked", "1\nx\nZ\n" + smuggled, smuggled},
		"chunks, half a one": {"Transfer-Encoding: chunked", "FFF\n" + smuggled, smuggled},
		"half a line":        {"Transfer-Encoding: chunked", "1;GET /smuggled HTTP/1.1", "\n" + smuggled},
	} {
		for _, host := range []string{blog, "unknown." + domain} {
			t.Run(name+" "+host, inBubble(func(t *testing.T) {
				w := newWorld(t, func(e *Edge) { e.GetCertificate = nil })
				w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/smuggled" {
						t.Error("the service got another request")
					}
					rc := http.NewResponseController(rw)
					rc.EnableFullDuplex()
					rw.Header().Set("Content-Length", "0")
					rw.WriteHeader(http.StatusForbidden)
					rc.Flush()
				}))
				v := w.raw(host)
				v.send("POST / HTTP/1.1\nHost: %s\n%s\n\n%s", host, test.head, test.body)
				res := v.answer("POST")
				if host == blog && res.StatusCode != http.StatusForbidden && res.StatusCode != 400 {
					t.Errorf("got %d", res.StatusCode)
				}
				read(t, res)
				io.WriteString(v, strings.ReplaceAll(test.rest, "\n", "\r\n"))
				if rest, _ := io.ReadAll(v.r); len(rest) > 0 {
					t.Errorf("then came %q; want the end of the connection", rest)
				}
			}))
		}
	}
}
