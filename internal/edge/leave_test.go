package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestLeaveAnswersTheNext: a visitor who keeps his connection is answered once
// more, and told that it was the last time; who does not ask within a second is
// hung up on, and then nobody is left.
func TestLeaveAnswersTheNext(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain %v", plain), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(e *Edge) {
					if plain {
						e.GetCertificate = nil
					}
				})
				w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, r.URL.Path) }))
				asking, idle, fresh := w.raw(blog), w.raw(blog), w.raw(blog)
				for _, v := range []*rawVisitor{asking, idle} {
					v.send("GET /1 HTTP/1.1\nHost: %s\n\n", blog)
					if res := v.answer("GET"); read(t, res) != "/1" || res.Close {
						t.Error("told to leave too early")
					}
				}
				synctest.Wait()
				w.edge.Leave()
				start := time.Now()
				time.Sleep(900 * time.Millisecond)
				asking.send("GET /2 HTTP/1.1\nHost: %s\n\n", blog)
				if res := asking.answer("GET"); read(t, res) != "/2" || !res.Close {
					t.Errorf("got %s, close %v; want an answer and the word that it is the last", res.Status, res.Close)
				}
				for what, v := range map[string]*rawVisitor{"who was answered": asking, "idle": idle, "who never asked": fresh} {
					if _, err := v.r.ReadByte(); err != io.EOF {
						t.Errorf("%s: %v; want the end", what, err)
					}
					v.Close()
				}
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("the idle were there for %v", took)
				}
				if err := w.edge.Shutdown(context.Background()); err != nil {
					t.Errorf("Shutdown: %v", err)
				}
				if took := time.Since(start); took > 4*time.Second {
					t.Errorf("took %v with nobody there", took)
				}
			})
		})
	}
}

// TestLeaveDuringRequest: who was told nothing about the end, because the head
// of his answer had left before, may ask once more.
func TestLeaveDuringRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		finish := make(chan bool)
		w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Length", "4")
			io.WriteString(rw, "ha")
			http.NewResponseController(rw).Flush()
			if r.URL.Path == "/1" {
				<-finish
			}
			io.WriteString(rw, "lf")
		}))
		v := w.raw(blog)
		v.send("POST /1 HTTP/1.1\nHost: %s\nContent-Length: 0\n\n", blog)
		time.Sleep(time.Second)
		w.edge.Leave()
		time.Sleep(5 * time.Second)
		close(finish)
		if res := v.answer("POST"); read(t, res) != "half" || res.Close {
			t.Fatal("the head was sent before")
		}
		v.send("POST /2 HTTP/1.1\nHost: %s\nContent-Length: 0\n\n", blog)
		if res := v.answer("POST"); read(t, res) != "half" || !res.Close {
			t.Errorf("got %s, close %v", res.Status, res.Close)
		}
		v.Close()
	})
}

// TestLeaveHTTP2: requests that are on their way when the edge leaves are
// answered, those that come later over the connection as well, and it ends.
func TestLeaveHTTP2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			time.Sleep(10 * time.Millisecond)
			rw.Write(b)
		}))
		c, idle := w.visitor(true), w.visitor(true)
		ask := func(c *http.Client) error {
			res, err := c.Post("https://"+blog, "", http.NoBody)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			if _, err = io.ReadAll(res.Body); res.StatusCode != 200 || res.ProtoMajor != 2 {
				err = fmt.Errorf("%s %s, %v", res.Proto, res.Status, err)
			}
			return err
		}
		for _, c := range []*http.Client{c, idle} {
			if err := ask(c); err != nil {
				t.Fatal(err)
			}
		}
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if err := ask(c); err != nil {
					t.Errorf("on its way: %v", err)
				}
			})
		}
		time.Sleep(time.Millisecond)
		w.edge.Leave()
		wg.Wait()
		if err := ask(idle); err != nil {
			t.Errorf("later: %v", err)
		}
		start := time.Now()
		if err := w.edge.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("took %v with nobody there", took)
		}
	})
}

// TestLeaveHandshake: who was accepted before is served; who does not come to
// an end has two seconds.
func TestLeaveHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "hello") }))
		silent, err := w.step.dial("192.0.2.66:6")
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		c, err := w.step.dial(w.from)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.edge.Leave()
		v := &rawVisitor{t: t, Conn: tls.Client(c, &tls.Config{RootCAs: w.roots, ServerName: blog})}
		defer v.Close()
		v.r = bufio.NewReader(v)
		v.send("GET / HTTP/1.1\nHost: %s\n\n", blog)
		if got := read(t, v.answer("GET")); got != "hello" {
			t.Errorf("got %q", got)
		}
		start := time.Now()
		if _, err := silent.Read(make([]byte, 1)); err != io.EOF || time.Since(start) > 2*time.Second {
			t.Errorf("silent: %v after %v", err, time.Since(start))
		}
	})
}

// TestSettle: a WebSocket may live on when no more requests can come.
func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		finish := make(chan bool)
		w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") == "" {
				return
			}
			c, _, _ := http.NewResponseController(rw).Hijack()
			io.WriteString(c, "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			<-finish
			c.Close()
		}))
		upgraded, idle := w.raw(blog), w.raw(blog)
		defer idle.Close()
		upgraded.send("GET / HTTP/1.1\nHost: %s\nConnection: upgrade\nUpgrade: echo\n\n", blog)
		upgraded.answer("GET")
		idle.send("GET / HTTP/1.1\nHost: %s\n\n", blog)
		idle.answer("GET")
		short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		w.edge.Leave()
		if err := w.edge.Settle(short); err == nil {
			t.Error("settled while a visitor might ask again")
		}
		if err := w.edge.Settle(t.Context()); err != nil {
			t.Error(err)
		}
		down := make(chan error)
		go func() { down <- w.edge.Shutdown(t.Context()) }()
		time.Sleep(20 * time.Second)
		select {
		case <-down:
			t.Fatal("an upgraded connection was not waited for")
		default:
		}
		close(finish)
		if _, err := upgraded.r.ReadByte(); err != io.EOF {
			t.Errorf("the upgraded connection: %v", err)
		}
		upgraded.Close()
		if err := <-down; err != nil {
			t.Error(err)
		}
	})
}
