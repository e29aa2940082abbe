package mux_test

import (
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
	"github.com/culvertd/culvert/mux"
)

// narrow is the road on which queues matter: 25 MB/s, 25 ms each way, and a
// socket buffer of 128 KiB in front of it.
var narrow = memnet.Link{Delay: 25 * time.Millisecond, Rate: 25 << 20, Buffer: 128 << 10}

// exchanges measures n exchanges of 256 bytes for 1 KiB, one after another.
func exchanges(t *testing.T, c, s *mux.Conn, n int) (p50, p99 time.Duration) {
	t.Helper()
	ours, theirs := open(t, c, s)
	go func() {
		in, out := make([]byte, 256), make([]byte, 1<<10)
		for {
			if _, err := io.ReadFull(theirs, in); err != nil {
				return
			}
			theirs.Write(out)
		}
	}()
	took := make([]time.Duration, n)
	out, in := make([]byte, 256), make([]byte, 1<<10)
	for i := range took {
		start := time.Now()
		ours.Write(out)
		if _, err := io.ReadFull(ours, in); err != nil {
			t.Fatal(err)
		}
		took[i] = time.Since(start)
		time.Sleep(7 * time.Millisecond) // virtual: not in step with the bulk
	}
	ours.Close()
	slices.Sort(took)
	return took[n/2], took[n*99/100]
}

// TestSmallGoesBeforeBulk: an exchange beside one or eight streams of bulk, in
// either direction, waits for little more than the socket buffer.
func TestSmallGoesBeforeBulk(t *testing.T) {
	for _, bulks := range []int{1, 8} {
		for name, up := range map[string]bool{"up": true, "down": false} {
			synctest.Test(t, func(t *testing.T) {
				c, s := pair(t, narrow, mux.Config{}, mux.Config{})
				idle50, idle99 := exchanges(t, c, s, 20)
				moved := make([]atomic.Int64, bulks)
				for i := range bulks {
					ours, theirs := open(t, c, s)
					from, to := ours, theirs
					if !up {
						from, to = theirs, ours
					}
					go io.Copy(from, zeros{})
					go io.Copy(counter{&moved[i]}, to)
				}
				time.Sleep(2 * time.Second) // virtual: let the windows open
				for i := range moved {
					moved[i].Store(0)
				}
				start := time.Now()
				p50, p99 := exchanges(t, c, s, 100)
				took := time.Since(start)

				t.Logf("%s, %d bulk: idle %v/%v, beside bulk %v/%v", name, bulks, idle50, idle99, p50, p99)
				if p50 > idle50+15*time.Millisecond || p99 > idle99+25*time.Millisecond {
					t.Errorf("%s, %d bulk: an exchange takes %v (p50) and %v (p99), alone %v and %v", name, bulks, p50, p99, idle50, idle99)
				}
				least, most, sum := moved[0].Load(), int64(0), int64(0)
				for i := range moved {
					n := moved[i].Load()
					least, most, sum = min(least, n), max(most, n), sum+n
				}
				if most > least+least/10 {
					t.Errorf("%s: shares of %d streams lie between %d and %d bytes", name, bulks, least, most)
				}
				if rate := float64(sum) / took.Seconds(); rate < 0.9*float64(narrow.Rate) {
					t.Errorf("%s: %d bulk streams together move %.1f MB/s of 25", name, bulks, rate/(1<<20))
				}
			})
		}
	}
}

// counter counts what is written to it.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}
