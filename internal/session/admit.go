package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/culvertd/culvert/internal/auth"
	"github.com/culvertd/culvert/internal/wire"
)

// A stranger is a conn that has not proved anything yet: he may say one
// message, and has helloTime for it.
type stranger struct {
	source netip.Prefix // see sourceOf
	cancel context.CancelFunc
}

// ServeAgent takes c over, closes it, and returns when what began on it has
// ended: the session of an agent, or the lane of one; at once if it was
// refused, or when ctx ends.
func (s *Server) ServeAgent(ctx context.Context, c net.Conn) {
	defer c.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := &stranger{sourceOf(c.RemoteAddr()), cancel}
	if !s.enter(g) {
		return
	}
	defer s.depart(g)
	first, err := hear(ctx, c)
	var why *wire.Refused
	switch m := first.(type) {
	case *wire.Hello:
		var x *session
		if x, why = s.welcome(g, c, m); x != nil {
			defer s.leave(x)
			x.guard(func() { x.serve(ctx, c) })
			return
		}
	case *wire.Join:
		var x *session
		if x, why = s.recognise(ctx, g, c, m); x != nil {
			x.guard(func() { x.carry(ctx, c, m.Lane) })
			return
		}
	default:
		if err == nil {
			err = fmt.Errorf("the agent began with %T", first)
		}
	}
	if why != nil {
		err = errors.New(why.Code.String())
		sendOff(ctx, c, why)
	}
	s.log().Debug("agent refused", "peer", c.RemoteAddr().String(), "err", err)
}

// enter takes a place for a stranger. When there is none left, somebody else
// makes room, so that nobody can keep the others out by coming often. enter
// reports false if nobody is admitted any more.
func (s *Server) enter(g *stranger) bool {
	loser, ok := s.place(g)
	if loser != nil {
		loser.cancel() // its own ServeAgent closes the conn, which may take time
	}
	return ok
}

func (s *Server) place(g *stranger) (loser *stranger, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions == nil {
		s.sessions = map[[16]byte]*session{}
		s.agents = map[agent]*session{}
		s.empty = make(chan struct{})
	}
	if s.stopping && len(s.sessions) == 0 { // or else it may be a lane of one of those
		return nil, false
	}
	s.present++
	s.strangers = append(s.strangers, g)
	if len(s.strangers) > s.maxStrangers() {
		loser = s.evictLocked()
	}
	return loser, true
}

// evictLocked takes the place of the oldest stranger of the source with the
// most. Those who have a token prove it within a few round trips, and are
// seldom the oldest.
func (s *Server) evictLocked() *stranger {
	count, most := map[netip.Prefix]int{}, 0
	for _, g := range s.strangers {
		count[g.source]++
		most = max(most, count[g.source])
	}
	i := slices.IndexFunc(s.strangers, func(g *stranger) bool { return count[g.source] == most })
	loser := s.strangers[i]
	s.strangers = slices.Delete(s.strangers, i, i+1)
	return loser
}

// sourceOf is what one stranger can be told from another by: an IPv4 address,
// or the 64 bits of an IPv6 address that somebody had to give to it. All other
// kinds of address are one source.
func sourceOf(a net.Addr) netip.Prefix {
	ap, _ := netip.ParseAddrPort(a.String())
	ip := ap.Addr().Unmap()
	p, _ := ip.Prefix(min(ip.BitLen(), 64)) // without a zone
	return p
}

// proveLocked takes a stranger who has proved who he is off the list, and
// reports false if he had to make room meanwhile, and is being hung up on.
func (s *Server) proveLocked(g *stranger) bool {
	i := slices.Index(s.strangers, g)
	if i >= 0 {
		s.strangers = slices.Delete(s.strangers, i, i+1)
	}
	return i >= 0
}

// depart forgets a conn that has left ServeAgent.
func (s *Server) depart(g *stranger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proveLocked(g)
	s.present--
	if s.stopping && s.present == 0 {
		close(s.empty)
	}
}

// hear reads what a stranger says first, within helloTime.
func hear(ctx context.Context, c net.Conn) (m wire.Message, err error) {
	ctx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	err = within(ctx, c, func() error {
		m, err = wire.ReadFirst(c)
		return err
	})
	if hello, ok := m.(*wire.Hello); ok && hello.Agent == [16]byte{} {
		return nil, errors.New("an agent without an id")
	}
	return m, err
}

// tell says m before there is a mux.
func tell(ctx context.Context, c net.Conn, m wire.Message) error {
	return within(ctx, c, func() error { return wire.Write(c, m) })
}

// within makes what talk waits for on c fail as soon as ctx ends. When it
// returns without an error, c is as before.
func within(ctx context.Context, c net.Conn, talk func() error) error {
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) }) // unlike Close, this never waits
	err := talk()
	if !stop() {
		return context.Cause(ctx)
	}
	return err
}

// sendOff says no, and waits a moment for the other to hang up: a conn that is
// closed at once may take our words with it.
func sendOff(ctx context.Context, c net.Conn, why *wire.Refused) {
	ctx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	if tell(ctx, c, why) != nil {
		return
	}
	ctx, cancel = context.WithTimeout(ctx, partTime)
	defer cancel()
	within(ctx, c, func() error {
		_, err := io.Copy(io.Discard, io.LimitReader(c, wire.MaxBody))
		return err
	})
}

// welcome makes a stranger a session, or says why not. A session that the same
// agent has left behind, on connections whose end we have not noticed yet, is
// ended.
func (s *Server) welcome(g *stranger, c net.Conn, hello *wire.Hello) (*session, *wire.Refused) {
	grant, why := s.identify(c, hello.Version, hello.Token)
	if why != nil {
		return nil, why
	}
	x := &session{
		server: s, since: time.Now(), cancel: g.cancel,
		agent: agent{grant.Owner, hello.Agent}, software: hello.Software, grant: grant, resume: s.resume(),
		out: make(chan wire.Message, 16+2*s.maxTunnels()), begun: make(chan struct{}), ending: make(chan struct{}),
		tunnels: map[uint32]*tunnel{}, visitors: map[*visitor]struct{}{},
		ways: ways{remote: c.RemoteAddr().String()},
	}
	rand.Read(x.id[:])
	rand.Read(x.secret[:])
	older, why := s.begin(g, x)
	if older != nil {
		older.end(&wire.Refused{Code: wire.Replaced, Reason: "the same agent came back"})
	}
	if why != nil {
		return nil, why
	}
	return x, nil
}

func (s *Server) begin(g *stranger, x *session) (older *session, refused *wire.Refused) {
	s.mu.Lock()
	defer s.mu.Unlock()
	older = s.agents[x.agent]
	switch {
	case s.stopping:
		return nil, &wire.Refused{Code: wire.ShuttingDown, RetryAfter: wire.Milliseconds(time.Second)}
	case older == nil && len(s.agents) >= s.maxSessions():
		return nil, &wire.Refused{Code: wire.Internal, Reason: "the node is full", RetryAfter: wire.Milliseconds(10 * time.Second)}
	case !s.proveLocked(g):
		return nil, &wire.Refused{Code: wire.Internal, RetryAfter: wire.Milliseconds(time.Second)}
	}
	s.agents[x.agent], s.sessions[x.id] = x, x
	return older, nil
}

// leave forgets x, which has ended. When a server that stops has forgotten the
// last, there is nothing that a stranger could be told but no.
func (s *Server) leave(x *session) {
	for _, g := range s.forget(x) {
		g.cancel()
	}
}

func (s *Server) forget(x *session) (hopeless []*stranger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, x.id)
	if s.agents[x.agent] == x { // and not its successor
		delete(s.agents, x.agent)
	}
	if s.stopping && len(s.sessions) == 0 {
		hopeless = slices.Clone(s.strangers)
	}
	return hopeless
}

// identify finds out whose a token is.
func (s *Server) identify(c net.Conn, version uint16, token wire.Secret) (auth.Grant, *wire.Refused) {
	if version < wire.Version {
		return auth.Grant{}, &wire.Refused{Code: wire.VersionUnsupported, Reason: fmt.Sprintf("this node speaks version %d", wire.Version)}
	}
	grant, err := s.Auth.Authenticate(string(token))
	switch {
	case err == nil:
		return grant, nil
	case errors.Is(err, auth.ErrUnauthorized):
		return grant, &wire.Refused{Code: wire.Unauthorized, Reason: "the node does not know this token, or no longer"}
	}
	s.log().Warn("token not checked", "peer", c.RemoteAddr().String(), "err", err)
	return grant, &wire.Refused{Code: wire.Internal, RetryAfter: wire.Milliseconds(5 * time.Second)}
}
