package culvert

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/culvertd/culvert/internal/wire"
	"github.com/culvertd/culvert/mux"
)

const (
	connectTime = 30 * time.Second // from the dial to the node's welcome
	messageTime = 10 * time.Second // to write a message, or to read the head of a stream
	offerTime   = 10 * time.Second // for which a visitor waits until Accept is called
	longestStay = 10 * time.Minute // on a node that drains, whatever it says
)

// A session is our end of a stay on the node. One goroutine, loop, owns the
// control stream's writing side and the bookkeeping of what was asked for;
// the streams of visitors only look up whose they are.
type session struct {
	agent     *Agent
	transport Transport
	id        string // for logs
	conn      *mux.Conn
	control   *mux.Stream

	requests uint32 // used so far; loop's
	asked    map[*Listener]*binding
	draining bool             // loop's: the node takes no more
	leave    <-chan time.Time // loop's: when to stop waiting for a node that drains
	after    time.Duration    // loop's: the wish of a node that drains

	mu      sync.Mutex // guards tunnels
	tunnels map[uint32]*Listener
}

// A binding is what a session knows about one of the agent's listeners.
type binding struct {
	request uint32    // 0 when there is none: refused for now
	again   time.Time // when to ask again, if request is 0
	wait    backoff
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
	conn := mux.Client(raw, mux.Config{})
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	s, err := a.hello(ctx, conn, id)
	if !stop() { // ctx has ended, and conn with it
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	s.transport = transport
	return s, nil
}

// hello says who we are, and hears whether we may stay.
func (a *Agent) hello(ctx context.Context, conn *mux.Conn, id [16]byte) (*session, error) {
	control, err := conn.Open(ctx)
	if err != nil {
		return nil, err
	}
	software := a.Software
	if software == "" {
		software = "culvert"
	}
	err = wire.Write(control, &wire.Hello{
		Version: wire.Version, Agent: id, Token: wire.Secret(a.Token),
		Software: wire.Text(software, wire.MaxSoftware),
	})
	if err != nil {
		return nil, fmt.Errorf("say hello: %w", err)
	}
	m, err := wire.Read(control)
	if err != nil {
		return nil, fmt.Errorf("wait for the node's welcome: %w", err)
	}
	switch m := m.(type) {
	case *wire.Welcome:
		if m.Version != wire.Version {
			return nil, refused("", wire.VersionUnsupported, fmt.Sprintf("the node chose %d, this agent speaks %d", m.Version, wire.Version), 0)
		}
		return &session{
			agent: a, id: hex.EncodeToString(m.Session[:]), conn: conn, control: control,
			asked: map[*Listener]*binding{}, tunnels: map[uint32]*Listener{},
		}, nil
	case *wire.Refused:
		return nil, refused("", m.Code, m.Reason, wire.Duration(m.RetryAfter, longestWish))
	}
	return nil, fmt.Errorf("the node said %T instead of welcome", m)
}

// run serves the session until it ends, and returns why. Everything that it
// started has ended then, and conn is closed.
func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	messages := make(chan wire.Message)
	var wg sync.WaitGroup
	wg.Go(func() { cancel(s.readControl(ctx, messages)) })
	wg.Go(func() { cancel(s.acceptStreams(ctx, &wg)) })
	err := s.loop(ctx, messages)
	cancel(err)
	s.conn.Close() // both readers are parked in it; this is their wake-up call
	wg.Wait()
	return err
}

// loop owns the session: it answers the node, and sees to it that every open
// listener of the agent is asked for.
func (s *session) loop(ctx context.Context, messages <-chan wire.Message) error {
	for {
		next, err := s.ask(s.agent.open())
		if err != nil {
			return err
		}
		again := time.NewTimer(next)
		select {
		case <-ctx.Done():
			err = context.Cause(ctx)
		case m := <-messages:
			err = s.handle(m)
		case <-s.leave:
			err = &drainError{s.after}
		case <-s.agent.wake:
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

// ask binds the listeners that have no tunnel here, and lets go of tunnels that
// have no listener. It returns when it wants to be called again.
func (s *session) ask(open []*Listener) (next time.Duration, err error) {
	next = time.Hour
	if s.draining {
		return next, nil
	}
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
		s.leave = time.After(wire.Duration(m.Deadline, longestStay) + messageTime)
		s.agent.emit(Event{Kind: EventDraining, Server: s.agent.Server})
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
	s.asked[l].wait = backoff{}
	s.agent.emit(Event{Kind: EventReady, Name: m.Name, URL: m.URL})
	return nil
}

// lose takes l's tunnel away: for good if err is final, and to be asked for
// again if not.
func (s *session) lose(l *Listener, b *binding, err *RefusedError) {
	s.set(b.request, nil)
	b.request = 0
	if err.Final {
		delete(s.asked, l)
		if l.end(err) {
			s.agent.emit(Event{Kind: EventEnded, Name: l.Name(), URL: l.URL(), Err: err})
		}
		return
	}
	pause := b.wait.next(0, err.RetryAfter)
	b.again = time.Now().Add(pause)
	s.agent.emit(Event{Kind: EventRefused, Name: l.Name(), Err: err, Retry: pause})
}

func (s *session) send(m wire.Message) error {
	s.control.SetWriteDeadline(time.Now().Add(messageTime))
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
	stream.SetReadDeadline(time.Now().Add(messageTime))
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
