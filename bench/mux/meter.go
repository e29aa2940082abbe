package main

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// A meter counts what a load has done, and how long each piece of it took.
type meter struct {
	count atomic.Int64
	timed atomic.Bool // laps are kept

	mu    sync.Mutex // guards times
	times histogram
}

// laps are the times of one goroutine. Keeping one allocates nothing.
type laps struct {
	meter *meter
	last  time.Time
	times histogram
}

// start begins the first lap of a goroutine, which calls end when it ends.
func (m *meter) start() *laps { return &laps{meter: m, last: time.Now()} }

// done ends a lap and begins the next one.
func (l *laps) done() {
	now := time.Now()
	if l.meter.timed.Load() {
		l.times.add(now.Sub(l.last))
	}
	l.last = now
	l.meter.count.Add(1)
}

func (l *laps) end() {
	l.meter.mu.Lock()
	defer l.meter.mu.Unlock()
	for i, n := range l.times {
		l.meter.times[i] += n
	}
}

// percentile returns the time within which that part of the laps ended.
func (m *meter) percentile(part float64) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.times.percentile(part)
}

// A histogram counts times in classes that are 6 % wide.
type histogram [1024]uint32

func (h *histogram) add(d time.Duration) {
	n := uint64(max(0, d))
	power := max(0, bits.Len64(n)-5)
	h[uint64(power)*16+n>>power]++
}

func (h *histogram) percentile(part float64) time.Duration {
	var all float64
	for _, n := range h {
		all += float64(n)
	}
	var seen float64
	for i, n := range h {
		if seen += float64(n); n > 0 && seen >= part*all {
			power := max(0, i/16-1)
			low := (i - power*16) << power
			return time.Duration(low + (1<<power)/2)
		}
	}
	return 0
}
