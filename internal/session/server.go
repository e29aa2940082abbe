// Package session is the node's side of an agent's stay: it admits an agent
// that proves a token, gives it the tunnels it may have, and opens streams to
// it until it leaves.
//
// A [Server] takes conns from whoever met them; each stays in ServeAgent until
// its session has ended. [Server.Shutdown] stops it: no new sessions, a word to
// every agent, time for visitors in flight, and the cut; [Server.Close] is only
// the cut. The package does not listen, does not know what a visitor wants, and
// does not decide who may have which name.
package session

import (
	"cmp"
	"context"
	"encoding/hex"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvertd/culvert/internal/auth"
	"github.com/culvertd/culvert/internal/router"
	"github.com/culvertd/culvert/internal/wire"
	"github.com/culvertd/culvert/mux"
)

// An Authority knows who a token is, and which names it may have. [auth.Auth]
// is one. Its errors decide what an agent is told: [auth.ErrUnauthorized],
// [auth.ErrNameTaken], [auth.ErrNameNotAllowed], [auth.ErrTooManyNames], a
// *name.Error; anything else is the node's own trouble, and the agent asks
// again later.
type Authority interface {
	Authenticate(secret string) (auth.Grant, error)
	Valid(g auth.Grant) error // cheap: it is asked for every stream, and every second
	Claim(ctx context.Context, g auth.Grant, name string) (string, error)
}

// A Registry is told which tunnels there are. [router.Router] is one.
type Registry interface {
	Add(host string, o router.Opener, opt router.Options) (epoch uint64)
	Remove(host string, epoch uint64)
}

// A Server admits agents. Fill in the fields, which are not to be changed any
// more once ServeAgent was called; the methods may be called from anywhere.
type Server struct {
	Auth   Authority // required
	Router Registry  // required
	Domain string    // names are NAME.Domain; required

	// PublicURL returns where visitors of a name come in. Nil means
	// https://NAME.Domain.
	PublicURL func(name string) string

	// Software is what agents are told they talk to. Empty means "culvertd".
	Software string

	// Mux tunes the connections. Zero fields mean the defaults of that
	// package, but for MaxStreams: an agent opens one stream, so that zero
	// means the least there is.
	Mux mux.Config

	// MaxTunnels is how many tunnels a session may hold. Zero means 64.
	MaxTunnels int

	// MaxSessions is how many sessions there may be, and MaxStrangers how many
	// conns that have not proved a token yet. One more session is refused;
	// for one more stranger, one of the source with the most of them is hung
	// up on. Zero means 10000, and 512.
	MaxSessions  int
	MaxStrangers int

	// Log gets what happens. Nil means silence.
	Log *slog.Logger

	mu        sync.Mutex // guards the fields below
	stopping  bool
	strangers []*session            // not welcomed yet, the oldest first
	present   map[*session]struct{} // every conn in ServeAgent
	agents    map[agent]*session    // those that were welcomed
	tunnels   map[string]*tunnel    // by name: its latest holder here
	empty     chan struct{}         // closed when stopping and nobody is present
}

// An agent is one run of the culvert program, of one owner: an id of somebody
// else's choice must not be able to end a session.
type agent struct {
	owner string
	id    [16]byte
}

func (s *Server) maxTunnels() int   { return cmp.Or(s.MaxTunnels, 64) }
func (s *Server) maxSessions() int  { return cmp.Or(s.MaxSessions, 10_000) }
func (s *Server) maxStrangers() int { return cmp.Or(s.MaxStrangers, 512) }

func (s *Server) muxConfig() mux.Config {
	cfg := s.Mux
	cfg.MaxStreams = cmp.Or(cfg.MaxStreams, 1)
	return cfg
}

func (s *Server) log() *slog.Logger {
	if s.Log != nil {
		return s.Log
	}
	return slog.New(slog.DiscardHandler)
}

func (s *Server) publicURL(name string) string {
	if s.PublicURL != nil {
		return s.PublicURL(name)
	}
	return "https://" + s.host(name)
}

func (s *Server) host(name string) string { return name + "." + s.Domain }

// ServeAgent takes c over, closes it, and returns when the session on it has
// ended: when the agent left, or was refused, or ctx ended.
func (s *Server) ServeAgent(ctx context.Context, c net.Conn) {
	defer c.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	x := &session{
		server: s, remote: c.RemoteAddr().String(), since: time.Now(), cancel: cancel,
		source: sourceOf(c.RemoteAddr()),
		out:    make(chan wire.Message, 16+2*s.maxTunnels()), ending: make(chan struct{}),
		tunnels: map[uint32]*tunnel{}, visitors: map[*visitor]struct{}{},
	}
	if !s.enter(x) {
		return
	}
	defer s.leave(x)
	x.conn = mux.Server(c, s.muxConfig())
	defer x.conn.Close()
	x.guard(func() { x.serve(ctx) })
}

// enter takes a place for a stranger. When there is none left, somebody else
// makes room, so that nobody can keep the others out by coming often. enter
// reports false if nobody is admitted any more.
func (s *Server) enter(x *session) bool {
	loser, ok := s.place(x)
	if loser != nil {
		loser.cancel() // its own ServeAgent closes the conn, which may take time
	}
	return ok
}

func (s *Server) place(x *session) (loser *session, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.present == nil {
		s.present = map[*session]struct{}{}
		s.agents = map[agent]*session{}
		s.tunnels = map[string]*tunnel{}
		s.empty = make(chan struct{})
	}
	if s.stopping {
		return nil, false
	}
	s.present[x] = struct{}{}
	s.strangers = append(s.strangers, x)
	if len(s.strangers) > s.maxStrangers() {
		loser = s.evictLocked()
	}
	return loser, true
}

// evictLocked takes the place of the oldest stranger of the source with the
// most. Those who have a token prove it within a few round trips, and are
// seldom the oldest.
func (s *Server) evictLocked() *session {
	count, most := map[netip.Prefix]int{}, 0
	for _, x := range s.strangers {
		count[x.source]++
		most = max(most, count[x.source])
	}
	i := slices.IndexFunc(s.strangers, func(x *session) bool { return count[x.source] == most })
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

// welcome makes a stranger a session. A session that the same agent has left
// behind, on a connection whose end we have not noticed yet, is returned to be
// ended.
func (s *Server) welcome(x *session) (older *session, refused *wire.Refused) {
	s.mu.Lock()
	defer s.mu.Unlock()
	older = s.agents[x.agent]
	place := slices.Index(s.strangers, x)
	switch {
	case s.stopping:
		return nil, &wire.Refused{Code: wire.ShuttingDown}
	case place < 0: // it had to make room, and is being hung up on
		return nil, &wire.Refused{Code: wire.Internal, RetryAfter: wire.Milliseconds(time.Second)}
	case older == nil && len(s.agents) >= s.maxSessions():
		return nil, &wire.Refused{Code: wire.Internal, Reason: "the node is full", RetryAfter: wire.Milliseconds(10 * time.Second)}
	}
	s.strangers = slices.Delete(s.strangers, place, place+1)
	s.agents[x.agent] = x
	return older, nil
}

// leave forgets x, which has ended.
func (s *Server) leave(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.present, x)
	if i := slices.Index(s.strangers, x); i >= 0 {
		s.strangers = slices.Delete(s.strangers, i, i+1)
	}
	if s.agents[x.agent] == x { // and not its successor
		delete(s.agents, x.agent)
	}
	if s.stopping && len(s.present) == 0 {
		close(s.empty)
	}
}

// hold makes t the holder of its name here, unless a later one is already. The
// one of the two that has lost is returned.
func (s *Server) hold(t *tunnel) (loser *tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.tunnels[t.name]
	if now != nil && now.epoch > t.epoch {
		return t
	}
	s.tunnels[t.name] = t
	return now
}

// release forgets t, if it still holds its name.
func (s *Server) release(t *tunnel) {
	s.mu.Lock()
	if s.tunnels[t.name] == t {
		delete(s.tunnels, t.name)
	}
	s.mu.Unlock()
	s.Router.Remove(t.host, t.epoch)
}

// Holds reports whether a session here holds a tunnel of that name right now.
func (s *Server) Holds(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tunnels[name] != nil
}

// An Info describes a session to an operator.
type Info struct {
	ID       string        `json:"id"`
	Agent    string        `json:"agent"` // the same in all sessions of one run of an agent
	Owner    string        `json:"owner"`
	TokenID  string        `json:"token_id"`
	Remote   string        `json:"remote"`
	Software string        `json:"software"`
	Since    time.Time     `json:"since"`
	RTT      time.Duration `json:"rtt"`     // 0 before the first measurement
	Tunnels  []string      `json:"tunnels"` // names, sorted
	Streams  int           `json:"streams"` // open for visitors
}

// Sessions returns the sessions there are, oldest first.
func (s *Server) Sessions() []Info {
	var all []Info
	for _, x := range s.welcomedSessions() {
		all = append(all, x.info())
	}
	slices.SortFunc(all, func(a, b Info) int {
		return cmp.Or(a.Since.Compare(b.Since), strings.Compare(a.ID, b.ID))
	})
	return all
}

// Kick ends the session with that id, and reports whether there was one. The
// agent will be back; to keep it away, revoke its token.
func (s *Server) Kick(id string) bool {
	for _, x := range s.welcomedSessions() {
		if x.name() == id {
			x.end(&wire.Refused{
				Code: wire.ShuttingDown, Reason: "the operator ended the session",
				RetryAfter: wire.Milliseconds(time.Second),
			})
			return true
		}
	}
	return false
}

// DropToken ends the sessions of a token that was revoked, with the streams of
// their visitors.
func (s *Server) DropToken(id string) {
	for _, x := range s.welcomedSessions() {
		if x.grant.TokenID == id {
			x.end(&wire.Refused{Code: wire.Revoked, Reason: "the token was revoked"})
		}
	}
}

func (s *Server) welcomedSessions() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*session, 0, len(s.agents))
	for _, x := range s.agents {
		all = append(all, x)
	}
	return all
}

// Shutdown admits nobody any more, tells every agent, and waits until their
// visitors have finished. When ctx ends first, it cuts what is left and returns
// the cause of ctx. ServeAgent has returned everywhere when Shutdown does.
func (s *Server) Shutdown(ctx context.Context) error {
	left := 24 * time.Hour
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	empty := s.stop()
	for _, x := range s.welcomedSessions() {
		x.drain(left)
	}
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		s.Close()
		return context.Cause(ctx)
	}
}

// Close ends all sessions now, and returns when ServeAgent has returned
// everywhere.
func (s *Server) Close() error {
	empty := s.stop()
	s.mu.Lock()
	present := make([]*session, 0, len(s.present))
	for x := range s.present {
		present = append(present, x)
	}
	s.mu.Unlock()

	for _, x := range present {
		x.end(nil)
	}
	<-empty
	return nil
}

// stop admits nobody any more.
func (s *Server) stop() (empty <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.empty == nil {
		s.empty = make(chan struct{})
	}
	if !s.stopping && len(s.present) == 0 {
		close(s.empty)
	}
	s.stopping = true
	return s.empty
}

func hexID(id [16]byte) string { return hex.EncodeToString(id[:]) }
