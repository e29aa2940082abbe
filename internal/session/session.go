package session

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
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
	helloTime = 10 * time.Second       // from the first byte of mux to the end of hello
	writeTime = 10 * time.Second       // for one message to an agent
	claimTime = 10 * time.Second       // for the store to answer
	partTime  = 500 * time.Millisecond // for an agent to hang up after our last words
	checkTime = time.Second            // between two looks at whether a token is still good
)

// A session is one agent's stay. Its reading goroutine, in serve, handles what
// the agent says; a writing one sends what anybody has to say to it, and ends
// the session.
type session struct {
	server *Server
	remote string
	source netip.Prefix // of remote; see sourceOf
	since  time.Time
	conn   *mux.Conn
	out    chan wire.Message // to the agent; one that leaves it full is hung up on

	// From hello on, these stay as they are.
	id       [16]byte
	agent    agent
	software string
	grant    auth.Grant
	control  *mux.Stream

	ending chan struct{}      // closed by end
	cancel context.CancelFunc // of the context of ServeAgent

	mu       sync.Mutex // guards the fields below
	admitted bool       // hello was heard and believed
	ended    bool
	last     *wire.Refused // what to say before hanging up; nil for nothing
	draining bool
	tunnels  map[uint32]*tunnel // by the agent's request
	visitors map[*visitor]struct{}
}

// name is how logs and operators call the session; empty before its welcome.
func (x *session) name() string {
	if x.id == [16]byte{} {
		return ""
	}
	return hexID(x.id)
}

// serve is the whole stay. When it returns, nothing that it started is left,
// and the router knows nothing of the session any more.
func (x *session) serve(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { x.end(nil) })()
	if err := x.admit(ctx); err != nil {
		x.server.log().Debug("agent refused", "peer", x.remote, "software", x.software, "err", err)
		x.end(nil) // it may have been welcomed, and then lost
		<-x.ending
		return
	}
	log := x.server.log().With("session", x.name(), "agent", hexID(x.agent.id), "owner", x.agent.owner)
	log.Info("session began", "peer", x.remote, "software", x.software)

	var wg sync.WaitGroup
	wg.Go(func() { x.guard(x.write) })
	wg.Go(func() { x.guard(x.refuseStreams) })
	var err error
	x.guard(func() { err = x.read(ctx) })
	x.end(nil)
	<-x.ending // by whomever: the tunnels have been given back
	wg.Wait()
	log.Info("session ended", "lasted", time.Since(x.since).Round(time.Millisecond), "err", err)
}

// guard runs a part of the session. A panic in it costs this agent its session,
// and nobody else anything.
func (x *session) guard(part func()) {
	defer func() {
		if v := recover(); v != nil {
			x.server.log().Error("session panicked", "session", x.name(), "err", v, "stack", string(debug.Stack()))
			x.end(nil)
			x.conn.Close()
		}
	}()
	part()
}

// admit hears who the agent is, and welcomes it or not, within helloTime.
func (x *session) admit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	control, err := x.conn.Accept(ctx)
	if err != nil {
		return err
	}
	x.control = control
	defer context.AfterFunc(ctx, func() { x.conn.Close() })()

	m, err := wire.Read(control)
	if err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	hello, ok := m.(*wire.Hello)
	if !ok || hello.Agent == [16]byte{} {
		return fmt.Errorf("the agent began with %T", m)
	}
	x.software = hello.Software
	grant, why := x.identify(hello)
	if why == nil {
		x.grant, x.agent = grant, agent{grant.Owner, hello.Agent}
		rand.Read(x.id[:])
		x.mu.Lock()
		x.admitted = true
		x.mu.Unlock()
		var older *session
		if older, why = x.server.welcome(x); older != nil {
			older.end(&wire.Refused{Code: wire.Replaced, Reason: "the same agent came back"})
		}
	}
	if why != nil {
		x.say(why)
		x.part()
		return errors.New(why.Code.String())
	}
	return x.say(&wire.Welcome{
		Version: wire.Version, Session: x.id, Domain: x.server.Domain, Software: cmp.Or(x.server.Software, "culvertd"),
	})
}

func (x *session) identify(hello *wire.Hello) (auth.Grant, *wire.Refused) {
	if hello.Version < wire.Version {
		return auth.Grant{}, &wire.Refused{Code: wire.VersionUnsupported, Reason: fmt.Sprintf("this node speaks version %d", wire.Version)}
	}
	grant, err := x.server.Auth.Authenticate(string(hello.Token))
	switch {
	case err == nil:
		return grant, nil
	case errors.Is(err, auth.ErrUnauthorized):
		return grant, &wire.Refused{Code: wire.Unauthorized, Reason: "the node does not know this token, or no longer"}
	}
	x.server.log().Warn("token not checked", "peer", x.remote, "err", err)
	return grant, &wire.Refused{Code: wire.Internal, RetryAfter: wire.Milliseconds(5 * time.Second)}
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
	x.open(label, m.Request, opt)
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
// had them before.
func (x *session) open(label string, request uint32, opt router.Options) {
	t := &tunnel{session: x, request: request, name: label, host: x.server.host(label)}
	t.epoch = x.server.Router.Add(t.host, t, opt)
	loser := x.server.hold(t)

	x.mu.Lock()
	ended := x.ended
	if !ended {
		x.tunnels[request] = t
	}
	x.mu.Unlock()
	if ended { // meanwhile; whoever ended the session did not see t
		x.server.release(t)
	} else {
		x.send(&wire.Bound{Request: request, Name: label, URL: x.server.publicURL(label), Epoch: t.epoch})
		x.server.log().Info("tunnel opened", "session", x.name(), "tunnel", label)
	}
	if loser != nil {
		loser.session.replaced(loser, x.agent.owner)
	}
}

// replaced tells the agent that another one has t's name now. The streams that
// t opened live on.
func (x *session) replaced(t *tunnel, by string) {
	x.mu.Lock()
	held := x.tunnels[t.request] == t
	if held {
		delete(x.tunnels, t.request)
	}
	x.mu.Unlock()
	if !held {
		return
	}
	x.server.Router.Remove(t.host, t.epoch)
	m := &wire.Unbound{Request: t.request, Code: wire.Replaced, Reason: "another agent of yours took over"}
	if by != x.agent.owner { // the operator gave the name away
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
		x.server.release(t)
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
	defer x.cancel()     // wakes up read, if it waits for the store
	defer x.conn.Close() // wakes up read, and refuseStreams
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

func (x *session) say(m wire.Message) error {
	limit := writeTime
	select {
	case <-x.ending:
		limit = partTime
	default:
	}
	x.control.SetWriteDeadline(time.Now().Add(limit))
	return wire.Write(x.control, m)
}

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
func (x *session) end(last *wire.Refused) {
	x.mu.Lock()
	if x.ended {
		x.mu.Unlock()
		return
	}
	x.ended, x.last = true, last
	admitted := x.admitted
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
		x.server.release(t)
	}
	for _, v := range visitors {
		v.Abort()
	}
	close(x.ending)
	if !admitted { // there is nobody yet who would say last words
		x.cancel()
	}
}

// drain tells the agent that it will have to leave, and ends the session as
// soon as it has no visitors.
func (x *session) drain(left time.Duration) {
	x.mu.Lock()
	x.draining = true
	quiet := len(x.visitors) == 0
	x.mu.Unlock()

	x.send(&wire.Drain{Deadline: wire.Milliseconds(left)})
	if quiet {
		x.end(nil)
	}
}

func (x *session) info() Info {
	rtt := x.conn.RTT()
	x.mu.Lock()
	defer x.mu.Unlock()
	names := make([]string, 0, len(x.tunnels))
	for _, t := range x.tunnels {
		names = append(names, t.name)
	}
	slices.Sort(names)
	return Info{
		ID: x.name(), Agent: hexID(x.agent.id), Owner: x.agent.owner, TokenID: x.grant.TokenID,
		Remote: x.remote, Software: x.software, Since: x.since, RTT: rtt,
		Tunnels: names, Streams: len(x.visitors),
	}
}
