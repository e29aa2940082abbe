package edge

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/router"
)

// serviceH2 puts a service of HTTP/2 behind the blog.
func (w *world) serviceH2(h http.HandlerFunc) *service {
	s := &service{listener: handover{conns: make(chan net.Conn), closed: make(chan struct{})}}
	s.server = &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0), Protocols: new(http.Protocols)}
	s.server.Protocols.SetUnencryptedHTTP2(true)
	s.wg.Go(func() { s.server.Serve(&s.listener) })
	w.bind(blog, s)
	w.routes.Add(blog, s, router.Options{Proto: router.H2})
	return s
}

// TestEarlyAnswerOfHTTP2: a service that has read enough of a request ends the
// visit by its answer. It went on until the visitor had sent the rest.
func TestEarlyAnswerOfHTTP2(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			w.serviceH2(func(rw http.ResponseWriter, r *http.Request) {
				io.ReadFull(r.Body, make([]byte, 5))
				http.Error(rw, "too much", http.StatusRequestEntityTooLarge)
			})
			in, out := io.Pipe()
			defer out.Close()
			go io.WriteString(out, "hello")
			start := time.Now()
			res, err := w.visitor(h2).Post("https://"+blog, "x/y", in)
			if err != nil {
				t.Fatal(err)
			}
			if got := read(t, res); res.StatusCode != 413 || got != "too much\n" || time.Since(start) > time.Second {
				t.Errorf("got %d %q after %v", res.StatusCode, got, time.Since(start))
			}
		})
	})
}

// TestHintsWhenTheVisitEnds: hints that come while their visit is given up are
// not written next to what is written then, or after it: the standard library
// panicked, and with it the node.
func TestHintsWhenTheVisitEnds(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(e *Edge) { e.ServiceTimeout = 300 * time.Millisecond })
			s := w.serviceH2(func(rw http.ResponseWriter, r *http.Request) {
				for range maxInterim {
					rw.Header().Set("Link", "</x>")
					rw.WriteHeader(http.StatusEarlyHints)
					if r.URL.Path != "/flood" {
						time.Sleep(10 * time.Millisecond)
					}
				}
				<-r.Context().Done()
			})
			c := w.visitor(h2)
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					path := ""
					if i%2 == 0 {
						path = "/flood"
						time.Sleep(time.Duration(i) * time.Millisecond)
					}
					res, err := c.Get("https://" + blog + path)
					if err != nil {
						t.Error(err)
						return
					}
					if read(t, res); res.StatusCode != http.StatusGatewayTimeout {
						t.Errorf("got %d want 504", res.StatusCode)
					}
				})
			}
			wg.Wait()
			c.CloseIdleConnections()
			s.breakAll()
		})
	})
}

// TestSwitchingOverHTTP2: there is no 101 (RFC 9113, section 8.6). A visitor of
// HTTP/1.1 who had asked for nothing was told that what follows is another
// protocol.
func TestSwitchingOverHTTP2(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		w := newWorld(t, nil)
		s := framesService(func(s *frames, head *frame) {
			if head.who() == "other" {
				s.headers(head.stream, true, ":status", "204")
				return
			}
			s.headers(head.stream, false, ":status", "101", "upgrade", "websocket")
			s.headers(head.stream, true, ":status", "200")
		})
		w.bind(blog, s)
		w.routes.Add(blog, s, router.Options{Proto: router.H2})
		c := w.visitor(h2)
		for who, status := range map[string]int{"one": 502, "other": 204} {
			if res, _ := get(t, c, "https://"+blog+"/?who="+who); res.StatusCode != status {
				t.Errorf("%s: got %d want %d", who, res.StatusCode, status)
			}
		}
	})
}

// bodyAlone is a visitor of whom nothing is wanted but a body.
type bodyAlone struct {
	visitor
	nexts   atomic.Int32
	stopped chan struct{} // closed by stopReading
}

func (b *bodyAlone) next() ([]byte, error) {
	b.nexts.Add(1)
	<-b.stopped
	return nil, errStopped
}

func (b *bodyAlone) stopReading() { close(b.stopped) }

// TestUploadStopsFirst: the Transport may read a body first when the visit is
// over, or carried elsewhere. Then it gets nothing, and takes nothing that
// belongs to the next request.
func TestUploadStopsFirst(t *testing.T) {
	for name, test := range map[string]struct {
		reads bool // before stop, and goes on until then
		nexts int32
	}{
		"stop, then Read": {false, 0},
		"Read, then stop": {true, 1},
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			b := &bodyAlone{stopped: make(chan struct{})}
			u := &uploadH2{v: &visit{visitor: b, watch: new(watch)}, r: &http.Request{Trailer: http.Header{}}}
			first := make(chan error, 1)
			if test.reads {
				go func() {
					_, err := u.Read(make([]byte, 10))
					first <- err
				}()
				synctest.Wait()
			}
			u.stop()
			if test.reads {
				if err := <-first; !errors.Is(err, errStopped) {
					t.Errorf("the Read under way: %v", err)
				}
			}
			for range 2 {
				if n, err := u.Read(make([]byte, 10)); n != 0 || err == nil {
					t.Errorf("behind stop: read %d, %v", n, err)
				}
			}
			if got := b.nexts.Load(); got != test.nexts {
				t.Errorf("the visitor was read from %d times; want %d", got, test.nexts)
			}
		}))
	}
}
