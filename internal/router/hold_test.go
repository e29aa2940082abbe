package router_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/router"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func everybody(string) bool { return true }

// awaited is what an Await gave, and when.
type awaited struct {
	route router.Route
	err   error
	after time.Duration
}

// await waits as a visitor does.
func await(ctx context.Context, r *router.Router, host string, not uint64) <-chan awaited {
	got := make(chan awaited, 1)
	start := time.Now()
	go func() {
		route, err := r.Await(ctx, host, &router.Wait{Not: not})
		got <- awaited{route, err, time.Since(start)}
	}()
	return got
}

// TestHold is every way in which waiting begins and ends.
func TestHold(t *testing.T) {
	for name, test := range map[string]struct {
		begin func(r *router.Router) // before the visitor comes
		then  func(r *router.Router) // 3 s later
		err   error                  // nil means the stay that then begins
		after time.Duration
	}{
		"lost, and back": {
			begin: func(r *router.Router) { r.Lose("blog", r.Add("blog", new(opener), router.Options{})) },
			then:  func(r *router.Router) { r.Add("blog", new(opener), router.Options{}) },
			after: 3 * time.Second,
		},
		"lost, and back as one of a pool": {
			begin: func(r *router.Router) { r.Lose("blog", r.Add("blog", new(opener), router.Options{})) },
			then:  func(r *router.Router) { r.Join("blog", new(opener), router.Options{}) },
			after: 3 * time.Second,
		},
		"lost for good": {
			begin: func(r *router.Router) { r.Lose("blog", r.Add("blog", new(opener), router.Options{})) },
			err:   router.ErrOffline, after: 10 * time.Second,
		},
		"lost just within Hold": {
			begin: func(r *router.Router) {
				r.Lose("blog", r.Add("blog", new(opener), router.Options{}))
				time.Sleep(10*time.Second - 1)
			},
			then:  func(r *router.Router) { r.Add("blog", new(opener), router.Options{}) },
			after: 3 * time.Second,
		},
		"lost too long ago": {
			begin: func(r *router.Router) {
				r.Lose("blog", r.Add("blog", new(opener), router.Options{}))
				time.Sleep(10 * time.Second)
			},
			err: router.ErrOffline,
		},
		"left in good order": {
			begin: func(r *router.Router) { r.Remove("blog", r.Add("blog", new(opener), router.Options{})) },
			err:   router.ErrOffline,
		},
		"lost, back, and left in good order": {
			begin: func(r *router.Router) {
				r.Lose("blog", r.Add("blog", new(opener), router.Options{}))
				r.Remove("blog", r.Add("blog", new(opener), router.Options{}))
			},
			err: router.ErrOffline,
		},
		"never held": {
			begin: func(*router.Router) {},
			err:   router.ErrOffline,
		},
		"never held, but the node has just begun": {
			begin: func(r *router.Router) { r.Began = time.Now() },
			then:  func(r *router.Router) { r.Add("blog", new(opener), router.Options{}) },
			after: 3 * time.Second,
		},
		"never held, and the node has begun long ago": {
			begin: func(r *router.Router) { r.Began = time.Now().Add(-10 * time.Second) },
			err:   router.ErrOffline,
		},
		"left in good order when the node had just begun": {
			begin: func(r *router.Router) {
				r.Began = time.Now()
				r.Remove("blog", r.Add("blog", new(opener), router.Options{}))
			},
			err: router.ErrOffline,
		},
		"away, and back": {
			begin: func(r *router.Router) { r.Away("blog", r.Add("blog", new(opener), router.Options{})) },
			then:  func(r *router.Router) { r.Back("blog", 1) },
			after: 3 * time.Second,
		},
		"away for long": {
			begin: func(r *router.Router) {
				r.Away("blog", r.Add("blog", new(opener), router.Options{}))
				time.Sleep(time.Hour)
			},
			err: router.ErrOffline, after: 10 * time.Second,
		},
		"away, then lost": {
			begin: func(r *router.Router) { r.Away("blog", r.Add("blog", new(opener), router.Options{})) },
			then:  func(r *router.Router) { r.Lose("blog", 1) },
			err:   router.ErrOffline, after: 10 * time.Second,
		},
		"away, then given up": {
			begin: func(r *router.Router) { r.Away("blog", r.Add("blog", new(opener), router.Options{})) },
			then:  func(r *router.Router) { r.Remove("blog", 1) },
			err:   router.ErrOffline, after: 3 * time.Second,
		},
		"away, and another came": {
			begin: func(r *router.Router) { r.Away("blog", r.Add("blog", new(opener), router.Options{})) },
			then:  func(r *router.Router) { r.Add("blog", new(opener), router.Options{}) },
			after: 3 * time.Second,
		},
		"all of a pool lost": {
			begin: func(r *router.Router) {
				r.Join("blog", new(opener), router.Options{})
				r.Join("blog", new(opener), router.Options{})
				r.Lose("blog", 1)
				r.Lose("blog", 2)
			},
			then:  func(r *router.Router) { r.Join("blog", new(opener), router.Options{}) },
			after: 3 * time.Second,
		},
		"the last of a pool left": {
			begin: func(r *router.Router) {
				r.Join("blog", new(opener), router.Options{})
				r.Join("blog", new(opener), router.Options{})
				r.Lose("blog", 1)
				r.Remove("blog", 2)
			},
			err: router.ErrOffline,
		},
		"a late goodbye to who was lost": {
			begin: func(r *router.Router) {
				r.Lose("blog", r.Add("blog", new(opener), router.Options{}))
				r.Remove("blog", 1)
			},
			then:  func(r *router.Router) { r.Add("blog", new(opener), router.Options{}) },
			after: 3 * time.Second,
		},
		"no hold": {
			begin: func(r *router.Router) {
				r.Hold = -1
				r.Away("blog", r.Add("blog", new(opener), router.Options{}))
			},
			err: router.ErrOffline,
		},
		"no places": {
			begin: func(r *router.Router) {
				r.HoldMax = -1
				r.Lose("blog", r.Add("blog", new(opener), router.Options{}))
			},
			err: router.ErrOffline,
		},
		"hold turned off": {
			begin: func(r *router.Router) { r.Lose("blog", r.Add("blog", new(opener), router.Options{})) },
			then:  func(r *router.Router) { r.SetHold(-1, 0) },
			err:   router.ErrOffline, after: 3 * time.Second,
		},
		"another hold for who comes": {
			begin: func(r *router.Router) {
				r.Lose("blog", r.Add("blog", new(opener), router.Options{}))
				r.SetHold(time.Second, 1)
			},
			err: router.ErrOffline, after: time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &router.Router{Owned: everybody}
				test.begin(r)
				got := await(t.Context(), r, "blog", 0)
				if test.then != nil {
					time.Sleep(3 * time.Second)
					test.then(r)
				}
				a := <-got
				if a.after != test.after {
					t.Errorf("after %v; want %v", a.after, test.after)
				}
				if !errors.Is(a.err, test.err) {
					t.Errorf("got %v want %v", a.err, test.err)
				}
				if now, err := r.Lookup("blog"); test.err == nil && (a.route != now || err != nil) {
					t.Errorf("got %+v; want the stay that holds the host, %+v, %v", a.route, now, err)
				}
			})
		})
	}
}

// TestNobodyWaitsForNothing: neither for a host that nobody owns, nor one that
// was released while its agent was lost.
func TestNobodyWaitsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		owned := true
		r := &router.Router{Owned: func(string) bool { return owned }, Began: time.Now()}
		r.Lose("blog", r.Add("blog", new(opener), router.Options{}))
		owned = false
		for _, host := range []string{"blog", "wiki"} {
			if a := <-await(t.Context(), r, host, 0); !errors.Is(a.err, router.ErrNoTunnel) || a.after != 0 {
				t.Errorf("%s: got %v after %v; want %v at once", host, a.err, a.after, router.ErrNoTunnel)
			}
		}
		r.SetHold(-1, 0)
		if a := <-await(t.Context(), r, "blog", 0); !errors.Is(a.err, router.ErrNoTunnel) {
			t.Errorf("without hold: got %v want %v", a.err, router.ErrNoTunnel)
		}
	})
}

// TestNotThatOne: a stay whose session has just died is not given again to who
// could not open it. Until the router hears of it, he waits.
func TestNotThatOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &router.Router{Owned: everybody}
		dead := r.Add("blog", new(opener), router.Options{})
		got := await(t.Context(), r, "blog", dead)
		time.Sleep(time.Second)
		r.Lose("blog", dead)
		time.Sleep(time.Second)
		next := r.Add("blog", new(opener), router.Options{})
		if a := <-got; a.err != nil || a.route.Epoch != next || a.after != 2*time.Second {
			t.Errorf("got %+v; want epoch %d after 2s", a, next)
		}

		got = await(t.Context(), r, "blog", next) // whose connection broke, and which comes back
		time.Sleep(time.Second)
		r.Away("blog", next)
		time.Sleep(time.Second)
		r.Back("blog", next)
		if a := <-got; a.err != nil || a.route.Epoch != next || a.after != 2*time.Second {
			t.Errorf("got %+v; want epoch %d after 2s", a, next)
		}

		other := r.Join("blog", new(opener), router.Options{})
		for range 4 {
			if a := <-await(t.Context(), r, "blog", next); a.err != nil || a.route.Epoch != other || a.after != 0 {
				t.Errorf("got %+v; want the other of the pool, %d, at once", a, other)
			}
		}
	})
}

// TestOneHoldForAll: who has to wait twice does not wait twice as long.
func TestOneHoldForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &router.Router{Owned: everybody}
		r.Lose("blog", r.Add("blog", new(opener), router.Options{}))
		var w router.Wait
		start := time.Now()
		go func() {
			time.Sleep(6 * time.Second)
			r.Add("blog", new(opener), router.Options{})
		}()
		route, err := r.Await(t.Context(), "blog", &w)
		if err != nil {
			t.Fatal(err)
		}
		r.Lose("blog", route.Epoch)
		w.Not = route.Epoch
		if _, err := r.Await(t.Context(), "blog", &w); !errors.Is(err, router.ErrOffline) || time.Since(start) != 10*time.Second {
			t.Errorf("got %v after %v; want %v after 10s", err, time.Since(start), router.ErrOffline)
		}
	})
}

// TestCrowd: of 100,000 visitors who ask for a host that is held, 100 wait; and
// the place of one who leaves is free for another.
func TestCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &router.Router{Owned: everybody}
		for _, host := range []string{"blog", "wiki"} {
			r.Lose(host, r.Add(host, new(opener), router.Options{}))
		}
		ctx, leave := context.WithCancelCause(t.Context())
		gone := errors.New("visitor left")
		first := await(ctx, r, "blog", 0)
		synctest.Wait()
		base := runtime.NumGoroutine()
		var crowd sync.WaitGroup
		var refused, served atomic.Int32
		for range 100_000 {
			crowd.Go(func() {
				switch _, err := r.Await(t.Context(), "blog", new(router.Wait)); {
				case err == nil:
					served.Add(1)
				case errors.Is(err, router.ErrOffline):
					refused.Add(1)
				}
			})
		}
		start := time.Now()
		synctest.Wait()
		if n := runtime.NumGoroutine() - base; n > 99 || refused.Load() != 100_000-99 {
			t.Errorf("%d wait and %d were refused; want 99 beside the first", n, refused.Load())
		}
		if a := <-await(t.Context(), r, "blog", 0); !errors.Is(a.err, router.ErrOffline) || a.after != 0 {
			t.Errorf("one more: got %v after %v; want %v at once", a.err, a.after, router.ErrOffline)
		}
		leave(gone)
		if a := <-first; !errors.Is(a.err, gone) {
			t.Errorf("who left: got %v want %v", a.err, gone)
		}
		next := await(t.Context(), r, "blog", 0)
		other := await(t.Context(), r, "wiki", 0)
		synctest.Wait()
		r.Add("wiki", new(opener), router.Options{})
		if a := <-other; a.err != nil {
			t.Errorf("another host: got %v", a.err)
		}
		r.Add("blog", new(opener), router.Options{})
		if a := <-next; a.err != nil {
			t.Errorf("in the place of who left: got %v", a.err)
		}
		crowd.Wait()
		if served.Load() != 99 || time.Since(start) > 0 {
			t.Errorf("%d of 99 were served, after %v", served.Load(), time.Since(start))
		}
	})
}

// TestMemoryOfTheLost: hosts that were lost are forgotten, and one that comes
// and goes is remembered once.
func TestMemoryOfTheLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &router.Router{Owned: everybody, Began: time.Now()}
		heap := func() int64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		lose := func(host string) { r.Lose(host, r.Add(host, nil, router.Options{})) }
		lose("flapping")
		before := heap()
		for range 20_000 {
			lose("flapping")
		}
		if grown := heap() - before; grown > 256<<10 {
			t.Errorf("a host that comes and goes costs %d bytes", grown)
		}
		for i := range 20_000 {
			lose(fmt.Sprint(i))
		}
		if grown := heap() - before; grown < 256<<10 {
			t.Errorf("%d bytes are little for 20,000 hosts; the test measures nothing", grown)
		}
		time.Sleep(10 * time.Second)
		lose("one more")
		if grown := heap() - before; grown > 2<<20 { // maps do not shrink
			t.Errorf("%d bytes are left of hosts that were lost long ago", grown)
		}
		runtime.KeepAlive(r)
	})
}

// stuck is an opener that opens nothing before ctx ends.
type stuck struct{ n atomic.Int32 }

func (s *stuck) Open(ctx context.Context, _ router.Visit) (net.Conn, error) {
	s.n.Add(1)
	defer s.n.Add(-1)
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestOpenDoesNotWaitForWhoIsAway: what is being opened when the agent goes
// away, or the stay ends, fails then, and what comes after at once; so nobody
// waits but in Await.
func TestOpenDoesNotWaitForWhoIsAway(t *testing.T) {
	for name, test := range map[string]struct {
		then func(r *router.Router, epoch uint64)
		want error
	}{
		"away":     {func(r *router.Router, epoch uint64) { r.Away("blog", epoch) }, router.ErrOffline},
		"lost":     {func(r *router.Router, epoch uint64) { r.Lose("blog", epoch) }, router.ErrOffline},
		"left":     {func(r *router.Router, epoch uint64) { r.Remove("blog", epoch) }, router.ErrOffline},
		"replaced": {func(r *router.Router, _ uint64) { r.Add("blog", new(opener), router.Options{}) }, router.ErrMoved},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := &router.Router{Owned: everybody}
			s := new(stuck)
			epoch := r.Add("blog", s, router.Options{})
			errs := make(chan error)
			open := func() {
				_, err := r.Open(t.Context(), router.Visit{Host: "blog", Epoch: epoch})
				errs <- err
			}
			for range 1000 {
				go open()
			}
			synctest.Wait()
			if n := s.n.Load(); n != 1000 {
				t.Fatalf("%d are being opened; want 1000", n)
			}
			start := time.Now()
			test.then(r, epoch)
			for range 1000 {
				if err := <-errs; !errors.Is(err, router.ErrOffline) {
					t.Errorf("%s: what was being opened: got %v want %v", name, err, router.ErrOffline)
				}
			}
			go open()
			if err := <-errs; !errors.Is(err, test.want) || s.n.Load() != 0 || time.Since(start) != 0 {
				t.Errorf("%s: what came after: got %v after %v; want %v at once", name, err, time.Since(start), test.want)
			}
		})
	}
}

// TestPoolTakesTurns: each gets as many, whoever leaves none from then on, and
// who is away none until it is back.
func TestPoolTakesTurns(t *testing.T) {
	r := &router.Router{Owned: everybody}
	a := r.Join("blog", new(opener), router.Options{HostHeader: "a"})
	b := r.Join("blog", new(opener), router.Options{HostHeader: "b"})
	c := r.Join("blog", new(opener), router.Options{HostHeader: "c"})
	count := func() map[uint64]int {
		n := map[uint64]int{}
		for range 600 {
			route, err := r.Lookup("blog")
			if err != nil {
				t.Fatal(err)
			}
			if want := map[uint64]string{a: "a", b: "b", c: "c"}[route.Epoch]; route.HostHeader != want {
				t.Fatalf("epoch %d has the options of %q", route.Epoch, route.HostHeader)
			}
			n[route.Epoch]++
		}
		return n
	}
	if n := count(); n[a] != 200 || n[b] != 200 || n[c] != 200 {
		t.Errorf("got %v; want 200 each", n)
	}
	r.Lose("blog", b)
	if n := count(); n[a] != 300 || n[c] != 300 {
		t.Errorf("after b was lost: got %v; want 300 each", n)
	}
	if _, err := r.Open(t.Context(), router.Visit{Host: "blog", Epoch: b}); !errors.Is(err, router.ErrMoved) {
		t.Errorf("open at who was lost: got %v want %v", err, router.ErrMoved)
	}
	r.Away("blog", a)
	if n := count(); n[c] != 600 {
		t.Errorf("while a is away: got %v; want c only", n)
	}
	r.Back("blog", a)
	if n := count(); n[a] != 300 || n[c] != 300 {
		t.Errorf("when a was back: got %v; want 300 each", n)
	}
	d := r.Add("blog", new(opener), router.Options{})
	for _, epoch := range []uint64{a, b, c} {
		r.Remove("blog", epoch)
		r.Back("blog", epoch)
	}
	if route, err := r.Lookup("blog"); err != nil || route.Epoch != d {
		t.Errorf("after late goodbyes of the pool: got %+v, %v; want epoch %d", route, err, d)
	}
}

// BenchmarkLookup is what every request pays.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{1, 3} {
		r := &router.Router{Owned: everybody}
		for range n {
			r.Join("blog", new(opener), router.Options{})
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					r.Lookup("blog")
				}
			})
		})
	}
}
