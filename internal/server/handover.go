package server

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrNotRunning means that the node does not serve, or not any more.
	ErrNotRunning = errors.New("the node is not running, or is stopping")

	// ErrHandingOver means that it is being handed over already.
	ErrHandingOver = errors.New("an upgrade is under way already")
)

// A Successor is a process that is to become the node.
type Successor interface {
	// AwaitData returns when it wants the data directory, and has checked
	// whatever can be checked without.
	AwaitData(ctx context.Context) error

	// GiveData says that the directory is free.
	GiveData() error

	// AwaitReady returns when it serves.
	AwaitReady(ctx context.Context) error

	// Main says that it is the node from now on.
	Main()

	// Follow tells which tokens are revoked from then on, until ctx ends.
	Follow(ctx context.Context, revoked func(token string))

	// Abort ends it, and returns when it has ended.
	Abort()
}

// handoverUnder is a handover that is under way.
type handoverUnder struct {
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when it is over, one way or the other
}

// A Handover is what HandOver reports of one that succeeded.
type Handover struct {
	Took time.Duration // from the start of the successor until it served
	Away time.Duration // for how long nobody could write to the store
}

// HandOver starts a successor, and stops this node as soon as that serves the
// same sockets: Run drains then, and returns. If the successor fails, or ctx
// ends, before it is ready, the node goes on as if nothing had happened, and the
// error says why. While the data directory changes hands, everything is read
// from memory; what wants to write waits.
func (n *Node) HandOver(ctx context.Context, start func(Sockets) (Successor, error)) (h Handover, err error) {
	n.mu.Lock()
	r := n.running
	switch {
	case r == nil:
		err = ErrNotRunning
	case n.handover != nil:
		err = ErrHandingOver
	}
	if err != nil {
		n.mu.Unlock()
		return h, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	u := &handoverUnder{cancel, make(chan struct{})}
	n.handover = u
	n.mu.Unlock()
	defer close(u.done)

	began := time.Now()
	s, err := start(r.Sockets)
	if err != nil {
		n.stay(u)
		return h, err
	}
	away, err := n.bring(ctx, r, s)
	if err == nil && !n.leave(s) {
		err = ErrNotRunning // it was stopped just before
	}
	if err != nil {
		s.Abort()
		if !away.IsZero() {
			n.takeBack(r)
		}
		n.stay(u)
		return h, err
	}
	h = Handover{Took: time.Since(began), Away: time.Since(away)}
	n.log.Info("node handed over", "took", h.Took, "store_away", h.Away)
	s.Main()
	return h, nil
}

// begin says that the node serves, and may be handed over.
func (n *Node) begin(r *rooms) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.running = r
}

// leave makes s the node. It reports false if this one is stopping by now.
func (n *Node) leave(s Successor) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.running == nil {
		return false
	}
	n.running, n.successor = nil, s
	close(n.handed)
	return true
}

// stay says that a handover came to nothing.
func (n *Node) stay(u *handoverUnder) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.handover == u {
		n.handover = nil
	}
}

// finish ends a handover that is under way, and says how long the node drains,
// and for whom, if a successor has taken over.
func (n *Node) finish() (drain time.Duration, s Successor) {
	n.mu.Lock()
	u := n.handover
	n.running = nil
	drain = n.latest.drain()
	n.mu.Unlock()

	close(n.stopping)
	if u != nil {
		u.cancel(ErrNotRunning)
		<-u.done
	}
	n.taking.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	return drain, n.successor
}

// takeBack opens the store again. If that fails, the node can do all but write,
// and tries again until it stops.
func (n *Node) takeBack(r *rooms) {
	const again = 5 * time.Second
	try := func() bool {
		ctx, cancel := context.WithTimeout(n.cut, 20*time.Second)
		defer cancel()
		err := r.store.Resume(ctx)
		if err != nil {
			n.log.Error("store not taken back", "err", err, "again", again)
		}
		return err == nil
	}
	if n.isStopping() || try() {
		return
	}
	n.taking.Go(func() {
		for {
			select {
			case <-n.stopping:
				return
			case <-time.After(again):
			}
			if try() {
				n.log.Info("store taken back")
				return
			}
		}
	})
}

func (n *Node) isStopping() bool {
	select {
	case <-n.stopping:
		return true
	default:
		return false
	}
}

// bring brings a successor to where it serves. The store is away since then,
// unless that is zero.
func (n *Node) bring(ctx context.Context, r *rooms, s Successor) (away time.Time, err error) {
	if err := s.AwaitData(ctx); err != nil {
		return away, err
	}
	away = time.Now()
	if err := r.store.Suspend(ctx); err != nil {
		return time.Time{}, err
	}
	if err := s.GiveData(); err != nil {
		return away, err
	}
	return away, s.AwaitReady(ctx)
}
