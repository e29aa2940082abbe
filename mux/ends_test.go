package mux

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
)

// TestEnds lives through connections as TestLanes does, until one end of them
// goes away, shuts down or closes, or no lane comes any more; in whatever state
// they are then. What a reader gets is a part of what was written, and a clean
// end is the writer's; nobody waits for ever, and nothing is left of either end.
func TestEnds(t *testing.T) {
	repeat(t, "TestEnds", endWhileLanesBreak)
}

func endWhileLanesBreak(t *testing.T, seed int64) {
	rng := rand.New(rand.NewPCG(uint64(seed), 9))
	r := &road{t: t, link: memnet.Link{Delay: time.Duration(rng.IntN(3)) * 10 * time.Millisecond}}
	if rng.IntN(2) == 0 {
		r.link.Rate, r.link.Buffer = 1<<20+rng.IntN(100<<20), 16<<10+rng.IntN(256<<10)
	}
	cfg := Config{
		KeepAlive: 300 * time.Millisecond, Timeout: 500 * time.Millisecond, Resume: 2 * time.Second,
		Budget: 1 << 20, MaxStreams: 16 + rng.IntN(64), Keep: 1 + rng.IntN(256<<10), Pool: NewPool(1 << 30),
	}
	if rng.IntN(3) == 0 {
		cfg.Pool = NewPool(1) // half of it is always taken
	}
	r.begin(cfg)
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for side, c := range r.ends {
		for range 30 {
			rng, pause := rand.New(rand.NewPCG(rng.Uint64(), 2)), time.Duration(rng.IntN(3000))*time.Millisecond
			all.Go(func() {
				time.Sleep(pause)
				s, err := c.Open(context.Background())
				if err != nil {
					if err != ErrGoAway && err != c.Err() {
						t.Errorf("open: %v", err)
					}
					return
				}
				live(t, s, rng)
			})
		}
		peer, seed := r.ends[1-side], rng.Uint64()
		all.Go(func() {
			for i := uint64(0); ; i++ {
				s, err := peer.Accept(context.Background())
				if err != nil {
					return
				}
				rng := rand.New(rand.NewPCG(seed, i))
				all.Go(func() { live(t, s, rng) })
			}
		})
	}
	troubles := rand.New(rand.NewPCG(rng.Uint64(), 3))
	var outside sync.WaitGroup
	outside.Go(func() { r.trouble(ctx, troubles) })
	outside.Go(func() { r.mend(ctx) })

	stuck := time.AfterFunc(time.Hour, func() { panic("somebody waits for an hour") })
	wait(ctx, time.Duration(rng.IntN(3000))*time.Millisecond)
	c := r.ends[rng.IntN(2)]
	end := rng.IntN(4)
	switch end {
	case 0:
		c.Close()
	case 1:
		patience, cancel := context.WithTimeout(ctx, time.Duration(rng.IntN(5000))*time.Millisecond)
		if err := c.Shutdown(patience); err != nil && err != context.Cause(patience) && err != c.Err() {
			t.Errorf("shutdown: %v", err)
		}
		cancel()
	case 2:
		c.GoAway()
		if err := c.Shutdown(ctx); err != nil && err != c.Err() {
			t.Errorf("shutdown: %v", err)
		}
	}
	stop() // whoever has not heard of the end has no lane any more
	outside.Wait()
	for _, c := range r.conns {
		c.Silence()
	}
	for _, c := range r.ends {
		if err := c.Wait(); err == nil {
			t.Error("it ended, and nobody knows why")
		} else if lost := (*ConnError)(nil); errors.As(err, &lost) && lost.Code != CodeNone && lost.Code != CodeSilent {
			t.Errorf("end %d: %v", end, err)
		}
	}
	all.Wait()
	stuck.Stop()
	synctest.Wait()
	for _, c := range r.ends {
		c.Close()
		c.mu.Lock()
		if !c.accept.empty() {
			t.Error("streams wait for Accept")
		}
		c.mu.Unlock()
	}
	time.Sleep(time.Second) // until the last conn is closed
	if p := cfg.Pool; p.held.Load() != 0 || p.kept.Load() != 0 || len(p.conns) != 0 {
		t.Errorf("the pool still counts %d conns, %d bytes that wait and %d that are kept", len(p.conns), p.held.Load(), p.kept.Load())
	}
}
