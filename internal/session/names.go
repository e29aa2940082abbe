package session

import (
	"cmp"
	"fmt"
	"time"

	"github.com/culvertd/culvert/internal/router"
	"github.com/culvertd/culvert/internal/wire"
)

const (
	// swapTime is the least time between two swaps of a name between agents:
	// two that fight for one cost their visitors no more than that.
	swapTime = 10 * time.Second

	// aliveTime is how long a session without a connection is taken for alive.
	aliveTime = time.Second

	maxPool = 64 // agents that share a name
)

// tooLate refuses a session that has ended, to which nothing is said any more.
var tooLate = &wire.Refused{}

// A holding is who holds a name here.
type holding struct {
	tunnels []*tunnel // never none; more than one if they share the name
	swapped time.Time // when a living agent last lost the name to another
	fought  bool      // it has been logged that it was asked for again too soon
}

// take makes t a holder of its name, in the router as well, if it may be: alone,
// or with others that share. Those who are not holders any more are returned,
// and are to be told.
//
// An agent that comes back takes the place of its own tunnel. A holder whose
// session has no connection is as good as gone, and so is one whose owner does
// not own the name any more. With those that live, both policies count.
func (s *Server) take(t *tunnel, opt router.Options) (losers []*tunnel, refused *wire.Refused) {
	s.naming.Lock()
	defer s.naming.Unlock()
	if t.session.hasEnded() { // the agent may be here again, in another session, and have the name
		return nil, tooLate
	}
	now := s.tunnels[t.name]
	if now == nil {
		now = new(holding)
	}
	next := &holding{swapped: now.swapped, fought: now.fought}
	pool := t.takeover == wire.TakeoverPool
	var rivals []*tunnel // living agents of the owner
	for _, old := range now.tunnels {
		switch mine := old.session.agent == t.session.agent; {
		case mine || old.session.agent.owner != t.session.agent.owner:
			losers = append(losers, old)
		case pool && old.takeover == wire.TakeoverPool:
			next.tunnels = append(next.tunnels, old) // also if it is away: it may be back
		case !old.session.alive():
			losers = append(losers, old)
		default:
			rivals = append(rivals, old)
		}
	}
	if len(rivals) > 0 {
		if why := s.contest(t, now, rivals); why != nil {
			return nil, why
		}
		losers = append(losers, rivals...)
		next.swapped, next.fought = time.Now(), false
	}
	if len(next.tunnels) >= maxPool {
		return nil, &wire.Refused{Code: wire.TooManyTunnels, Reason: fmt.Sprintf("at most %d agents share a name", maxPool)}
	}
	if len(next.tunnels) == 0 {
		t.epoch = s.Router.Add(t.host, t, opt)
	} else {
		t.epoch = s.Router.Join(t.host, t, opt)
		for _, old := range losers {
			s.Router.Remove(old.host, old.epoch)
		}
	}
	next.tunnels = append(next.tunnels, t)
	if s.tunnels == nil {
		s.tunnels = make(map[string]*holding)
	}
	s.tunnels[t.name] = next
	return losers, nil
}

// contest decides whether t may have the name that rivals hold; nil if it may.
func (s *Server) contest(t *tunnel, now *holding, rivals []*tunnel) *wire.Refused {
	held := rivals[0].takeover
	switch {
	case t.takeover == wire.TakeoverPool:
		return &wire.Refused{Code: wire.NameHeld, Reason: "another agent of yours has the name and does not share it: to share, both must say so"}
	case held == wire.TakeoverPool:
		return &wire.Refused{Code: wire.NameHeld, Reason: "agents of yours share the name, and this one does not"}
	case t.takeover == wire.TakeoverRefuse:
		return &wire.Refused{Code: wire.NameHeld, Reason: "another agent of yours has the name"}
	case held == wire.TakeoverRefuse:
		return &wire.Refused{Code: wire.NameHeld, Reason: "another agent of yours has the name and does not give it away"}
	}
	rest := cmp.Or(s.swapTime, swapTime) - time.Since(now.swapped)
	if rest <= 0 {
		return nil
	}
	if !now.fought {
		now.fought = true
		s.log().Warn("two agents fought for a name", "tunnel", t.name, "owner", t.session.agent.owner,
			"session", rivals[0].session.name(), "agent", hexID(rivals[0].session.agent.id),
			"other session", t.session.name(), "other agent", hexID(t.session.agent.id))
	}
	return &wire.Refused{
		Code: wire.NameInUse, Reason: "two agents of yours fight for the name",
		RetryAfter: wire.Milliseconds(rest),
	}
}

// release forgets t, if it still holds its name. Its visitors may wait if it
// was lost.
func (s *Server) release(t *tunnel, lost bool) {
	s.naming.Lock()
	defer s.naming.Unlock()
	if lost {
		s.Router.Lose(t.host, t.epoch)
	} else {
		s.Router.Remove(t.host, t.epoch)
	}
	now := s.tunnels[t.name]
	if now == nil {
		return
	}
	next := &holding{swapped: now.swapped, fought: now.fought}
	for _, other := range now.tunnels {
		if other != t {
			next.tunnels = append(next.tunnels, other)
		}
	}
	s.tunnels[t.name] = next
	if len(next.tunnels) == 0 {
		delete(s.tunnels, t.name)
	}
}

// Holds reports whether a session here holds a tunnel of that name right now.
func (s *Server) Holds(name string) bool {
	s.naming.Lock()
	defer s.naming.Unlock()
	return s.tunnels[name] != nil
}

// reach tells the router whether x can be reached: visitors of an agent that is
// away wait, or are sent to others that share its names. A tunnel that is opened
// at the same time is among them, or looks by itself.
func (x *session) reach() {
	x.server.naming.Lock()
	defer x.server.naming.Unlock()
	x.mu.Lock()
	tell := x.server.Router.Back
	if !x.adrift.IsZero() {
		tell = x.server.Router.Away
	}
	var tunnels []*tunnel
	for _, t := range x.tunnels {
		tunnels = append(tunnels, t)
	}
	x.mu.Unlock()
	for _, t := range tunnels {
		tell(t.host, t.epoch)
	}
}

// alive reports whether x can be reached, or could be a moment ago.
func (x *session) alive() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.adrift.IsZero() || time.Since(x.adrift) <= aliveTime
}

func (x *session) hasEnded() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.ended
}
