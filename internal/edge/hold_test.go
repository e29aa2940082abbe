package edge

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/router"
)

const away = "away." + domain // a host that is owned

// bothEnds runs a test as a visitor of either HTTP, with services of either.
func bothEnds(t *testing.T, f func(t *testing.T, h2 bool, proto router.Proto)) {
	both(t, func(t *testing.T, h2 bool) {
		for name, proto := range map[string]router.Proto{"to h1": router.H1, "to h2": router.H2} {
			t.Run(name, inBubble(func(t *testing.T) { f(t, h2, proto) }))
		}
	})
}

// add puts a service behind the host that is owned.
func (w *world) add(s *service, proto router.Proto) uint64 {
	w.cleanup = append(w.cleanup, s.close)
	return w.routes.Add(away, s, router.Options{Proto: proto})
}

// lose is an agent that was there and was lost.
func (w *world) lose() {
	w.routes.Lose(away, w.routes.Add(away, nil, router.Options{}))
}

// An answered is what a visitor got, and when.
type answered struct {
	status int
	code   string
	body   string
	header http.Header
	took   time.Duration
	err    error
}

// asks sends a request, and tells what became of it.
func asks(ctx context.Context, c *http.Client, method, body string) <-chan answered {
	got := make(chan answered, 1)
	start := time.Now()
	go func() {
		var from io.Reader
		if body != "" {
			from = strings.NewReader(body)
		}
		r, _ := http.NewRequestWithContext(ctx, method, "https://"+away, from)
		res, err := c.Do(r)
		if err != nil {
			got <- answered{err: err, took: time.Since(start)}
			return
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		got <- answered{res.StatusCode, res.Header.Get("Culvert-Error"), string(b), res.Header, time.Since(start), err}
	}()
	return got
}

// says is a service that counts, and says what it was sent.
func says(n *atomic.Int32) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		n.Add(1)
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(rw, "%s %s", r.Method, b)
	}
}

// TestHeld: a visitor whose agent is expected waits for it, with his body, and
// none of the clocks that run for services runs meanwhile.
func TestHeld(t *testing.T) {
	bothEnds(t, func(t *testing.T, h2 bool, proto router.Proto) {
		for method, body := range map[string]string{"GET": "", "POST": "change", "PUT": strings.Repeat("much", 1<<18)} {
			w := newWorld(t, func(e *Edge) { e.ServiceTimeout, e.Silence = time.Second, time.Second })
			w.lose()
			got := asks(t.Context(), w.visitor(h2), method, body)
			time.Sleep(7 * time.Second)
			var n atomic.Int32
			w.add(newService(says(&n)), proto)
			a := <-got
			if a.err != nil || a.body != method+" "+body || a.took != 7*time.Second || n.Load() != 1 {
				t.Errorf("%s: got %d, %d bytes, %v after %v, asked %d times; want the answer after 7s, asked once",
					method, a.status, len(a.body), a.err, a.took, n.Load())
			}
		}
	})
}

// TestHeldThenLate: a service that is late is late, when it was waited for as
// well.
func TestHeldThenLate(t *testing.T) {
	bothEnds(t, func(t *testing.T, h2 bool, proto router.Proto) {
		for method, body := range map[string]string{"GET": "", "POST": "change"} {
			w := newWorld(t, func(e *Edge) { e.ServiceTimeout = 4 * time.Second })
			w.lose()
			got := asks(t.Context(), w.visitor(h2), method, body)
			time.Sleep(7 * time.Second)
			w.add(newService(func(rw http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
			}), proto)
			if a := <-got; a.status != 504 || a.took < 11*time.Second || a.took > 11*time.Second+lateBy {
				t.Errorf("%s: got %d after %v; want 504 after 11s", method, a.status, a.took)
			}
		}
	})
}

// TestHeldInVain: who has waited long enough is told to come again.
func TestHeldInVain(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		for method, body := range map[string]string{"GET": "", "POST": "change"} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.lose()
				c := w.visitor(h2)
				a := <-asks(t.Context(), c, method, body)
				if a.err != nil || a.status != 503 || a.code != "tunnel_offline" || a.took != 10*time.Second ||
					a.header.Get("Retry-After") == "" || a.header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s: got %+v; want 503 after 10s", method, a)
				}
				if a := <-asks(t.Context(), c, method, body); a.status != 503 || a.took != 0 {
					t.Errorf("%s: then got %+v; want 503 at once", method, a)
				}
			})
		}
	})
}

// TestHeldVisitorLeaves: his place is free for another within two seconds.
func TestHeldVisitorLeaves(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		for method, body := range map[string]string{"GET": "", "POST": "change"} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.routes.SetHold(time.Minute, 1)
				w.lose()
				ctx, leave := context.WithCancel(t.Context())
				first := asks(ctx, w.visitor(h2), method, body)
				time.Sleep(5 * time.Second)
				if a := <-asks(t.Context(), w.visitor(h2), method, body); a.status != 503 || a.took != 0 {
					t.Errorf("%s: one more got %+v; want 503 at once", method, a)
				}
				leave()
				<-first
				time.Sleep(2 * time.Second)
				got := asks(t.Context(), w.visitor(h2), method, body)
				time.Sleep(time.Second)
				var n atomic.Int32
				w.add(newService(says(&n)), router.H1)
				if a := <-got; a.status != 200 || n.Load() != 1 {
					t.Errorf("%s: got %+v, asked %d times; want the place of who left, and nothing asked for him", method, a, n.Load())
				}
			})
		}
	})
}

// TestHeldUpgrade: WebSockets wait as well, over both versions.
func TestHeldUpgrade(t *testing.T) {
	t.Run("h1", inBubble(func(t *testing.T) {
		w := newWorld(t, nil)
		w.lose()
		v := w.raw(away)
		v.send("GET / HTTP/1.1\nHost: %s\nConnection: Upgrade\nUpgrade: echo\n\nearly", away)
		time.Sleep(5 * time.Second)
		w.add(newService(echo), router.H1)
		if res := v.answer("GET"); res.StatusCode != 101 {
			t.Fatalf("got %d", res.StatusCode)
		}
		v.Conn.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := io.ReadAll(v.r); string(got) != "earlyend" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	}))
	t.Run("h2", inBubble(func(t *testing.T) {
		w := newWorld(t, nil)
		w.lose()
		f := w.frames()
		f.headers(1, false, ":method", "CONNECT", ":protocol", "echo", ":scheme", "https", ":authority", away, ":path", "/")
		time.Sleep(5 * time.Second)
		w.add(newService(echo), router.H1)
		for {
			g, err := f.next()
			if err != nil {
				t.Fatal(err)
			}
			if g.kind == frameHeaders {
				if got := g.field(":status"); got != "200" {
					t.Errorf("got %v", g.fields)
				}
				break
			}
		}
	}))
}

// TestAwayAndBack: while a session has no connection nobody is sent to it, not
// over streams that it has kept either.
func TestAwayAndBack(t *testing.T) {
	bothEnds(t, func(t *testing.T, h2 bool, proto router.Proto) {
		w := newWorld(t, nil)
		var n atomic.Int32
		s := newService(says(&n))
		epoch := w.add(s, proto)
		c := w.visitor(h2)
		<-asks(t.Context(), c, "GET", "")
		w.routes.Away(away, epoch)
		got := asks(t.Context(), c, "POST", "change")
		time.Sleep(time.Second)
		if n.Load() != 1 {
			t.Error("a visitor was sent to an agent that is away")
		}
		w.routes.Back(away, epoch)
		if a := <-got; a.body != "POST change" || a.took != time.Second {
			t.Errorf("got %+v; want an answer after 1s", a)
		}
	})
}

// TestSessionHasJustDied: a stream that cannot be opened carries nothing, and
// the request goes to the next session, whatever it is: also if the router
// hears only later that the first has ended.
func TestSessionHasJustDied(t *testing.T) {
	bothEnds(t, func(t *testing.T, h2 bool, proto router.Proto) {
		for method, body := range map[string]string{"GET": "", "POST": "change", "PATCH": strings.Repeat("much", 1<<18)} {
			w := newWorld(t, func(e *Edge) { e.ServiceTimeout, e.Silence = time.Second, time.Second })
			var dead, next atomic.Int32
			s := newService(says(&dead))
			why := fmt.Errorf("%w: the session is ending", router.ErrOffline)
			s.refuse.Store(&why)
			epoch := w.add(s, proto)
			got := asks(t.Context(), w.visitor(h2), method, body)
			time.Sleep(2 * time.Second)
			w.routes.Lose(away, epoch)
			time.Sleep(3 * time.Second)
			w.add(newService(says(&next)), proto)
			if a := <-got; a.body != method+" "+body || a.took != 5*time.Second || dead.Load() != 0 || next.Load() != 1 {
				t.Errorf("%s: got %d, %d bytes after %v; %d and %d times asked", method, a.status, len(a.body), a.took, dead.Load(), next.Load())
			}
		}
	})
}

// TestAgentRefusesAStream: which it has not looked at, and so the request goes
// to another, whatever its method.
func TestAgentRefusesAStream(t *testing.T) {
	bothEnds(t, func(t *testing.T, h2 bool, proto router.Proto) {
		for _, method := range []string{"GET", "POST"} {
			w := newWorld(t, nil)
			refuses := rawService(func(c net.Conn) {
				c.Read(make([]byte, 1))
				c.(interface{ Break() }).Break()
			})
			refuses.agent.Store(&router.ErrOffline)
			w.add(refuses, proto)
			var n atomic.Int32
			next := newService(says(&n))
			w.cleanup = append(w.cleanup, next.close)
			got := asks(t.Context(), w.visitor(h2), method, "")
			time.Sleep(time.Second)
			w.routes.Add(away, next, router.Options{Proto: proto})
			if a := <-got; a.body != method+" " || n.Load() != 1 || refuses.opened.Load() != 1 {
				t.Errorf("%s: got %+v; %d times asked, %d streams before", method, a, n.Load(), refuses.opened.Load())
			}
		}
	})
}

// TestAgentLost: in the middle of a request, of which nobody knows what became.
// What is safe is asked again, once; anything else is not.
func TestAgentLost(t *testing.T) {
	bothEnds(t, func(t *testing.T, h2 bool, proto router.Proto) {
		for _, method := range []string{"GET", "POST", "POST with a body"} {
			for _, lost := range []int{1, 2} {
				w := newWorld(t, nil)
				var asked atomic.Int32
				lose := func() *service {
					s := newService(func(rw http.ResponseWriter, r *http.Request) {
						asked.Add(1)
						io.Copy(io.Discard, r.Body) // or nobody looks whether the stream ends
						<-r.Context().Done()
					})
					s.agent.Store(&router.ErrLost)
					return s
				}
				s := lose()
				epoch := w.add(s, proto)
				method, body := method, ""
				if m, ok := strings.CutSuffix(method, " with a body"); ok {
					method, body = m, "change"
				}
				got := asks(t.Context(), w.visitor(h2), method, body)
				for range lost {
					time.Sleep(time.Second)
					w.routes.Lose(away, epoch)
					s.breakAll()
					time.Sleep(time.Second)
					if lost == 1 {
						s = newService(says(&asked))
					} else {
						s = lose()
					}
					epoch = w.add(s, proto)
				}
				a := <-got
				switch {
				case method == "GET" && lost == 1 && (a.body != "GET " || asked.Load() != 2):
					t.Errorf("lost once: got %+v, asked %d times; want an answer, asked twice", a, asked.Load())
				case method == "GET" && lost == 2 && (a.status != 503 || asked.Load() != 2):
					t.Errorf("lost twice: got %+v, asked %d times; want 503, asked twice", a, asked.Load())
				case method == "POST" && (a.status != 503 || asked.Load() != 1 || a.took != time.Second):
					t.Errorf("POST: got %+v, asked %d times; want 503 at once, asked once", a, asked.Load())
				}
			}
		}
	})
}

// endless is Visitors of whom each is refused by another agent.
type endless struct {
	*router.Router
	n atomic.Int32
}

func (e *endless) Open(ctx context.Context, v router.Visit) (net.Conn, error) {
	e.n.Add(1)
	e.Router.Add(away, nil, router.Options{})
	return nil, router.ErrOffline
}

// TestTriesAreBounded: a host that changes hands faster than it can be asked
// does not keep a visitor for ever, nor the node.
func TestTriesAreBounded(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		synctest.Test(t, func(t *testing.T) {
			e := new(endless)
			w := newWorld(t, func(ed *Edge) {
				e.Router = ed.Visitors.(*router.Router)
				ed.Visitors = e
			})
			w.routes.Add(away, nil, router.Options{})
			a := <-asks(t.Context(), w.visitor(h2), "GET", "")
			if a.status != 503 || e.n.Load() != maxMoves+1 {
				t.Errorf("got %+v after %d tries; want 503 after %d", a, e.n.Load(), maxMoves+1)
			}
		})
	})
}

// TestCloseWhileHeld: nobody is waited for when the edge ends.
func TestCloseWhileHeld(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			w.routes.SetHold(time.Hour, 0)
			w.lose()
			got := asks(t.Context(), w.visitor(h2), "GET", "")
			time.Sleep(2 * time.Second)
			w.edge.Close()
			if a := <-got; a.took > 3*time.Second {
				t.Errorf("got %+v; want the end after 2s", a)
			}
		})
	})
}

// TestHeldAndPipelined: what a visitor of HTTP/1.1 says while he is held is his
// next request.
func TestHeldAndPipelined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.lose()
		v := w.raw(away)
		v.send("POST /1 HTTP/1.1\nHost: %s\nContent-Length: 2\n\nab", away)
		time.Sleep(3 * time.Second)
		v.send("GET /2 HTTP/1.1\nHost: %s\n\n", away)
		time.Sleep(3 * time.Second)
		seen := make(chan string, 2)
		w.add(rawService(func(c net.Conn) {
			for r := bufio.NewReader(c); ; {
				q, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				b, _ := io.ReadAll(q.Body)
				seen <- fmt.Sprintf("%s %s %s", q.Method, q.URL.Path, b)
				io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
			}
		}), router.H1)
		for _, want := range []string{"POST /1 ab", "GET /2 "} {
			v.answer("GET")
			if got := <-seen; got != want {
				t.Errorf("the service got %q want %q", got, want)
			}
		}
	})
}
