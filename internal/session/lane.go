package session

import (
	"context"
	"net"
	"time"

	"github.com/culvertd/culvert/internal/wire"
)

// maxLanes is how many connections may carry a session at a time: one, one for
// bulk, and those of a network before this one, whose end nobody has noticed. The
// mux takes no more.
const maxLanes = 4

// ways are how a session is reached. They are guarded by session.mu.
type ways struct {
	number uint64    // of the latest lane that was asked for and proved
	remote string    // of the latest
	adrift time.Time // since when there is none
}

// recognise returns the session of which a stranger can prove that it is his.
// Whatever is wrong, he is told the same, and may say hello.
func (s *Server) recognise(ctx context.Context, g *stranger, c net.Conn, m *wire.Join) (*session, *wire.Refused) {
	unknown := &wire.Refused{Code: wire.SessionUnknown}
	grant, why := s.identify(c, m.Version, m.Token)
	switch {
	case why != nil && why.Code == wire.Unauthorized:
		return nil, unknown
	case why != nil:
		return nil, why
	}
	s.mu.Lock()
	x := s.sessions[m.Session]
	s.mu.Unlock()
	if x == nil || grant.TokenID != x.grant.TokenID || !x.secret.Proves(m.Proof, m.Session, m.Lane) {
		return nil, unknown
	}
	select {
	case <-x.begun: // an agent may be quicker than our own beginning
	case <-x.ending:
	case <-ctx.Done():
	}
	if !x.take(m.Lane) {
		return nil, unknown
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.proveLocked(g) {
		return nil, &wire.Refused{Code: wire.Internal, RetryAfter: wire.Milliseconds(time.Second)}
	}
	return x, nil
}

// take uses up the number of a lane. It is taken once, and never after a higher
// one: whoever has overheard a Join can do nothing with it.
func (x *session) take(number uint64) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended || !x.hasBegun() || number <= x.number {
		return false
	}
	x.number = number
	return true
}

// carry makes c a lane of the session, and returns when the lane has ended.
func (x *session) carry(ctx context.Context, c net.Conn, number uint64) {
	soon, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	if err := tell(soon, c, &wire.Joined{}); err != nil {
		x.log().Debug("lane not joined", "lane", number, "err", err)
		return
	}
	x.makeRoom()
	lane, err := x.conn.Join(c, number)
	if err != nil {
		x.log().Debug("lane not joined", "lane", number, "err", err)
		return
	}
	defer context.AfterFunc(ctx, lane.Leave)()
	x.joined(number, c.RemoteAddr().String())
	<-lane.Done()
	x.log().Debug("lane ended", "lane", number, "err", lane.Err())
}

// makeRoom gives up the oldest lane if there are too many: it is of a network
// that the agent has left, more likely than not.
func (x *session) makeRoom() {
	if lanes := x.conn.Lanes(); len(lanes) >= maxLanes {
		lanes[0].Leave()
	}
}

// joined notes a new lane.
func (x *session) joined(number uint64, remote string) {
	x.mu.Lock()
	lost := x.adrift
	x.remote, x.adrift = remote, time.Time{}
	x.mu.Unlock()
	x.reach()

	if lost.IsZero() {
		x.log().Debug("lane joined", "lane", number, "peer", remote)
	} else {
		x.log().Info("session resumed", "lane", number, "peer", remote, "after", time.Since(lost).Round(time.Millisecond))
	}
}

// watchLanes notes when the last lane is lost. When the agent does not come
// back in time, the mux ends itself.
func (x *session) watchLanes() {
	for {
		select {
		case <-x.conn.Adrift():
		case <-x.conn.Done():
			return
		}
		x.mu.Lock()
		lost := len(x.conn.Lanes()) == 0 && x.adrift.IsZero() && !x.ended // or one has joined already
		if lost {
			x.adrift = time.Now()
		}
		x.mu.Unlock()
		if lost {
			x.reach()
			x.log().Info("session resuming", "wait", x.resume)
		}
	}
}
