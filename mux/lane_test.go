package mux

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
)

// TestLanes lives through connections as TestModel does, while their lanes
// break, fall silent, are given up and joined, on both ends or on one alone.
// Nobody may notice: the laws are the same, and no stream may fail.
func TestLanes(t *testing.T) {
	repeat(t, "TestLanes", func(t *testing.T, seed int64) { liveThrough(t, seed, true) })
}

// A road lays lanes between two ends, and takes them away.
type road struct {
	t    *testing.T
	link memnet.Link
	ends [2]*Conn

	mu    sync.Mutex // guards the fields below
	last  uint64
	conns []*memnet.Conn // one end of each lane that was not taken away
}

// join lays a lane to both ends, or to one, as if the other had never heard of
// it.
func (r *road) join(both, one int) {
	left, right := r.link.Pipe()
	r.mu.Lock()
	r.last++
	number := r.last
	r.conns = append(r.conns, left)
	r.mu.Unlock()
	conns := [2]*memnet.Conn{left, right}
	for side, c := range r.ends {
		if both == 1 || side == one {
			if _, err := c.Join(lazy{conns[side]}, number); err != nil && c.Err() == nil && both == 1 {
				r.t.Logf("lane %d of side %d: %v", number, side, err)
			}
		} else {
			conns[side].Close()
		}
	}
}

// A lazy conn is read from and written to for a while after it was given up.
type lazy struct{ *memnet.Conn }

func (c lazy) Close() error {
	time.Sleep(time.Duration(rand.IntN(3)) * 20 * time.Millisecond)
	return c.Conn.Close()
}

// trouble makes things happen until ctx ends.
func (r *road) trouble(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		wait(ctx, time.Duration(rng.IntN(400))*time.Millisecond)
		switch what := rng.IntN(10); {
		case what < 3:
			if c := r.take(rng); c != nil {
				c.Break()
			}
		case what < 4:
			if c := r.take(rng); c != nil {
				c.Silence()
			}
		case what < 5:
			if all := r.ends[rng.IntN(2)].Lanes(); len(all) > 0 {
				all[rng.IntN(len(all))].Leave()
			}
		case what < 6:
			r.join(0, rng.IntN(2))
		case what < 7 && rng.IntN(2) == 0:
			r.ends[rng.IntN(2)].Probe(100 * time.Millisecond)
		case what < 7:
			if c := r.take(rng); c != nil {
				c.Pause(time.Duration(rng.IntN(2000)) * time.Millisecond) // silent for one end, perhaps, and not for the other
				r.put(c)
			}
		default:
			r.join(1, 0)
		}
	}
}

func (r *road) take(rng *rand.Rand) *memnet.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.conns) == 0 {
		return nil
	}
	i := rng.IntN(len(r.conns))
	c := r.conns[i]
	r.conns = append(r.conns[:i], r.conns[i+1:]...)
	return c
}

func (r *road) put(c *memnet.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = append(r.conns, c)
}

// mend sees to it that there is a lane from here on.
func (r *road) mend(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-r.ends[0].Adrift():
		case <-r.ends[1].Adrift():
		case <-r.ends[0].WantLane():
			if len(r.ends[0].Lanes()) == 1 {
				r.join(1, 0)
				wait(ctx, 50*time.Millisecond)
			}
			continue
		case <-ctx.Done():
			return
		}
		if r.ends[0].Err() != nil || r.ends[1].Err() != nil {
			return // nobody is there
		}
		wait(ctx, time.Millisecond) // or it spins while one end still has all the lanes it may have
		if len(r.ends[0].Lanes()) == 0 || len(r.ends[1].Lanes()) == 0 {
			r.join(1, 0)
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// TestLaneReplaced is the least that a lane must do: one that breaks with
// bytes on the way is replaced, and the bytes arrive once.
func TestLaneReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &road{t: t, link: memnet.Link{Delay: 20 * time.Millisecond}}
		r.begin(Config{Keep: 1 << 20})
		s, err := r.ends[0].Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan string)
		go func() {
			p, err := r.ends[1].Accept(t.Context())
			if err != nil {
				t.Error(err)
			}
			b := make([]byte, 10)
			for len(b) > 0 {
				n, err := p.Read(b)
				if err != nil {
					t.Error(err)
					break
				}
				got <- string(b[:n])
				if string(b[:n]) == "last" {
					break
				}
			}
			p.Close()
			close(got)
		}()
		s.Write([]byte("first"))
		if g := <-got; g != "first" {
			t.Errorf("got %q", g)
		}
		s.Write([]byte("last"))
		time.Sleep(time.Millisecond)
		r.conns[0].Break()
		time.Sleep(3 * time.Second)
		r.join(1, 0)
		if g := <-got; g != "last" {
			t.Errorf("got %q", g)
		}
		<-got
		s.Close()
		time.Sleep(time.Second)
		for _, c := range r.ends {
			if n := c.NumStreams(); n != 0 {
				t.Errorf("%d streams are left", n)
			}
		}
		r.ends[0].Close()
		r.ends[1].Close()
	})
}

func (r *road) begin(cfg Config) {
	left, right := r.link.Pipe()
	r.ends = [2]*Conn{Client(left, cfg), Server(right, cfg)}
	r.conns = append(r.conns, left)
}
