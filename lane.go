package culvert

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/culvertd/culvert/internal/netwatch"
	"github.com/culvertd/culvert/internal/wire"
	"github.com/culvertd/culvert/mux"
)

const (
	joinTime  = 10 * time.Second       // from the dial to the node's answer to a join
	moreTime  = 10 * time.Second       // between two attempts at a second lane
	wokeTime  = time.Second            // for a sign of life after a sleep
	movedTime = 500 * time.Millisecond // the same when something around us has changed, at least
)

// hangUp closes conn where nothing can hold it up: TLS wants to say goodbye
// first, and on a network that is gone there is nobody to say it to.
func hangUp(conn net.Conn) {
	inner := conn
	for {
		outer, ok := inner.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		inner = outer.NetConn()
	}
	inner.Close()
	conn.Close()
}

// A keeper sees to it that a session has a lane. It belongs to one goroutine,
// keepLanes, and makes one attempt at a time.
type keeper struct {
	*session
	lanes  []*mux.Lane // those that there were when one was added for the last time
	good   time.Time   // since when there is a lane
	adrift time.Time   // since when there is none; zero while there is one

	again   <-chan time.Time // when to make the next attempt, nil for none
	attempt chan joined      // what has become of the one under way, nil for none
	abandon context.CancelFunc
	began   time.Time // when it was made, or the last one
	hint    time.Time // the node wants none before
	more    time.Time // no lane beside others before
}

// A joined is what has become of an attempt.
type joined struct {
	transport Transport
	err       error
}

// keepLanes dials again when the session has lost its last lane, until the node
// does not know it any more or the time for that is over; dials one more when
// bulk is in the way of the small; and looks at the lanes there are when
// something has happened around us. It returns why the session has ended.
func (s *session) keepLanes(ctx context.Context) error {
	k := &keeper{session: s, good: s.since, lanes: s.conn.Lanes()}
	defer k.stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.conn.Done():
			return s.conn.Err()
		case <-s.conn.Adrift():
			k.lost()
		case <-s.conn.WantLane():
			if len(s.conn.Lanes()) == 1 && k.attempt == nil && time.Now().After(k.more) {
				k.dial(ctx)
			}
		case <-k.again:
			k.dial(ctx)
		case j := <-k.attempt:
			if err := k.dialled(j); err != nil {
				return err
			}
		case n := <-s.news:
			k.heard(ctx, n)
		}
	}
}

// stop waits for the attempt under way, and tells the session how it went.
func (k *keeper) stop() {
	k.giveUp()
	k.lasted = 0
	if k.adrift.IsZero() {
		k.lasted = time.Since(k.good)
	}
}

// lost notes that the last lane has gone, and dials again soon.
func (k *keeper) lost() {
	if len(k.conn.Lanes()) > 0 || !k.adrift.IsZero() {
		return
	}
	err := k.reason()
	k.adrift = time.Now()
	pause := k.wait.next(k.adrift.Sub(k.good), 0, k.longest(nil))
	if k.attempt != nil {
		pause = 0 // it is under way already
	} else {
		k.again = time.After(pause)
	}
	k.emit(Event{Kind: EventResuming, Err: err, Retry: pause})
}

// longest is the longest wait after an attempt that ended with err. On a road
// whose connections are reset again and again the waits grow, but not so far
// that the session is over before it has been tried a few times.
func (k *keeper) longest(err error) time.Duration {
	return min(longestWait(err), k.resume/8)
}

// reason is why the last lane has gone.
func (k *keeper) reason() error {
	for _, l := range slices.Backward(k.lanes) {
		if err := l.Err(); err != nil {
			return &lostError{err}
		}
	}
	return &lostError{errors.New("closed")}
}

// A lostError is the end of a connection that a session outlives.
type lostError struct{ err error }

func (e *lostError) Error() string {
	cause := e.err
	if inner := errors.Unwrap(cause); inner != nil {
		cause = inner // what the network said, without what the mux adds
	}
	if errors.Is(e.err, mux.ErrPeerSilent) {
		return "connection lost: nothing is heard from the node"
	}
	return "connection lost: " + cause.Error()
}

func (e *lostError) Unwrap() error { return e.err }

func (k *keeper) emit(e Event) {
	e.Server, e.Session = k.agent.Server, k.id
	k.agent.emit(e)
}

// dial makes an attempt.
func (k *keeper) dial(ctx context.Context) {
	k.giveUp()
	ctx, k.abandon = context.WithTimeoutCause(ctx, joinTime, errors.New("no answer in time"))
	k.again, k.began, k.attempt = nil, time.Now(), make(chan joined, 1)
	go func(attempt chan<- joined) { attempt <- k.join(ctx) }(k.attempt)
}

// giveUp ends the attempt under way, if there is one, and waits for that.
func (k *keeper) giveUp() {
	if k.attempt == nil {
		return
	}
	k.abandon()
	<-k.attempt // if it was successful just then, there is a lane, and we are told when it goes
	k.attempt = nil
}

// join adds a lane. It runs in a goroutine of its own, one at a time.
func (s *session) join(ctx context.Context) (j joined) {
	var raw net.Conn
	raw, j.transport, j.err = s.agent.dial(ctx, s.road.choose())
	if j.err == nil {
		j.err = s.joinOver(ctx, raw)
	}
	if j.err != nil {
		s.road.failed(j.err)
		j.err = fmt.Errorf("connect to %s: %w", s.agent.Server, j.err)
		return j
	}
	s.road.worked()
	return j
}

// joinOver makes raw a lane of the session. A number is used once, whatever
// becomes of it: the node may have heard us although we have not heard it.
func (s *session) joinOver(ctx context.Context, raw net.Conn) error {
	s.lastLane++
	m, err := exchange(ctx, raw, &wire.Join{
		Version: wire.Version, Session: s.number, Lane: s.lastLane, Token: wire.Secret(s.agent.Token),
		Proof: wire.Proof(s.secret, s.number, s.lastLane),
	})
	if _, ok := m.(*wire.Joined); err == nil && !ok {
		err = fmt.Errorf("the node said %T instead of joined", m)
	}
	if err != nil {
		hangUp(raw)
		return err
	}
	_, err = s.conn.Join(raw, s.lastLane)
	return err
}

// dialled goes on after an attempt. An error ends the session.
func (k *keeper) dialled(j joined) error {
	k.abandon()
	k.attempt = nil
	refusal, _ := errors.AsType[*RefusedError](j.err)
	switch {
	case j.err == nil:
		if lanes := k.conn.Lanes(); len(lanes) > 0 {
			k.lanes = lanes
		}
		if k.adrift.IsZero() {
			k.more = time.Now().Add(moreTime) // also if this one does not last
		} else {
			k.emit(Event{Kind: EventResumed, Transport: j.transport, Took: time.Since(k.adrift)})
			k.adrift, k.good = time.Time{}, time.Now()
		}
		if k.conn.Err() == nil {
			k.lost() // if it has gone meanwhile: Adrift may have said so while that was no news
		}
	case k.adrift.IsZero(): // nobody needs it
		k.more = time.Now().Add(moreTime)
		k.agent.logger().Debug("lane not joined", "session", k.id, "err", j.err)
	case refusal != nil && (unknown(refusal) || refusal.Final):
		return j.err
	default:
		hint := retryAfter(j.err)
		pause := k.wait.next(0, hint, k.longest(j.err))
		k.hint, k.again = time.Now().Add(hint), time.After(pause)
		k.emit(Event{Kind: EventResuming, Err: j.err, Retry: pause})
	}
	return nil
}

// heard does what news calls for.
func (k *keeper) heard(ctx context.Context, n netwatch.News) {
	atOnce := n == netwatch.Woke || !k.adrift.IsZero()
	if n == netwatch.Moved && k.leaveGone() {
		k.emit(Event{Kind: EventNetworkChanged})
		atOnce = true
	} else if n == netwatch.Moved && k.attempt != nil && time.Since(k.began) < patience {
		atOnce = false // or a network that changes all the time would let no attempt finish
	}
	probe := wokeTime
	if n == netwatch.Moved {
		probe = max(movedTime, 4*k.conn.RTT())
	}
	k.conn.Probe(probe)
	if !atOnce {
		return
	}
	earliest := k.began.Add(closest)
	if k.hint.After(earliest) {
		earliest = k.hint
	}
	if wait := time.Until(earliest); wait <= 0 {
		k.dial(ctx)
	} else if k.attempt == nil {
		k.again = time.After(wait)
	}
}

// leaveGone gives up the lanes whose address this machine has no longer, and
// reports whether there was one.
func (k *keeper) leaveGone() bool {
	addrs := k.agent.addrs
	if addrs == nil {
		addrs = net.InterfaceAddrs
	}
	all, err := addrs()
	if err != nil {
		return false
	}
	here := map[netip.Addr]bool{}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			here[p.Addr().Unmap().WithZone("")] = true
		}
	}
	gone := false
	for _, l := range k.conn.Lanes() {
		local, err := netip.ParseAddrPort(l.LocalAddr().String())
		if err == nil && !here[local.Addr().Unmap().WithZone("")] {
			l.Leave()
			gone = true
		}
	}
	return gone
}
