// Package session is the node's side of an agent's stay: it admits an agent
// that proves a token, gives it the tunnels it may have, and opens streams to
// it until it leaves.
//
// A [Server] takes conns from whoever met them. One begins a session, and stays
// in ServeAgent until that has ended; another joins a session as a lane, and
// stays until the lane has. A session may live without lanes for a while: it is
// resuming then, and its streams wait. [Server.Shutdown] stops it: no new sessions
// and a word to every agent, which [Server.Drain] says earlier where visitors may
// still come; then time for visitors in flight, and the cut; [Server.Close] is only
// the cut. The package does not listen, does not know what a visitor wants, and
// does not decide who may have which name.
package session

import (
	"cmp"
	"context"
	"encoding/hex"
	"log/slog"
	"maps"
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
	Join(host string, o router.Opener, opt router.Options) (epoch uint64)
	Remove(host string, epoch uint64)
	Lose(host string, epoch uint64)
	Away(host string, epoch uint64)
	Back(host string, epoch uint64)
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
	// package, but for MaxStreams, KeepAlive and Timeout: an agent opens one
	// stream, so that zero means the least there is, and a path that has
	// fallen silent is to be noticed within five seconds, so that zero means
	// 1.5 and 3 of them. Keep and Resume are those below.
	Mux mux.Config

	// Resume is how long a session is kept when it has lost its last lane, for
	// its agent to come back. Zero means 30 seconds; negative means not at
	// all.
	Resume time.Duration

	// Keep is how many bytes a session keeps until the agent has acknowledged
	// them, to send them again over another lane. Zero means 8 MiB.
	Keep int

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

	// naming is held while a name changes hands, over the calls of Router as
	// well: the field below and the router say the same, and whether an agent
	// may have a name is decided once. It is taken before mu of a session.
	naming   sync.Mutex
	tunnels  map[string]*holding // by name
	swapTime time.Duration       // of a test that wants many swaps; 0 is the constant

	mu        sync.Mutex // guards the fields below
	stopping  bool
	draining  bool                  // Drain was called
	strangers []*stranger           // who have not proved anything yet, the oldest first
	present   int                   // conns in ServeAgent
	sessions  map[[16]byte]*session // that were welcomed and live, by id
	agents    map[agent]*session    // the latest of each
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

func (s *Server) resume() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, cmp.Or(s.Resume, 30*time.Second))
}

// SetResume changes Resume, for sessions that begin from now on.
func (s *Server) SetResume(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Resume = d
}

func (s *Server) muxConfig(resume time.Duration) mux.Config {
	cfg := s.Mux
	cfg.MaxStreams = cmp.Or(cfg.MaxStreams, 1)
	cfg.KeepAlive = cmp.Or(cfg.KeepAlive, 1500*time.Millisecond)
	cfg.Timeout = cmp.Or(cfg.Timeout, 3*time.Second)
	cfg.Keep, cfg.Resume = 0, resume
	if cfg.Resume > 0 {
		cfg.Keep = cmp.Or(s.Keep, 8<<20)
	}
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

// An Info describes a session to an operator.
type Info struct {
	ID       string        `json:"id"`
	Agent    string        `json:"agent"` // the same in all sessions of one run of an agent
	Owner    string        `json:"owner"`
	TokenID  string        `json:"token_id"`
	Remote   string        `json:"remote"` // of the latest lane
	Software string        `json:"software"`
	Since    time.Time     `json:"since"`
	State    State         `json:"state"`
	Lanes    int           `json:"lanes"`         // connections that carry it
	Lost     time.Time     `json:"lost,omitzero"` // since when it has none, if it is resuming
	RTT      time.Duration `json:"rtt"`           // 0 before the first measurement
	Tunnels  []string      `json:"tunnels"`       // names, sorted
	Streams  int           `json:"streams"`       // open for visitors
}

// A State says whether a session can carry visitors just now.
type State string

const (
	Connected State = "connected"
	Resuming  State = "resuming" // it has no lane; its streams wait until the agent is back, or is given up
	Draining  State = "draining" // the agent was told to leave
)

// Sessions returns the sessions there are, oldest first.
func (s *Server) Sessions() []Info {
	var all []Info
	for _, x := range s.latest() {
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
	for _, x := range s.latest() {
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
	for _, x := range s.latest() {
		if x.grant.TokenID == id {
			x.end(&wire.Refused{Code: wire.Revoked, Reason: "the token was revoked"})
		}
	}
}

// latest returns the sessions that no later one of the same agent has replaced.
func (s *Server) latest() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.agents))
}

// Drain begins no session any more, and tells every agent how long it may stay at
// most. Sessions go on carrying visitors, new ones too: those that the edge has
// let in are still to be answered. One that loses its lanes may resume.
func (s *Server) Drain(left time.Duration) {
	s.mu.Lock()
	again := s.draining
	s.draining = true
	s.mu.Unlock()
	if again {
		return
	}
	s.stop()
	for _, x := range s.latest() {
		x.drain(left)
	}
}

// Shutdown is Drain, if that was not called before; then it takes no more
// visitors, and waits until those who are here have finished. When ctx ends
// first, it cuts what is left and returns the cause of ctx. ServeAgent has
// returned everywhere when Shutdown does.
func (s *Server) Shutdown(ctx context.Context) error {
	left := 24 * time.Hour
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	s.Drain(left)
	empty := s.stop()
	for _, x := range s.latest() {
		x.settle()
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
	strangers, sessions := slices.Clone(s.strangers), slices.Collect(maps.Values(s.sessions))
	s.mu.Unlock()

	for _, g := range strangers {
		g.cancel()
	}
	for _, x := range sessions {
		x.end(nil) // and with it its lanes
	}
	<-empty
	return nil
}

// stop begins no session any more.
func (s *Server) stop() (empty <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.empty == nil {
		s.empty = make(chan struct{})
	}
	if !s.stopping && s.present == 0 {
		close(s.empty)
	}
	s.stopping = true
	return s.empty
}

func hexID(id [16]byte) string { return hex.EncodeToString(id[:]) }
