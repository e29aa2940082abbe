package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvertd/culvert/bench/internal/report"
)

// speed prints what exchanges and bulk cost on the loop device, where nothing
// but the processors limits them.
func (b *bench) speed(ctx context.Context) error {
	many := slices.Concat(muxes, []library{quicGo})
	for _, s := range []struct {
		name      string
		do        load
		libraries []library
		inBytes   bool
	}{
		{fmt.Sprintf("exchange of 256 B and 1,200 B, %d streams", parallel), exchange(parallel), many, false},
		{"exchange of 256 B and 1,200 B, one at a time", exchange(1), many, false},
		{fmt.Sprintf("open, 512 B, 1 KiB, close, %d at once", parallel), openClose(parallel), many, false},
		{"open, 512 B, 1 KiB, close, one at a time", openClose(1), many, false},
		{"bulk, one stream", bulk(1), everything, true},
		{fmt.Sprintf("bulk, %d streams", parallel), bulk(parallel), many, true},
	} {
		results, err := inTurn(ctx, b, "speed: "+s.name, b.rounds, s.libraries, func(ctx context.Context, l library) (sample, error) {
			return measure(ctx, l, s.do, b.time)
		})
		if err != nil {
			return err
		}
		if s.inBytes {
			b.printBulk("Speed: "+s.name, results)
		} else {
			b.printExchanges("Speed: "+s.name, results)
		}
	}
	return nil
}

func (b *bench) printExchanges(title string, results []outcome[sample]) {
	t := report.NewTable(title, "", "", "1,000/s", "CPU µs each", "allocations each", "p50 µs", "p99 µs")
	for _, r := range results {
		t.Add(r.library.name,
			r.median("%.1f", func(s sample) float64 { return s.rate / 1e3 }),
			r.median("%.1f", func(s sample) float64 { return s.cpu * 1e6 }),
			r.median("%.1f", func(s sample) float64 { return s.allocs }),
			r.median("%.0f", func(s sample) float64 { return float64(s.p50.Nanoseconds()) / 1e3 }),
			r.median("%.0f", func(s sample) float64 { return float64(s.p99.Nanoseconds()) / 1e3 }))
	}
	t.Print(b.out)
}

func (b *bench) printBulk(title string, results []outcome[sample]) {
	t := report.NewTable(title, "", "", "MB/s", "CPU s/GB")
	for _, r := range results {
		t.Add(r.library.name,
			r.median("%.0f", func(s sample) float64 { return s.rate / 1e6 }),
			r.median("%.2f", func(s sample) float64 { return s.cpu * 1e9 }))
	}
	t.Print(b.out)
}

// A sample is what one load made of one library for a while.
type sample struct {
	rate     float64 // per second
	cpu      float64 // seconds of the processors for each exchange or byte
	allocs   float64 // for each
	p50, p99 time.Duration
}

// measure runs a load and looks at it once it has warmed up.
func measure(ctx context.Context, l library, do load, d time.Duration) (s sample, err error) {
	p, err := l.over(loopback)
	if err != nil {
		return s, err
	}
	var m meter
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- do(p, &m, stop) }()

	warm := wait(ctx, d/5)
	m.timed.Store(true)
	before := now(&m)
	select {
	case err = <-ended:
		ended <- nil
	case <-time.After(d):
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	after := now(&m)
	m.timed.Store(false)

	close(stop)
	p.close()
	select {
	case <-ended:
	case <-time.After(patience):
		return s, errStalled
	}
	n := float64(after.count - before.count)
	switch {
	case warm != nil:
		return s, warm
	case err != nil:
		return s, err
	case n == 0:
		return s, errStalled
	}
	return sample{
		rate:   n / after.at.Sub(before.at).Seconds(),
		cpu:    (after.cpu - before.cpu).Seconds() / n,
		allocs: float64(after.mallocs-before.mallocs) / n,
		p50:    m.percentile(0.50),
		p99:    m.percentile(0.99),
	}, nil
}

// A moment is how far everything was at one time.
type moment struct {
	at      time.Time
	count   int64
	cpu     time.Duration // used by this process, in all its threads
	mallocs uint64
}

func now(m *meter) moment {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		panic("BUG: " + err.Error()) // it can only dislike its arguments
	}
	return moment{
		at:      time.Now(),
		count:   m.count.Load(),
		cpu:     time.Duration(used.Utime.Nano() + used.Stime.Nano()),
		mallocs: mem.Mallocs,
	}
}
