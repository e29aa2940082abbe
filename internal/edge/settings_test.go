package edge

import (
	"io"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestSet: other settings count from then on, for both versions, and nobody who
// is there notices.
func TestSet(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					time.Sleep(20 * time.Second)
				}
				io.WriteString(rw, "hello")
			}))
			c := w.visitor(h2)
			if res, _ := get(t, c, "https://"+blog); res.Header.Get("Strict-Transport-Security") != "" {
				t.Error("HSTS that nobody asked for")
			}
			slow := make(chan string)
			go func() {
				_, body := get(t, w.visitor(h2), "https://"+blog+"/slow")
				slow <- body
			}()
			time.Sleep(time.Second)
			w.edge.Set(Settings{HSTS: time.Hour, ServiceTimeout: 10 * time.Second, IdleTimeout: 3 * time.Second})
			if res, _ := get(t, c, "https://"+blog); res.Header.Get("Strict-Transport-Security") != "max-age=3600" {
				t.Errorf("HSTS %q", res.Header.Get("Strict-Transport-Security"))
			}
			if got := <-slow; got != "hello" {
				t.Errorf("the request that was under way got %q", got)
			}
			if res, _ := get(t, c, "https://"+blog+"/slow"); res.StatusCode != 504 {
				t.Errorf("a service that is too slow by now: %s", res.Status)
			}
			before := w.step.taken.Load()
			fresh := w.visitor(h2)
			get(t, fresh, "https://"+blog)
			time.Sleep(5 * time.Second)
			get(t, fresh, "https://"+blog)
			if n := w.step.taken.Load() - before; n != 2 {
				t.Errorf("%d connections; want the first closed after its idle timeout", n)
			}
			time.Sleep(20 * time.Second) // the slow service is back
		})
	})
}

// TestSetMaxVisitors: those who are there stay; there is room for fewer.
func TestSetMaxVisitors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {}))
		ask := func(v *rawVisitor) error {
			v.send("GET / HTTP/1.1\nHost: %s\n\n", blog)
			_, err := http.ReadResponse(v.r, nil)
			return err
		}
		first, second := w.raw(blog), w.raw(blog)
		w.edge.Set(Settings{MaxVisitors: 2})
		for _, v := range []*rawVisitor{first, second} {
			if err := ask(v); err != nil {
				t.Error(err)
			}
		}
		third := w.raw(blog)
		if err := ask(third); err != nil {
			t.Error(err)
		}
		if _, err := first.r.ReadByte(); err == nil {
			t.Error("nobody made room")
		}
	})
}

// TestSetWhileServing: settings change a hundred times under visitors of both
// versions, and none of them fails. It is for the race detector.
func TestSetWhileServing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "hello") }))
		var wg sync.WaitGroup
		for i := range 4 {
			c := w.visitor(i%2 == 0)
			wg.Go(func() {
				for n := range 50 {
					if n%5 == 0 {
						c.CloseIdleConnections()
					}
					if res, body := get(t, c, "https://"+blog); res.StatusCode != 200 || body != "hello" {
						t.Errorf("got %s %q", res.Status, body)
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		for i := range 100 {
			w.edge.Set(Settings{
				IdleTimeout: time.Duration(i+1) * time.Second, HSTS: time.Duration(i) * time.Second,
				TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
			})
			time.Sleep(time.Millisecond / 2)
		}
		wg.Wait()
	})
}
