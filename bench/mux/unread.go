package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/culvertd/culvert/bench/internal/report"
)

// unread prints what streams that nobody reads hold, and what they leave of
// the rate of another one.
func (b *bench) unread(ctx context.Context) error {
	many := slices.Concat(muxes, []library{quicGo})
	results, err := inTurn(ctx, b, "memory: unread streams", 1, many, func(ctx context.Context, l library) (burden, error) {
		return carry(ctx, l, b.time)
	})
	if err != nil {
		return err
	}
	t := report.NewTable(fmt.Sprintf("Memory: %d streams that nobody reads", unreadStreams),
		"The peer writes as much as it can on each. What the session then holds, and the rate of bulk on one more stream that is read.",
		"", "MiB held", "bulk before, MB/s", "bulk beside them, MB/s", "of before")
	for _, r := range results {
		beside, part := r.median("%.0f", func(x burden) float64 { return x.after / 1e6 }),
			r.median("%.2f", func(x burden) float64 { return x.after / x.before })
		if len(r.samples) > 0 && r.samples[0].after == 0 {
			beside, part = "stalls", "–"
		}
		t.Add(r.library.name,
			r.median("%.2f", func(x burden) float64 { return float64(x.held) / (1 << 20) }),
			r.median("%.0f", func(x burden) float64 { return x.before / 1e6 }), beside, part)
	}
	t.Print(b.out)
	return nil
}

// A burden is what unread streams do to a session.
type burden struct {
	held          int64   // bytes
	before, after float64 // the rate of a stream that is read
}

func carry(ctx context.Context, l library, d time.Duration) (x burden, err error) {
	p, err := l.over(loopback)
	if err != nil {
		return x, err
	}
	defer p.close() // which ends the goroutines below
	var healthy bulkStream
	if err := healthy.start(ctx, p); err != nil {
		return x, err
	}
	if x.before, err = healthy.rate(ctx, d); err != nil {
		return x, err
	}
	if x.before == 0 {
		return x, errStalled
	}

	data := make([]byte, block)
	var unread [][2]stream
	for range unreadStreams { // while the session still works
		client, server, err := exchangeOnce(ctx, p)
		if err != nil {
			return x, err
		}
		unread = append(unread, [2]stream{client, server})
	}
	before := heapInUse()
	for _, ends := range unread {
		go func() {
			for {
				if _, err := ends[0].Write(data); err != nil {
					return
				}
			}
		}()
	}
	full, err := settle(ctx)
	if err != nil {
		return x, err
	}
	x.held = full - before
	x.after, err = healthy.rate(ctx, d)
	runtime.KeepAlive(unread)
	return x, err
}

// settle returns what the heap holds once it no longer grows.
func settle(ctx context.Context) (int64, error) {
	last := heapInUse()
	for range 20 {
		if err := wait(ctx, 200*time.Millisecond); err != nil {
			return 0, err
		}
		held := heapInUse()
		if held-last < max(last/100, 64<<10) {
			return held, nil
		}
		last = held
	}
	return last, nil
}

// heapInUse is inUse without the stacks, which are those of our writers too.
func heapInUse() int64 {
	var mem runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&mem)
	return int64(mem.HeapAlloc)
}

// A bulkStream moves bulk while it is on.
type bulkStream struct {
	on    atomic.Bool
	count atomic.Int64
}

// start opens the stream. Its goroutines end with the session.
func (s *bulkStream) start(ctx context.Context, p pair) error {
	client, server, err := exchangeOnce(ctx, p)
	if err != nil {
		return err
	}
	go s.send(client)
	go s.receive(server)
	return nil
}

func (s *bulkStream) send(w io.Writer) {
	buf := make([]byte, block)
	for {
		if !s.on.Load() {
			time.Sleep(time.Millisecond)
			continue
		}
		if _, err := w.Write(buf); err != nil {
			return
		}
	}
}

func (s *bulkStream) receive(r io.Reader) {
	buf := make([]byte, block)
	for {
		n, err := r.Read(buf)
		s.count.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// rate is that of the stream for a while, after which it is idle again.
func (s *bulkStream) rate(ctx context.Context, d time.Duration) (float64, error) {
	s.on.Store(true)
	began, before := time.Now(), s.count.Load()
	err := wait(ctx, d)
	moved := s.count.Load() - before
	s.on.Store(false)
	took := time.Since(began).Seconds()
	return float64(moved) / took, errors.Join(err, wait(ctx, d/5))
}
