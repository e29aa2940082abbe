package edge

import (
	"context"
	"sync"
)

// A tally counts what is under way. Unlike a [sync.WaitGroup] it can be waited
// for with a deadline, and counted up while somebody waits.
type tally struct {
	mu   sync.Mutex // guards the fields below
	n    int
	zero chan struct{} // closed when n falls to 0; nil while nobody waits
}

// add changes the count by d and returns the result.
func (t *tally) add(d int) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n += d
	if t.n < 0 {
		panic("BUG: more has ended than began")
	}
	if t.n == 0 && t.zero != nil {
		close(t.zero)
		t.zero = nil
	}
	return t.n
}

// wait returns nil once the count has been 0, or why ctx ended first.
func (t *tally) wait(ctx context.Context) error {
	t.mu.Lock()
	if t.n == 0 {
		t.mu.Unlock()
		return nil
	}
	if t.zero == nil {
		t.zero = make(chan struct{})
	}
	zero := t.zero
	t.mu.Unlock()
	select {
	case <-zero:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
