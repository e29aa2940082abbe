package router_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/culvertd/culvert/internal/router"
	"pgregory.net/rapid"
)

// opener opens conns that can be told apart by who opened them.
type opener struct {
	before func() // runs inside Open, if set
	err    error
	seen   router.Visit
	opened *conn
}

func (o *opener) Open(_ context.Context, v router.Visit) (net.Conn, error) {
	o.seen = v
	if o.before != nil {
		o.before()
	}
	if o.err != nil {
		return nil, o.err
	}
	o.opened = &conn{by: o}
	return o.opened, nil
}

type conn struct {
	net.Conn // nil: no test reads or writes
	by       *opener
	closed   bool
}

func (c *conn) Close() error { c.closed = true; return nil }

func TestOpenGoesToTheHolder(t *testing.T) {
	var r router.Router
	a, b := new(opener), new(opener)
	first := r.Add("blog.example.com", a, router.Options{HostHeader: "localhost"})
	r.Add("wiki.example.com", b, router.Options{})

	route, err := r.Lookup("blog.example.com")
	want := router.Route{Host: "blog.example.com", Epoch: first, Options: router.Options{HostHeader: "localhost"}}
	if err != nil || route != want {
		t.Errorf("got %+v, %v; want %+v", route, err, want)
	}
	c, err := r.Open(t.Context(), router.Visit{Host: "blog.example.com", ID: "v1"})
	if err != nil || c.(*conn).by != a {
		t.Fatalf("got %v, %v; want a conn of the host's holder", c, err)
	}
	if a.seen.Epoch != first || a.seen.ID != "v1" {
		t.Errorf("opener was told %+v; want the current epoch %d and the visit's id", a.seen, first)
	}
}

func TestNobodyThere(t *testing.T) {
	r := router.Router{Owned: func(host string) bool { return host == "away" }}
	for host, want := range map[string]error{"away": router.ErrOffline, "unknown": router.ErrNoTunnel} {
		if _, err := r.Lookup(host); !errors.Is(err, want) {
			t.Errorf("lookup %s: got %v want %v", host, err, want)
		}
		if _, err := r.Open(t.Context(), router.Visit{Host: host, Epoch: 7}); !errors.Is(err, want) {
			t.Errorf("open %s: got %v want %v", host, err, want)
		}
	}
	var bare router.Router
	if _, err := bare.Lookup("away"); !errors.Is(err, router.ErrNoTunnel) {
		t.Errorf("without Owned: got %v want %v", err, router.ErrNoTunnel)
	}
}

// TestLateGoodbye replays the outage that epochs exist for: the agent is back
// before its old session has finished dying.
func TestLateGoodbye(t *testing.T) {
	var r router.Router
	old, young := new(opener), new(opener)
	oldEpoch := r.Add("blog", old, router.Options{})
	youngEpoch := r.Add("blog", young, router.Options{})
	r.Remove("blog", oldEpoch)

	if route, err := r.Lookup("blog"); err != nil || route.Epoch != youngEpoch {
		t.Fatalf("after the old session's goodbye: got %+v, %v; want epoch %d", route, err, youngEpoch)
	}
	if _, err := r.Open(t.Context(), router.Visit{Host: "blog", Epoch: oldEpoch}); !errors.Is(err, router.ErrMoved) {
		t.Errorf("open with the old epoch: got %v want %v", err, router.ErrMoved)
	}
	r.Remove("blog", youngEpoch)
	if _, err := r.Lookup("blog"); !errors.Is(err, router.ErrNoTunnel) {
		t.Errorf("after its own goodbye: got %v want %v", err, router.ErrNoTunnel)
	}
}

// TestMovedWhileOpening: a stream that was opened for one stay is not handed
// out once another stay holds the host.
func TestMovedWhileOpening(t *testing.T) {
	for name, meanwhile := range map[string]func(*router.Router, uint64){
		"replaced": func(r *router.Router, _ uint64) { r.Add("blog", new(opener), router.Options{}) },
		"gone":     func(r *router.Router, epoch uint64) { r.Remove("blog", epoch) },
	} {
		t.Run(name, func(t *testing.T) {
			var r router.Router
			o := new(opener)
			epoch := r.Add("blog", o, router.Options{})
			o.before = func() { meanwhile(&r, epoch) }
			_, err := r.Open(t.Context(), router.Visit{Host: "blog", Epoch: epoch})
			if !errors.Is(err, router.ErrMoved) {
				t.Errorf("got %v want %v", err, router.ErrMoved)
			}
			if !o.opened.closed {
				t.Error("the stream of the old stay was left open")
			}
		})
	}
}

func TestOpenerErrorsPass(t *testing.T) {
	var r router.Router
	want := &router.ServiceError{Problem: router.ServiceRefused, Err: io.ErrClosedPipe}
	r.Add("blog", &opener{err: want}, router.Options{})
	_, err := r.Open(t.Context(), router.Visit{Host: "blog"})
	if got, ok := errors.AsType[*router.ServiceError](err); !ok || got != want {
		t.Errorf("got %v want %v", err, want)
	}
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Error("the cause is lost")
	}
}

// TestModel checks a Router against a model small enough to be right: the
// holder of a host is whoever was added last, until exactly that stay leaves.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := rapid.SampledFrom([]string{"a", "b", "c"})
		owned := map[string]bool{"a": true}
		r := router.Router{Owned: func(host string) bool { return owned[host] }}

		type held struct {
			epoch uint64
			by    *opener
		}
		var last uint64
		var given []router.Route // every stay there ever was
		model := map[string]held{}

		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				host, o := hosts.Draw(t, "host"), new(opener)
				epoch := r.Add(host, o, router.Options{})
				if epoch <= last {
					t.Fatalf("epoch %d after %d; epochs only grow", epoch, last)
				}
				last = epoch
				given = append(given, router.Route{Host: host, Epoch: epoch})
				model[host] = held{epoch, o}
			},
			"remove, perhaps late": func(t *rapid.T) {
				if len(given) == 0 {
					t.Skip("nobody was here yet")
				}
				stay := rapid.SampledFrom(given).Draw(t, "stay")
				host := stay.Host
				if rapid.IntRange(0, 9).Draw(t, "other host") == 0 {
					host = hosts.Draw(t, "host")
				}
				r.Remove(host, stay.Epoch)
				if model[host].epoch == stay.Epoch {
					delete(model, host)
				}
			},
			"open, perhaps late": func(t *rapid.T) {
				v := router.Visit{Host: hosts.Draw(t, "host")}
				if len(given) > 0 && rapid.Bool().Draw(t, "with epoch") {
					v.Epoch = rapid.SampledFrom(given).Draw(t, "stay").Epoch
				}
				c, err := r.Open(context.Background(), v)
				h, ok := model[v.Host]
				switch {
				case !ok && owned[v.Host]:
					expect(t, err, router.ErrOffline)
				case !ok:
					expect(t, err, router.ErrNoTunnel)
				case v.Epoch != 0 && v.Epoch != h.epoch:
					expect(t, err, router.ErrMoved)
				case err != nil || c.(*conn).by != h.by:
					t.Fatalf("got %v, %v; want a stream of the current holder", c, err)
				case h.by.seen.Epoch != h.epoch:
					t.Fatalf("holder was told epoch %d; want %d", h.by.seen.Epoch, h.epoch)
				}
			},
			"": func(t *rapid.T) {
				for _, host := range []string{"a", "b", "c"} {
					route, err := r.Lookup(host)
					if h, ok := model[host]; ok && (err != nil || route.Epoch != h.epoch) {
						t.Fatalf("lookup %s: got %+v, %v; want epoch %d", host, route, err, h.epoch)
					} else if !ok && err == nil {
						t.Fatalf("lookup %s: got %+v; nobody holds it", host, route)
					}
				}
			},
		})
	})
}

func expect(t *rapid.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("got %v want %v", got, want)
	}
}

// TestTogether is for the race detector.
func TestTogether(t *testing.T) {
	var r router.Router
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 200 {
				epoch := r.Add("blog", new(lone), router.Options{})
				r.Open(t.Context(), router.Visit{Host: "blog", Epoch: epoch})
				r.Lookup(fmt.Sprint("host", i))
				r.Remove("blog", epoch)
			}
		})
	}
	wg.Wait()
	if _, err := r.Lookup("blog"); !errors.Is(err, router.ErrNoTunnel) {
		t.Errorf("after the last goodbye: got %v want %v", err, router.ErrNoTunnel)
	}
}

// lone is an opener without state, for use from many goroutines.
type lone struct{ _ byte }

func (*lone) Open(context.Context, router.Visit) (net.Conn, error) { return &conn{}, nil }

func TestProblemsHaveWords(t *testing.T) {
	for p, want := range map[router.Problem]string{
		router.ServiceRefused: "service_refused",
		router.ServiceReset:   "service_reset",
		router.ServiceTimeout: "service_timeout",
		0:                     "problem(0)",
	} {
		if got := (&router.ServiceError{Problem: p}).Error(); got != want {
			t.Errorf("got %q want %q", got, want)
		}
	}
}

// TestKnowsNobody holds the arrow: router imports nothing of ours.
func TestKnowsNobody(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(dep, "github.com/") && dep != "github.com/culvertd/culvert/internal/router" {
			t.Errorf("router reaches %s", dep)
		}
	}
}
