// Package netwatch tells an agent that the world around it has changed, so that
// it need not wait until a connection falls silent: the machine was asleep, or
// its addresses or routes are others.
//
// [Watch] works until its context ends. It touches no connection and draws no
// conclusions. Addresses and routes are watched on Linux only; elsewhere, and
// where the system does not let us, there is simply no such news.
package netwatch

import (
	"context"
	"sync"
	"time"
)

// News is one thing that has happened.
type News int

const (
	Woke  News = iota // time has passed in which nothing here ran
	Moved             // an address or a route came or went
)

// String returns "woke" or "moved".
func (n News) String() string { return [...]string{"woke", "moved"}[n] }

const (
	beat = time.Second // between two looks at the clocks

	// late is how much later than it should a look may be on a busy machine.
	late = 3 * time.Second

	// settle is for how long changes are gathered: a network that comes up says
	// a dozen things.
	settle = 100 * time.Millisecond
)

// A Watcher is what Watch looks at. The zero value is this machine.
type Watcher struct {
	// Wall and Steady are the clocks, one that goes on while the machine
	// sleeps and one that need not. Nil means those of the machine.
	Wall   func() time.Time
	Steady func() time.Duration

	// Clocks only means that addresses and routes are not watched.
	ClocksOnly bool
}

// Watch calls tell for all that happens, from one goroutine at a time, until
// ctx ends. What it started has ended when it returns.
func (w Watcher) Watch(ctx context.Context, tell func(News)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	moved := make(chan struct{}, 1)
	if !w.ClocksOnly {
		wg.Go(func() { watchRoutes(ctx, moved) })
	}
	began := time.Now()
	if w.Wall == nil {
		w.Wall = time.Now
	}
	if w.Steady == nil {
		w.Steady = func() time.Duration { return time.Since(began) }
	}
	tick := time.NewTicker(beat)
	defer tick.Stop()
	var gathered <-chan time.Time
	wall, steady := w.Wall().Round(0), w.Steady()
	for {
		select {
		case <-tick.C:
			before, past := wall, steady
			wall, steady = w.Wall().Round(0), w.Steady() // without Round, Sub would use the other clock
			if asleep(wall.Sub(before), steady-past) {
				tell(Woke)
			}
		case <-moved:
			if gathered == nil {
				gathered = time.After(settle)
			}
		case <-gathered:
			gathered = nil
			tell(Moved)
		case <-ctx.Done():
			return
		}
	}
}

// asleep reports whether nothing ran between two looks, by how far the clocks
// went meanwhile. A machine that was suspended has a wall clock that went on
// without the steady one; in a container that was frozen, or a virtual machine
// that was paused, both may have gone on, and it is the look that comes late. A
// clock that was set back says nothing.
func asleep(wall, steady time.Duration) bool {
	return wall-steady > late || steady > beat+late
}
