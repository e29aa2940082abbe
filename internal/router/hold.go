package router

import (
	"cmp"
	"container/list"
	"context"
	"time"
)

// A Wait is what one visitor has waited so far, over all calls of Await. The
// zero value has waited for nobody.
type Wait struct {
	// Not is the epoch of a stay that could not be opened, and so is not to be
	// returned until its agent has been away and is back. Zero means none.
	Not uint64

	until time.Time // zero before the first waiting
}

// A queue is who waits for a host.
type queue struct {
	n       int
	changed chan struct{} // closed when something has become of the host
}

// An ending is how a host has lost its last stay, remembered for as long as
// Hold.
type ending struct {
	host string
	at   time.Time
	lost bool // or else it ended in good order, which counts against Began
}

func (r *Router) holdLocked() time.Duration { return max(0, cmp.Or(r.Hold, 10*time.Second)) }
func (r *Router) holdMaxLocked() int        { return max(0, cmp.Or(r.HoldMax, 100)) }

// SetHold changes Hold and HoldMax, which have the meaning that they have in
// Router. Who waits goes on as before, unless nobody waits any more.
func (r *Router) SetHold(hold time.Duration, most int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Hold, r.HoldMax = hold, most
	if r.holdLocked() > 0 && r.holdMaxLocked() > 0 {
		return
	}
	for host := range r.queues {
		r.wakeLocked(host)
	}
}

// Await is a Lookup that waits, if a stay of the host is expected: because its
// agent is away, or it has lost its last stay and that less than Hold ago, or
// the node has just begun. It returns [ErrOffline] when Hold has passed since
// the first waiting of w, and at once if HoldMax others wait already.
// Otherwise it fails with the cause of ctx.
func (r *Router) Await(ctx context.Context, host string, w *Wait) (Route, error) {
	owned := r.owned(host)
	var q *queue
	var late <-chan time.Time

	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.leaveLocked(host, q) }()
	var bad *presence
	if s := r.holding(host).find(w.Not); s != nil {
		bad = s.here.Load()
	}
	for {
		if s := r.holding(host).next(bad); s != nil {
			return s.route(host), nil
		}
		now := time.Now()
		if err := r.expectedLocked(host, owned, now); err != nil {
			return Route{}, err
		}
		if q == nil {
			if w.until.IsZero() {
				w.until = now.Add(r.holdLocked())
			}
			if q = r.enterLocked(host); q == nil {
				return Route{}, ErrOffline
			}
			t := time.NewTimer(w.until.Sub(now))
			defer t.Stop()
			late = t.C
		}
		changed := q.changed
		r.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-late:
			err = ErrOffline
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		r.mu.Lock()
		if err != nil {
			return Route{}, err
		}
	}
}

// expectedLocked returns nil if a stay that can be reached is expected, and
// otherwise why not.
func (r *Router) expectedLocked(host string, owned bool, now time.Time) error {
	hold := r.holdLocked()
	r.sweepLocked(now)
	e, ended := r.endings[host]
	switch {
	case hold == 0 || r.holdMaxLocked() == 0:
		if !owned && r.holding(host) == nil {
			return ErrNoTunnel
		}
		return ErrOffline
	case r.holding(host) != nil:
		return nil
	case !owned:
		return ErrNoTunnel
	case ended && !e.Value.(ending).lost:
		return ErrOffline
	case ended, now.Sub(r.Began) < hold:
		return nil
	}
	return ErrOffline
}

// enterLocked takes a place among those who wait for a host; nil if there is
// none left.
func (r *Router) enterLocked(host string) *queue {
	q := r.queues[host]
	if q == nil {
		if r.queues == nil {
			r.queues = make(map[string]*queue)
		}
		q = &queue{changed: make(chan struct{})}
		r.queues[host] = q
	}
	if q.n >= r.holdMaxLocked() {
		return nil
	}
	q.n++
	return q
}

func (r *Router) leaveLocked(host string, q *queue) {
	if q == nil {
		return
	}
	if q.n--; q.n == 0 {
		delete(r.queues, host)
	}
}

// wakeLocked makes all who wait for a host look again.
func (r *Router) wakeLocked(host string) {
	if q := r.queues[host]; q != nil {
		close(q.changed)
		q.changed = make(chan struct{})
	}
}

// rememberLocked notes how the host has lost its last stay, as far as it
// matters to those who may come to wait.
func (r *Router) rememberLocked(host string, lost bool) {
	now, hold := time.Now(), r.holdLocked()
	r.forgetLocked(host)
	r.sweepLocked(now)
	if hold == 0 || !lost && now.Sub(r.Began) >= hold {
		return
	}
	if r.endings == nil {
		r.endings = make(map[string]*list.Element)
	}
	r.endings[host] = r.order.PushBack(ending{host, now, lost})
}

func (r *Router) forgetLocked(host string) {
	if e := r.endings[host]; e != nil {
		r.order.Remove(e)
		delete(r.endings, host)
	}
}

// sweepLocked forgets all endings that are older than Hold. It is called
// whenever one is remembered or looked for, so that there are never more than
// hosts lost within Hold of the last time.
func (r *Router) sweepLocked(now time.Time) {
	hold := r.holdLocked()
	for e := r.order.Front(); e != nil && now.Sub(e.Value.(ending).at) >= hold; e = r.order.Front() {
		r.order.Remove(e)
		delete(r.endings, e.Value.(ending).host)
	}
}
