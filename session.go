package culvert

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvertd/culvert/internal/netwatch"
	"github.com/culvertd/culvert/internal/wire"
	"github.com/culvertd/culvert/mux"
)

const (
	connectTime = 30 * time.Second // from the dial to the node's welcome
	messageTime = 10 * time.Second // to write a message, or to read the head of a stream
	offerTime   = 10 * time.Second // for which a visitor waits until Accept is called
	idleTime    = 5 * time.Second  // without visitors, after which a session that was replaced is left
	longestStay = 10 * time.Minute // on a node that drains, whatever it says

	keep          = 8 << 20                 // bytes kept until the node has acknowledged them
	longestResume = 10 * time.Minute        // for which a session can be without a connection, whatever the node says
	keepAlive     = 1500 * time.Millisecond // of silence before a ping, and the time for its answer:
	silence       = 3 * time.Second         // together, death is noticed in five seconds
)

// A session is our end of a stay on the node. One goroutine, loop, owns the
// control stream's writing side and the bookkeeping of what was asked for, and
// another, keepLanes, its connections; the streams of visitors only look up
// whose they are.
type session struct {
	agent     *Agent
	transport Transport // of the first connection
	id        string    // for logs
	number    [16]byte
	lastLane  uint64 // number of the latest that was asked for; of the one attempt at a time
	secret    wire.Key
	resume    time.Duration // for which the node keeps the session without a connection
	since     time.Time
	conn      *mux.Conn
	control   *mux.Stream
	news      chan netwatch.News
	retry                   // keepLanes's, and run's before and after
	lasted    time.Duration // how long its last connection had been good, in the end; 0 if there was none

	requests uint32 // used so far; loop's
	asked    map[*Listener]*binding
	held     atomic.Int32     // how many of those the node has to hear of when they go; set by loop
	draining bool             // loop's: the node takes no more
	deadline <-chan time.Time // loop's: when to stop waiting for a node that drains

	settled  chan struct{} // closed when every listener there was has had its answer
	drained  chan struct{} // closed when the node has said that it drains
	after    time.Duration // its wish; to be read once drained is closed
	released chan struct{} // closed when there is a session that takes our place
	done     chan struct{} // closed when all has ended
	err      error         // why; to be read once done is closed
	cancel   context.CancelCauseFunc

	mu      sync.Mutex // guards tunnels
	tunnels map[uint32]*Listener
}

// A binding is what a session knows about one of the agent's listeners.
type binding struct {
	request  uint32    // 0 when there is none: refused for now
	answered bool      // the node has said yes or no
	again    time.Time // when to ask again, if request is 0
	wait     backoff
}

// connect dials the node and is welcomed by it, or not.
func (a *Agent) connect(ctx context.Context, id [16]byte, road *road) (*session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, connectTime, errors.New("no answer in time"))
	defer cancel()
	s, err := a.greet(ctx, id, road.choose())
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded) {
			err = context.Cause(ctx)
		}
		road.failed(err)
		return nil, fmt.Errorf("connect to %s: %w", a.Server, err)
	}
	road.worked()
	return s, nil
}

func (a *Agent) greet(ctx context.Context, id [16]byte, how Transport) (*session, error) {
	raw, transport, err := a.dial(ctx, how)
	if err != nil {
		return nil, err
	}
	s, err := a.hello(ctx, raw, id)
	if err != nil {
		hangUp(raw)
		return nil, err
	}
	s.transport = transport
	cfg := mux.Config{KeepAlive: keepAlive, Timeout: silence}
	if s.resume > 0 {
		cfg.Keep, cfg.Resume = keep, s.resume
	}
	s.conn = mux.Client(raw, cfg)
	if s.control, err = s.conn.Open(ctx); err != nil {
		s.conn.Close()
		return nil, err
	}
	return s, nil
}

// hello says who we are, and hears whether we may stay.
func (a *Agent) hello(ctx context.Context, raw net.Conn, id [16]byte) (*session, error) {
	software := a.Software
	if software == "" {
		software = "culvert"
	}
	m, err := exchange(ctx, raw, &wire.Hello{
		Version: wire.Version, Agent: id, Token: wire.Secret(a.Token),
		Software: wire.Text(software, wire.MaxSoftware),
	})
	if err != nil {
		return nil, err
	}
	w, ok := m.(*wire.Welcome)
	switch {
	case !ok:
		return nil, fmt.Errorf("the node said %T instead of welcome", m)
	case w.Version != wire.Version:
		return nil, refused("", wire.VersionUnsupported, fmt.Sprintf("the node chose %d, this agent speaks %d", w.Version, wire.Version), 0)
	}
	return &session{
		agent: a, id: hex.EncodeToString(w.Session[:]), number: w.Session, secret: w.Secret,
		resume: wire.Duration(w.Resume, longestResume), since: time.Now(), news: make(chan netwatch.News, 4),
		asked: map[*Listener]*binding{}, tunnels: map[uint32]*Listener{},
		settled: make(chan struct{}), drained: make(chan struct{}), released: make(chan struct{}), done: make(chan struct{}),
		cancel: func(error) {},
	}, nil
}

// exchange says the first word on a connection, and hears the node's. A no is a
// *RefusedError.
func exchange(ctx context.Context, raw net.Conn, m wire.Message) (answer wire.Message, err error) {
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) }) // unlike Close, this never waits
	if err = wire.Write(raw, m); err != nil {
		err = fmt.Errorf("say hello: %w", err)
	} else if answer, err = wire.ReadFirst(raw); err != nil {
		err = fmt.Errorf("wait for the node's answer: %w", err)
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	if no, ok := answer.(*wire.Refused); ok {
		return nil, refused("", no.Code, no.Reason, wire.Duration(no.RetryAfter, longestWish))
	}
	return answer, err
}

// run serves the session until it ends, and says in done and err that it has,
// and why. Everything that it started has ended then, and conn is closed.
func (s *session) run(ctx context.Context) {
	defer close(s.done)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.agent.mu.Lock()
	s.cancel = cancel
	s.agent.mu.Unlock()
	messages := make(chan wire.Message)
	var wg sync.WaitGroup
	wg.Go(func() { cancel(s.readControl(ctx, messages)) })
	wg.Go(func() { cancel(s.acceptStreams(ctx, &wg)) })
	wg.Go(func() { cancel(s.keepLanes(ctx)) })
	wg.Go(func() {
		<-ctx.Done()
		s.conn.Close() // all others may be parked in it; this is their wake-up call
	})
	s.err = s.loop(ctx, messages)
	cancel(s.err)
	wg.Wait()
}

// release tells a session that drains that another one has taken its place.
func (s *session) release() {
	select {
	case <-s.released:
	default:
		close(s.released)
	}
}

// loop owns the session: it answers the node, and sees to it that every open
// listener of the agent is asked for.
func (s *session) loop(ctx context.Context, messages <-chan wire.Message) error {
	wake, unsettled := s.agent.wake, true
	var leaving <-chan time.Time
	var idle time.Time // since when nobody needs it
	for {
		next, err := s.ask(s.agent.open())
		if err != nil {
			return err
		}
		if unsettled && s.isSettled() {
			unsettled = false
			close(s.settled)
		}
		if s.draining {
			wake = nil // it is for the session that takes our place
			leaving = time.After(pollTime)
		}
		again := time.NewTimer(next)
		select {
		case <-ctx.Done():
			err = context.Cause(ctx)
		case m := <-messages:
			err = s.handle(m)
		case <-s.deadline:
			err = &drainError{s.after}
		case <-leaving:
			switch {
			case !s.mayLeave():
				idle = time.Time{}
			case idle.IsZero():
				idle = time.Now()
			case time.Since(idle) >= idleTime:
				err = &drainError{s.after}
			}
		case <-wake:
		case <-again.C:
		}
		again.Stop()
		if err != nil && s.draining {
			return &drainError{s.after} // however it ended: we knew it would
		}
		if err != nil {
			return err
		}
	}
}

// isSettled reports whether nothing that was asked for waits for an answer.
func (s *session) isSettled() bool {
	for _, b := range s.asked {
		if !b.answered {
			return false
		}
	}
	return true
}

// mayLeave reports whether nobody needs this session at the moment: another one
// has the tunnels, and no visitor is here. One who kept his connection to the
// node may still ask for the last time; the node ends the session when nobody
// can, and after idleTime so do we.
func (s *session) mayLeave() bool {
	select {
	case <-s.released:
		return s.conn.NumStreams() <= 1 // the control stream
	default:
		return false
	}
}

// ask binds the listeners that have no tunnel here, and lets go of tunnels that
// have no listener. It returns when it wants to be called again.
func (s *session) ask(open []*Listener) (next time.Duration, err error) {
	next = time.Hour
	if s.draining {
		s.held.Store(0)
		return next, nil
	}
	defer func() { s.held.Store(int32(len(s.asked))) }()
	wanted := make(map[*Listener]bool, len(open))
	for _, l := range open {
		wanted[l] = true
	}
	for l, b := range s.asked {
		if wanted[l] {
			continue
		}
		delete(s.asked, l)
		if b.request != 0 {
			s.set(b.request, nil)
			if err := s.send(&wire.Unbind{Request: b.request}); err != nil {
				return 0, err
			}
		}
	}
	for _, l := range open {
		b := s.asked[l]
		if b == nil {
			b = &binding{}
			s.asked[l] = b
		}
		if b.request != 0 {
			continue
		}
		if wait := time.Until(b.again); wait > 0 {
			next = min(next, wait)
			continue
		}
		s.requests++
		b.request = s.requests
		s.set(b.request, l) // before the node can have opened a stream for it
		m := l.tunnel.bind(b.request, l.Name())
		if err := s.send(m); err != nil {
			if !errors.Is(err, wire.ErrMalformed) {
				return 0, err
			}
			s.lose(l, b, &RefusedError{Name: m.Name, Code: wire.NameInvalid.String(), Final: true,
				Reason: "the name is too long or not printable", sentinel: ErrNameInvalid})
		}
	}
	return next, nil
}

// handle does what the node says, as far as it is the node's to say.
func (s *session) handle(m wire.Message) error {
	switch m := m.(type) {
	case *wire.Bound:
		if l := s.tunnel(m.Request); l != nil {
			return s.bound(l, m)
		}
	case *wire.Refused:
		after := wire.Duration(m.RetryAfter, longestWish)
		if m.Request == 0 {
			return refused("", m.Code, m.Reason, after)
		}
		if l := s.tunnel(m.Request); l != nil {
			s.lose(l, s.asked[l], refused(l.Name(), m.Code, m.Reason, after))
		}
	case *wire.Unbound:
		if l := s.tunnel(m.Request); l != nil {
			s.lose(l, s.asked[l], refused(l.Name(), m.Code, m.Reason, 0))
		}
	case *wire.Drain:
		if s.draining {
			return nil
		}
		s.draining, s.after = true, wire.Duration(m.RetryAfter, longestWish)
		s.deadline = time.After(wire.Duration(m.Deadline, longestStay) + messageTime)
		s.agent.emit(Event{Kind: EventDraining, Server: s.agent.Server})
		close(s.drained)
	default:
		return fmt.Errorf("the node said %T", m)
	}
	return nil // an answer to a listener that has been closed is nobody's
}

// bound opens l for its visitors. A node that gives another name than the one
// asked for is not believed: a name is kept or refused, never swapped.
func (s *session) bound(l *Listener, m *wire.Bound) error {
	if err := l.bound(m.Name, m.URL); err != nil {
		return fmt.Errorf("bind %q: %w", l.Name(), err)
	}
	b := s.asked[l]
	b.answered, b.wait = true, backoff{}
	s.agent.emit(Event{Kind: EventReady, Name: m.Name, URL: m.URL})
	return nil
}

// lose takes l's tunnel away: for good if err is final, and to be asked for
// again if not.
func (s *session) lose(l *Listener, b *binding, err *RefusedError) {
	s.set(b.request, nil)
	b.request, b.answered = 0, true
	if s.draining {
		return // the name is the next session's affair
	}
	if err.Final {
		delete(s.asked, l)
		if l.end(err) {
			s.agent.emit(Event{Kind: EventEnded, Name: l.Name(), URL: l.URL(), Err: err})
		}
		return
	}
	pause := b.wait.next(0, err.RetryAfter, maxWait)
	b.again = time.Now().Add(pause)
	s.agent.emit(Event{Kind: EventRefused, Name: l.Name(), Err: err, Retry: pause})
}

func (s *session) send(m wire.Message) error {
	s.control.SetWriteDeadline(time.Now().Add(s.resume + messageTime))
	return wire.Write(s.control, m)
}

// readControl hands what the node says to loop, until the node says no more.
func (s *session) readControl(ctx context.Context, messages chan<- wire.Message) error {
	for {
		m, err := wire.Read(s.control)
		if err != nil {
			return err
		}
		select {
		case messages <- m:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// acceptStreams takes the visitors that the node sends. Each stream is looked
// at in a goroutine of its own; the mux bounds how many there are.
func (s *session) acceptStreams(ctx context.Context, wg *sync.WaitGroup) error {
	for {
		stream, err := s.conn.Accept(ctx)
		if err != nil {
			return err
		}
		wg.Go(func() { s.meet(ctx, stream) })
	}
}

// meet finds out whose a stream is, and hands it to that listener. From then on
// it belongs to whoever called Accept.
func (s *session) meet(ctx context.Context, stream *mux.Stream) {
	defer func() {
		if v := recover(); v != nil {
			stream.Reset(wire.NoTunnel)
			s.agent.logger().Error("stream panicked", "session", s.id, "err", v, "stack", string(debug.Stack()))
		}
	}()
	stream.SetReadDeadline(time.Now().Add(s.resume + messageTime))
	m, err := wire.Read(stream)
	visit, ok := m.(*wire.Visit)
	if err != nil || !ok {
		stream.Reset(wire.NoTunnel)
		s.agent.logger().Debug("stream began without a visit", "session", s.id, "err", err)
		return
	}
	stream.SetReadDeadline(time.Time{}) // from here on the visitor's pace is the service's affair
	l := s.tunnel(visit.Request)
	if l == nil {
		stream.Reset(wire.NoTunnel)
		return
	}
	l.offer(ctx, &Conn{stream: stream, listener: l, visit: *visit})
}

func (s *session) tunnel(request uint32) *Listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tunnels[request]
}

// set makes l the one to whom the streams of request go; nil for nobody.
func (s *session) set(request uint32, l *Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l == nil {
		delete(s.tunnels, request)
	} else {
		s.tunnels[request] = l
	}
}
