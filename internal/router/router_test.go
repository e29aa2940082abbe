package router_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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
// holders of a host are whoever was added last and those who have joined since,
// each until exactly that stay ends; and a visitor waits if there are some, or
// the last of them was lost.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := rapid.SampledFrom([]string{"a", "b", "c"})
		owned := map[string]bool{"a": true, "b": true}
		r := router.Router{Owned: func(host string) bool { return owned[host] }}
		begun := rapid.Bool().Draw(t, "just begun")
		if begun {
			r.Began = time.Now()
		}
		over, cancel := context.WithCancel(context.Background())
		cancel() // so that who would wait says so at once

		type held struct {
			epoch uint64
			by    *opener
			away  bool
		}
		type host struct {
			holders     []*held
			ended, lost bool // how the last of them ended
		}
		var last uint64
		var given []router.Route // every stay there ever was
		model := map[string]*host{"a": {}, "b": {}, "c": {}}
		find := func(host string, epoch uint64) (int, *held) {
			for i, h := range model[host].holders {
				if h.epoch == epoch {
					return i, h
				}
			}
			return 0, nil
		}
		here := func(host string) (n int) {
			for _, h := range model[host].holders {
				if !h.away {
					n++
				}
			}
			return n
		}
		begin := func(how func(string, router.Opener, router.Options) uint64, keep bool) func(t *rapid.T) {
			return func(t *rapid.T) {
				host, o := hosts.Draw(t, "host"), new(opener)
				epoch := how(host, o, router.Options{})
				if epoch <= last {
					t.Fatalf("epoch %d after %d; epochs only grow", epoch, last)
				}
				last = epoch
				given = append(given, router.Route{Host: host, Epoch: epoch})
				m := model[host]
				if !keep {
					m.holders = nil
				}
				m.holders = append(m.holders, &held{epoch: epoch, by: o})
				m.ended, m.lost = false, false
			}
		}
		// late does something about a stay that may be over by now, or never
		// have been one of that host.
		late := func(how func(string, uint64), then func(m *host, i int, h *held)) func(t *rapid.T) {
			return func(t *rapid.T) {
				if len(given) == 0 {
					t.Skip("nobody was here yet")
				}
				stay := rapid.SampledFrom(given).Draw(t, "stay")
				host := stay.Host
				if rapid.IntRange(0, 9).Draw(t, "other host") == 0 {
					host = hosts.Draw(t, "host")
				}
				how(host, stay.Epoch)
				if i, h := find(host, stay.Epoch); h != nil {
					then(model[host], i, h)
				}
			}
		}
		end := func(lost bool) func(m *host, i int, h *held) {
			return func(m *host, i int, _ *held) {
				m.holders = slices.Delete(m.holders, i, i+1)
				m.ended, m.lost = true, lost
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"add":                  begin(r.Add, false),
			"join":                 begin(r.Join, true),
			"remove, perhaps late": late(r.Remove, end(false)),
			"lose, perhaps late":   late(r.Lose, end(true)),
			"away, perhaps late":   late(r.Away, func(_ *host, _ int, h *held) { h.away = true }),
			"back, perhaps late":   late(r.Back, func(_ *host, _ int, h *held) { h.away = false }),
			"open, perhaps late": func(t *rapid.T) {
				v := router.Visit{Host: hosts.Draw(t, "host")}
				if len(given) > 0 && rapid.Bool().Draw(t, "with epoch") {
					v.Epoch = rapid.SampledFrom(given).Draw(t, "stay").Epoch
				}
				c, err := r.Open(context.Background(), v)
				m := model[v.Host]
				_, h := find(v.Host, v.Epoch)
				switch {
				case len(m.holders) == 0 && owned[v.Host]:
					expect(t, err, router.ErrOffline)
				case len(m.holders) == 0:
					expect(t, err, router.ErrNoTunnel)
				case v.Epoch != 0 && h == nil:
					expect(t, err, router.ErrMoved)
				case v.Epoch != 0 && h.away, here(v.Host) == 0:
					expect(t, err, router.ErrOffline)
				case err != nil:
					t.Fatalf("got %v; want a stream", err)
				default:
					by := c.(*conn).by
					_, got := find(v.Host, by.seen.Epoch)
					if got == nil || got.by != by || got.away || h != nil && got != h {
						t.Fatalf("got a stream of epoch %d; want one of a holder that is here", by.seen.Epoch)
					}
				}
			},
			"": func(t *rapid.T) {
				for host, m := range model {
					route, err := r.Lookup(host)
					_, h := find(host, route.Epoch)
					switch {
					case here(host) > 0 && (err != nil || h == nil || h.away):
						t.Fatalf("lookup %s: got %+v, %v; want a holder that is here", host, route, err)
					case here(host) == 0 && err == nil:
						t.Fatalf("lookup %s: got %+v; nobody holds it", host, route)
					}
					if r.Holds(host) != (len(m.holders) > 0) {
						t.Fatalf("holds %s: got %v", host, r.Holds(host))
					}
					route, err = r.Await(over, host, new(router.Wait))
					_, h = find(host, route.Epoch)
					switch {
					case here(host) > 0:
						if err != nil || h == nil || h.away {
							t.Fatalf("await %s: got %+v, %v; want a holder that is here", host, route, err)
						}
					case len(m.holders) > 0:
						expect(t, err, context.Canceled)
					case !owned[host]:
						expect(t, err, router.ErrNoTunnel)
					case m.lost, begun && !m.ended:
						expect(t, err, context.Canceled)
					default:
						expect(t, err, router.ErrOffline)
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
				second := r.Join("blog", new(lone), router.Options{})
				r.Open(t.Context(), router.Visit{Host: "blog", Epoch: epoch})
				r.Lookup(fmt.Sprint("host", i))
				r.Away("blog", epoch)
				r.Open(t.Context(), router.Visit{Host: "blog"})
				r.Back("blog", epoch)
				r.Remove("blog", epoch)
				r.Await(t.Context(), "blog", new(router.Wait))
				r.Lose("blog", second)
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
