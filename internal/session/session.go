package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/culvertd/culvert/internal/auth"
	"github.com/culvertd/culvert/internal/name"
	"github.com/culvertd/culvert/internal/router"
	"github.com/culvertd/culvert/internal/wire"
	"github.com/culvertd/culvert/mux"
)

const (
	helloTime = 10 * time.Second       // from the first byte of a stranger to the end of what he is told
	writeTime = 10 * time.Second       // for one message to an agent that is there
	claimTime = 10 * time.Second       // for the store to answer
	partTime  = 500 * time.Millisecond // for an agent to hang up after our last words
	checkTime = time.Second            // between two looks at whether a token is still good
)

// A session is one agent's stay. Its reading goroutine, in serve, handles what
// the agent says; a writing one sends what anybody has to say to it, and ends
// the session.
type session struct {
	server   *Server
	since    time.Time
	id       [16]byte
	secret   wire.Key // proves its further lanes
	agent    agent
	software string
	grant    auth.Grant
	resume   time.Duration     // for which it may be without a lane
	out      chan wire.Message // to the agent; one that leaves it full is hung up on

	conn    *mux.Conn     // set before begun is closed
	control *mux.Stream   // the same
	begun   chan struct{} // closed when the agent has opened the control stream

	ending chan struct{}      // closed by end
	cancel context.CancelFunc // of the context of ServeAgent

	mu       sync.Mutex // guards the fields below
	ended    bool
	lost     bool               // the agent is expected back; to be read once ended
	last     *wire.Refused      // what to say before hanging up; nil for nothing
	draining bool               // the agent was told that it will have to leave
	closing  bool               // no new visitors: the last one ends the session
	tunnels  map[uint32]*tunnel // by the agent's request
	visitors map[*visitor]struct{}
	ways
}

// name is how logs and operators call the session.
func (x *session) name() string { return hexID(x.id) }

// serve is the whole stay, which begins on c. When it returns, nothing that it
// started is left, and the router knows nothing of the session any more.
func (x *session) serve(ctx context.Context, c net.Conn) {
	defer context.AfterFunc(ctx, func() { x.end(nil) })()
	log := x.log()
	if err := x.begin(ctx, c); err != nil {
		log.Debug("session did not begin", "err", err)
		x.end(nil)
		<-x.ending
		return
	}
	log.Info("session began", "peer", c.RemoteAddr().String(), "software", x.software)

	var wg sync.WaitGroup
	reading, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() {
		defer stop() // wakes up read, if it waits for the store
		x.guard(x.write)
	})
	wg.Go(func() { x.guard(x.refuseStreams) })
	wg.Go(func() { x.guard(x.watchLanes) })
	var err error
	x.guard(func() { err = x.read(reading) })
	if x.saidGoodbye(err) {
		x.end(nil)
	} else {
		x.lose()
	}
	<-x.ending // by whomever: the tunnels have been given back
	wg.Wait()
	log.Info("session ended", "lasted", time.Since(x.since).Round(time.Millisecond), "err", err)
}

func (x *session) log() *slog.Logger {
	return x.server.log().With("session", x.name(), "agent", hexID(x.agent.id), "owner", x.agent.owner)
}

// begin welcomes the agent on c, makes a mux of it, and waits for the control
// stream. From the welcome on c belongs to the mux.
func (x *session) begin(ctx context.Context, c net.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	err := tell(ctx, c, &wire.Welcome{
		Version: wire.Version, Session: x.id, Domain: x.server.Domain, Software: cmp.Or(x.server.Software, "culvertd"),
		Secret: x.secret, Resume: wire.Milliseconds(x.resume),
	})
	if err != nil {
		return err
	}
	conn := mux.Server(c, x.server.muxConfig(x.resume))
	control, err := conn.Accept(ctx)
	if err != nil {
		conn.Close()
		return err
	}
	x.conn, x.control = conn, control
	x.mu.Lock()
	ended := x.ended // meanwhile, by somebody who saw no conn to close
	if !ended {
		close(x.begun)
	}
	x.mu.Unlock()
	if ended {
		conn.Close()
		return errors.New("it was ended")
	}
	return nil
}

// saidGoodbye reports whether the agent, whose last word was followed by err,
// has left in order, or broken the rules; if not, it was lost on the way.
func (x *session) saidGoodbye(err error) bool {
	ended := x.conn.Err()
	if e, ok := errors.AsType[*mux.ConnError](ended); ok && e.Remote && e.Code == mux.CodeNone {
		return true
	}
	return err == io.EOF || ended == nil
}

// guard runs a part of the session. A panic in it costs this agent its session,
// and nobody else anything.
func (x *session) guard(part func()) {
	defer func() {
		if v := recover(); v != nil {
			x.server.log().Error("session panicked", "session", x.name(), "err", v, "stack", string(debug.Stack()))
			x.end(nil)
			if x.hasBegun() {
				x.conn.Close()
			}
		}
	}()
	part()
}

// read handles what the agent says, until it says no more.
func (x *session) read(ctx context.Context) error {
	for {
		m, err := wire.Read(x.control)
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *wire.Bind:
			err = x.bind(ctx, m)
		case *wire.Unbind:
			x.unbind(m.Request)
		default:
			err = fmt.Errorf("the agent said %T", m)
		}
		if err != nil {
			return err
		}
	}
}

// bind gives the agent a tunnel, or says why not. An error ends the session.
func (x *session) bind(ctx context.Context, m *wire.Bind) error {
	x.mu.Lock()
	_, twice := x.tunnels[m.Request]
	count, draining := len(x.tunnels), x.draining
	x.mu.Unlock()

	refuse := func(code wire.Code, reason string, retry time.Duration) error {
		x.send(&wire.Refused{
			Request: m.Request, Code: code,
			Reason: wire.Text(reason, wire.MaxReason), RetryAfter: wire.Milliseconds(retry),
		})
		return nil
	}
	switch {
	case m.Request == 0 || twice:
		return fmt.Errorf("the agent used request %d again", m.Request)
	case draining:
		return refuse(wire.ShuttingDown, "", time.Second)
	case count >= x.server.maxTunnels():
		return refuse(wire.TooManyTunnels, fmt.Sprintf("a session holds at most %d", x.server.maxTunnels()), 0)
	}
	opt, why := options(m)
	if why != "" {
		return refuse(wire.OptionInvalid, why, 0)
	}
	ctx, cancel := context.WithTimeout(ctx, claimTime)
	defer cancel()
	label, err := x.claim(ctx, m.Name)
	if err != nil {
		invalid, isInvalid := errors.AsType[*name.Error](err)
		switch {
		case isInvalid:
			return refuse(wire.NameInvalid, invalid.Reason, 0)
		case errors.Is(err, auth.ErrNameTaken):
			return refuse(wire.NameTaken, "it belongs to another owner", 0)
		case errors.Is(err, auth.ErrNameNotAllowed):
			return refuse(wire.NameNotAllowed, "the token is for other names", 0)
		case errors.Is(err, auth.ErrTooManyNames):
			return refuse(wire.TooManyTunnels, "the owner holds as many names as one may; some must be released first", 0)
		case errors.Is(err, auth.ErrUnauthorized):
			x.end(&wire.Refused{Code: wire.Revoked})
			return nil
		case errors.Is(err, errHeldHere):
			return refuse(wire.NameTaken, "this agent holds it already", 0)
		}
		x.server.log().Warn("name not claimed", "session", x.name(), "tunnel", m.Name, "err", err)
		return refuse(wire.Internal, "", time.Second)
	}
	if no := x.open(label, m, opt); no != nil {
		no.Request = m.Request
		x.send(no)
	}
	return nil
}

var errHeldHere = errors.New("held by this session")

// claim makes sure of the token and of the name.
func (x *session) claim(ctx context.Context, asked string) (string, error) {
	if err := x.server.Auth.Valid(x.grant); err != nil {
		return "", err
	}
	label, err := x.server.Auth.Claim(ctx, x.grant, asked)
	if err != nil {
		return "", err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, t := range x.tunnels {
		if t.name == label {
			return "", errHeldHere
		}
	}
	return label, nil
}

// open sends the visitors of label to the agent from now on, and tells whoever
// had them before; or it says why not.
func (x *session) open(label string, m *wire.Bind, opt router.Options) *wire.Refused {
	t := &tunnel{session: x, request: m.Request, name: label, host: x.server.host(label), takeover: m.Takeover}
	losers, refused := x.server.take(t, opt)
	switch refused {
	case nil:
	case tooLate:
		return nil
	default:
		return refused
	}
	for _, loser := range losers {
		loser.session.replaced(loser, x.agent)
	}
	if lost, ended := x.keep(t); ended { // meanwhile; whoever ended the session did not see t
		x.server.release(t, lost)
		return nil
	}
	x.send(&wire.Bound{Request: m.Request, Name: label, URL: x.server.publicURL(label), Epoch: t.epoch})
	x.server.log().Info("tunnel opened", "session", x.name(), "tunnel", label)
	if winner := x.told(t); winner != nil {
		x.sayReplaced(t, *winner)
	}
	return nil
}

// keep adds t to the tunnels of x, unless x has ended, or t was lost again.
func (x *session) keep(t *tunnel) (lost, ended bool) {
	x.server.naming.Lock()
	defer x.server.naming.Unlock()
	x.mu.Lock()
	lost, ended = x.lost, x.ended
	if !ended && t.winner == nil {
		x.tunnels[t.request] = t
	}
	away := !x.adrift.IsZero()
	x.mu.Unlock()
	if !ended && away {
		x.server.Router.Away(t.host, t.epoch)
	}
	return lost, ended
}

// told notes that the agent has heard that t is its own, and returns who has
// taken it over since, if anybody has.
func (x *session) told(t *tunnel) (winner *agent) {
	x.mu.Lock()
	defer x.mu.Unlock()
	t.told = true
	return t.winner
}

// replaced tells the agent that another one has t's name now, if it knows
// already that it had it. The streams that t opened live on.
func (x *session) replaced(t *tunnel, by agent) {
	x.mu.Lock()
	held := x.tunnels[t.request] == t
	if held {
		delete(x.tunnels, t.request)
	}
	told := t.told
	if !told {
		t.winner = &by
	}
	x.mu.Unlock()
	if held && told {
		x.sayReplaced(t, by)
	}
}

// sayReplaced tells the agent that t is lost. One that has replaced itself, in
// another session, knows.
func (x *session) sayReplaced(t *tunnel, by agent) {
	if by == x.agent {
		return
	}
	m := &wire.Unbound{Request: t.request, Code: wire.Replaced, Reason: "another agent of yours took over"}
	if by.owner != x.agent.owner { // the operator gave the name away
		m.Code, m.Reason = wire.NameTaken, "it belongs to another owner now"
	}
	x.send(m)
	x.server.log().Info("tunnel taken over", "session", x.name(), "tunnel", t.name)
}

// unbind lets go of a tunnel. One that is gone already crossed our Unbound.
func (x *session) unbind(request uint32) {
	x.mu.Lock()
	t := x.tunnels[request]
	delete(x.tunnels, request)
	x.mu.Unlock()
	if t != nil {
		x.server.release(t, false)
		x.server.log().Info("tunnel closed", "session", x.name(), "tunnel", t.name)
	}
}

// refuseStreams turns away what an agent opens beside its control stream.
func (x *session) refuseStreams() {
	for {
		stream, err := x.conn.Accept(context.Background())
		if err != nil {
			return // conn has ended
		}
		stream.Reset(mux.CodeRefused)
	}
}

// write sends what there is to say, looks after the token, and ends the
// session when it is time.
func (x *session) write() {
	defer x.conn.Close() // wakes up read, and the others
	check := time.NewTicker(checkTime)
	defer check.Stop()
	for {
		select {
		case m := <-x.out:
			if x.say(m) != nil {
				return
			}
		case <-check.C:
			if x.server.Auth.Valid(x.grant) != nil {
				x.end(&wire.Refused{Code: wire.Revoked, Reason: "the token has ended"})
			}
		case <-x.ending:
			x.farewell()
			return
		case <-x.conn.Done():
			return
		}
	}
}

// farewell says what is still to be said, and waits a moment for the agent to
// hang up: a conn that is closed at once may take our words with it.
func (x *session) farewell() {
	for len(x.out) > 0 {
		if x.say(<-x.out) != nil {
			return
		}
	}
	x.mu.Lock()
	last, draining := x.last, x.draining
	x.mu.Unlock()
	if last != nil && x.say(last) != nil {
		return
	}
	if last != nil || draining {
		x.part()
	}
}

// part ends our half of the control stream, and waits for the agent's half.
func (x *session) part() {
	x.control.CloseWrite()
	t := time.NewTimer(partTime)
	defer t.Stop()
	select {
	case <-x.conn.Done():
	case <-t.C:
	}
}

// say says m. While the session is resuming it waits, and so does whoever has
// more to say; when the session is ending, not for long.
func (x *session) say(m wire.Message) error {
	x.control.SetWriteDeadline(time.Now().Add(x.resume + writeTime))
	select {
	case <-x.ending:
		x.hurry()
	default:
	}
	return wire.Write(x.control, m)
}

// hurry bounds what is being said, and what will be.
func (x *session) hurry() { x.control.SetWriteDeadline(time.Now().Add(partTime)) }

// send queues m. It never waits: an agent that does not read what it is told
// is hung up on.
func (x *session) send(m wire.Message) {
	select {
	case x.out <- m:
	default:
		x.end(nil)
	}
}

// end ends the session soon, with last words if there are any. Visitors are
// sent elsewhere and their streams cut at once. Only the first call counts.
func (x *session) end(last *wire.Refused) { x.finish(last, false) }

// lose ends a session whose agent has gone without a word, and was given the
// time to come back.
func (x *session) lose() { x.finish(nil, true) }

func (x *session) finish(last *wire.Refused, lost bool) {
	x.mu.Lock()
	if x.ended {
		x.mu.Unlock()
		return
	}
	x.ended, x.last = true, last
	x.lost = x.expectedLocked(last, lost)
	lost = x.lost
	begun := x.hasBegun()
	var tunnels []*tunnel
	for _, t := range x.tunnels {
		tunnels = append(tunnels, t)
	}
	clear(x.tunnels)
	var visitors []*visitor
	for v := range x.visitors {
		visitors = append(visitors, v)
	}
	x.mu.Unlock()

	for _, t := range tunnels {
		x.server.release(t, lost)
	}
	for _, v := range visitors {
		v.Abort()
	}
	close(x.ending)
	if begun {
		x.hurry()
	} else { // there is nobody yet who would say last words
		x.cancel()
	}
}

// expectedLocked reports whether the agent of a session that ends will be back:
// if it was lost without a word, unless it was told not to come with those last
// words. One that was asked to leave will have something to do again.
func (x *session) expectedLocked(last *wire.Refused, lost bool) bool {
	if last != nil {
		return !last.Code.Final() || last.Code == wire.Replaced // by itself
	}
	return lost || x.draining
}

// drain tells the agent that it will have to leave. It goes on carrying
// visitors.
func (x *session) drain(left time.Duration) {
	x.mu.Lock()
	x.draining = true
	x.mu.Unlock()

	x.send(&wire.Drain{Deadline: wire.Milliseconds(left)})
}

// settle takes no more visitors, and ends the session as soon as it has none.
func (x *session) settle() {
	x.mu.Lock()
	x.closing = true
	quiet := len(x.visitors) == 0
	x.mu.Unlock()
	if quiet {
		x.end(nil)
	}
}

// hasBegun reports whether the agent has opened the control stream.
func (x *session) hasBegun() bool {
	select {
	case <-x.begun:
		return true
	default:
		return false
	}
}

func (x *session) info() Info {
	i := Info{
		ID: x.name(), Agent: hexID(x.agent.id), Owner: x.agent.owner, TokenID: x.grant.TokenID,
		Software: x.software, Since: x.since, State: Connected, Lanes: 1,
	}
	if x.hasBegun() {
		i.RTT, i.Lanes = x.conn.RTT(), len(x.conn.Lanes())
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	i.Remote, i.Streams = x.remote, len(x.visitors)
	switch {
	case i.Lanes == 0:
		i.State, i.Lost = Resuming, x.adrift
	case x.draining:
		i.State = Draining
	}
	i.Tunnels = make([]string, 0, len(x.tunnels))
	for _, t := range x.tunnels {
		i.Tunnels = append(i.Tunnels, t.name)
	}
	slices.Sort(i.Tunnels)
	return i
}
