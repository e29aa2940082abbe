package mux

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
)

// TestBulkHasItsOwnLane: while bulk flows, in either direction, the side that
// dials is asked for a lane; on it the bulk goes on, and what is small finds the
// first one empty. When there is no bulk any more the lane goes.
func TestBulkHasItsOwnLane(t *testing.T) {
	for name, from := range map[string]int{"up": 0, "down": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &road{t: t, link: memnet.Link{Delay: 25 * time.Millisecond, Rate: 25 << 20, Buffer: 256 << 10}}
				r.begin(Config{Keep: 8 << 20, KeepAlive: 2 * time.Second})
				bulk, _ := r.ends[from].Open(t.Context())
				wrote := make(chan struct{})
				go func() {
					bulk.Write(make([]byte, 100<<20))
					bulk.CloseWrite()
					close(wrote)
				}()
				sink, _ := r.ends[1-from].Accept(t.Context())
				got := make(chan int64)
				go func() {
					n, _ := io.Copy(io.Discard, sink)
					got <- n
				}()
				<-r.ends[0].WantLane()
				r.join(1, 0)
				time.Sleep(time.Second)
				r.ends[from].mu.Lock()
				if bulk.lane == r.ends[from].main {
					t.Error("the bulk is still where everybody else is")
				}
				r.ends[from].mu.Unlock()

				for range 20 {
					if took, err := r.ends[0].Ping(t.Context()); err != nil || took > 51*time.Millisecond {
						t.Errorf("a ping beside the bulk took %v, %v; the road has 50 ms", took, err)
					}
					time.Sleep(50 * time.Millisecond)
				}
				<-wrote
				if n := <-got; n != 100<<20 {
					t.Errorf("%d bytes arrived", n)
				}
				time.Sleep(10 * time.Second)
				for side, c := range r.ends {
					if all := c.Lanes(); len(all) != 1 || all[0].number != 0 {
						t.Errorf("side %d has %d lanes, want the first alone", side, len(all))
					}
				}
				r.close()
			})
		})
	}
}

// TestCloseOverTwoLanes loses nothing that was sent, on whichever of them.
func TestCloseOverTwoLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &road{t: t, link: memnet.Link{Delay: 25 * time.Millisecond, Rate: 25 << 20, Buffer: 256 << 10}}
		r.begin(Config{Keep: 8 << 20, KeepAlive: -1})
		r.join(1, 0)
		s, _ := r.ends[0].Open(t.Context())
		p := make(chan int64)
		go func() {
			theirs, _ := r.ends[1].Accept(t.Context())
			n, err := io.Copy(io.Discard, theirs)
			if err != nil {
				t.Error(err)
			}
			p <- n
		}()
		s.Write(make([]byte, 8<<20))
		r.ends[0].mu.Lock()
		if s.lane == r.ends[0].main {
			t.Error("the bulk has not moved")
		}
		r.ends[0].mu.Unlock()
		s.Close()
		r.ends[0].Close()
		if n := <-p; n != 8<<20 {
			t.Errorf("%d bytes arrived", n)
		}
		if err, ok := r.ends[1].Wait().(*ConnError); !ok || !err.Remote || err.Code != CodeNone {
			t.Errorf("the other end ended with %v", err)
		}
	})
}
