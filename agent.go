package culvert

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/culvertd/culvert/internal/netwatch"
)

const (
	pollTime    = 50 * time.Millisecond // between two looks at whether the streams have ended
	closest     = time.Second           // between two attempts, when news makes the wait shorter
	patience    = 3 * time.Second       // with an attempt under way, when the network has changed since
	maxDraining = 4                     // sessions that nodes want to be rid of, and that have visitors
)

// errTooMany ends a session that drains when others wait behind it.
var errTooMany = errors.New("too many sessions are draining")

// errAnew ends an attempt in favour of another one.
var errAnew = errors.New("the network is not what it was")

// An Agent holds tunnels on one node, in one session, which outlives the
// connections that carry it: streams in flight wait while the agent dials
// again. Fill in the fields, then call Listen; the fields are not to be changed any more. All methods may
// be called from anywhere.
type Agent struct {
	// Server is the node, as host or host:port. The port is 443 if there is
	// none. There is no default.
	Server string

	// Token proves to the node who this agent is. There is no default.
	Token string

	// RootCAs are trusted to sign the certificate of the node. Nil means those
	// of the system.
	RootCAs *x509.CertPool

	// Transport is how the node is reached. The zero value finds out.
	Transport Transport

	// Dial opens the TCP connection to the node. Nil means a [net.Dialer],
	// which looks the name up anew each time, and tries IPv6 and IPv4 at once;
	// and only then does the agent notice when addresses and routes of this
	// machine change. TLS is ours in any case.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Proxy returns the HTTP proxy through which to reach a URL, with any
	// credentials in its user part, or nil for none; it has the signature of
	// http.ProxyFromEnvironment. Nil means no proxy.
	Proxy func(*url.URL) (*url.URL, error)

	// Software is what the operator of the node reads in the list of sessions,
	// at most 128 bytes. Empty means "culvert".
	Software string

	// OnEvent is told what happens, in order for each tunnel, from the
	// goroutines of the agent: it must return soon and must not call Close. Nil
	// means nobody is.
	OnEvent func(Event)

	// Log gets the same as OnEvent, for a log. Nil means silence.
	Log *slog.Logger

	watch func(context.Context, func(netwatch.News)) // for tests; nil means this machine
	addrs func() ([]net.Addr, error)                 // for tests; nil means those of this machine

	wake     chan struct{}      // something changed in listeners; cap 1, made by start
	news     chan netwatch.News // for run; cap 4, made by start
	welcomed chan struct{}      // closed by the first session; made by start
	done     chan struct{}      // closed when run has ended; made by start

	mu        sync.Mutex // guards the fields below
	cancel    context.CancelCauseFunc
	listeners []*Listener // open ones, oldest first
	sessions  []*session  // that live, the oldest first; all but the last are draining
	last      error       // why there is no session; nil while there is one
	closed    error       // why there will be none; nil while there may be
}

// Listen opens a tunnel and returns when visitors can reach it. It begins a
// session if the agent has none, and waits for the network and the node as long
// as ctx allows; what is refused for good is a [RefusedError] at once, and what
// cannot be meant a [ConfigError]. ctx does not govern the listener that is
// returned.
//
// After a permanent refusal of the session (the token, the version) an Agent is
// spent: Listen returns that error ever after.
func (a *Agent) Listen(ctx context.Context, t Tunnel) (*Listener, error) {
	l := newListener(a, t)
	if err := a.start(l); err != nil {
		return nil, err
	}
	select {
	case <-l.ready:
		return l, nil
	case <-l.done:
		return nil, l.err
	case <-ctx.Done():
		l.Close()
		return nil, a.gaveUp(ctx)
	}
}

// Connect begins a session if the agent has none, and returns when there has
// been one: the node is there, and takes the token. Errors are those of Listen.
func (a *Agent) Connect(ctx context.Context) error {
	if err := a.start(nil); err != nil {
		return err
	}
	select {
	case <-a.welcomed:
		return nil
	case <-a.done:
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.closed
	case <-ctx.Done():
		return a.gaveUp(ctx)
	}
}

// Shutdown gives up all tunnels, waits until the visitors in flight have
// finished, and closes the agent. When ctx ends first it cuts what is left, and
// returns the cause of ctx. While the agent has no connection there is nobody to
// wait for.
func (a *Agent) Shutdown(ctx context.Context) error {
	a.mu.Lock()
	if a.closed == nil {
		a.closed = fmt.Errorf("agent: %w", net.ErrClosed)
	}
	a.mu.Unlock()
	for _, l := range a.open() {
		l.Close()
	}
	look := time.NewTicker(pollTime)
	defer look.Stop()
	var err error
	for err == nil && !a.quiet() {
		select {
		case <-look.C:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	a.Close()
	return err
}

// quiet reports whether no session has visitors, or tunnels that the node does
// not know to be given up.
func (a *Agent) quiet() bool {
	for _, s := range a.living() {
		if len(s.conn.Lanes()) > 0 && (s.conn.NumStreams() > 1 || s.held.Load() > 0) { // 1 is the control stream
			return false
		}
	}
	return true
}

// Close gives up all tunnels and ends the session. It returns when nothing that
// the agent started is left; conns of its listeners are broken then.
func (a *Agent) Close() error {
	a.mu.Lock()
	if a.closed == nil {
		a.closed = fmt.Errorf("agent: %w", net.ErrClosed)
	}
	cancel := a.cancel
	a.mu.Unlock()

	if cancel != nil {
		cancel(net.ErrClosed)
		<-a.done
	}
	return nil
}

// start adds l, if there is one, and sees to it that run runs.
func (a *Agent) start(l *Listener) error {
	if _, _, err := splitServer(a.Server); err != nil {
		return err
	}
	if a.Token == "" {
		return &ConfigError{"token", "none given"}
	}
	if l != nil {
		if err := l.tunnel.check(); err != nil {
			return err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed != nil {
		return a.closed
	}
	if l != nil {
		a.listeners = append(a.listeners, l)
	}
	if a.cancel != nil {
		a.nudge()
		return nil
	}
	a.wake, a.news = make(chan struct{}, 1), make(chan netwatch.News, 4)
	a.welcomed, a.done = make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancelCause(context.Background())
	a.cancel = cancel
	go a.run(ctx)
	return nil
}

// run is the life of an agent: session after session, until it is closed or
// refused for good.
func (a *Agent) run(ctx context.Context) {
	defer close(a.done)
	var wg sync.WaitGroup // the watch, and every session
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { a.watchWorld(ctx) })

	var id [16]byte // of this run; by it the node knows our half-open sessions
	rand.Read(id[:])
	r := retry{road: road{fixed: a.Transport}}
	for {
		began := time.Now()
		lasted, err := a.stay(ctx, &wg, id, &r)
		if ctx.Err() != nil {
			a.stop(fmt.Errorf("agent: %w", net.ErrClosed))
			return
		}
		if permanent(err, !a.hasBeenWelcomed()) {
			a.emit(Event{Kind: EventDisconnected, Server: a.Server, Err: err})
			a.stop(err)
			return
		}
		_, draining := errors.AsType[*drainError](err)
		if draining {
			r.wait = backoff{} // the node was there until now, and has not failed us
		}
		hint := retryAfter(err)
		pause := r.wait.next(lasted, hint, longestWait(err))
		if unknown(err) || errors.Is(err, errAnew) {
			pause = 0 // there is no reason to wait
		}
		a.setLast(err)
		if !draining { // it has not ended yet, and EventDraining said so
			a.emit(Event{Kind: EventDisconnected, Server: a.Server, Err: err, Retry: pause})
		}
		a.rest(ctx, pause, max(hint, closest-time.Since(began)))
	}
}

// A retry is what is to be remembered from one attempt to the next.
type retry struct {
	wait backoff
	road road
}

// stay is one session, from the dial until it has ended, or the node has asked
// us to leave: then it goes on beside the next one. It returns why, and how long
// the node had been there without a break.
func (a *Agent) stay(ctx context.Context, wg *sync.WaitGroup, id [16]byte, r *retry) (lasted time.Duration, err error) {
	a.emit(Event{Kind: EventConnecting, Server: a.Server})
	s, err := a.connectAnew(ctx, id, &r.road)
	if err != nil {
		return 0, err
	}
	s.retry = *r
	a.setLast(nil)
	if !a.hasBeenWelcomed() {
		close(a.welcomed)
	}
	a.emit(Event{Kind: EventConnected, Server: a.Server, Session: s.id, Transport: s.transport})
	before := a.enter(s)
	wg.Go(func() {
		defer a.left(s)
		s.run(ctx)
	})
	settled := s.settled
	for {
		select {
		case <-settled:
			settled = nil
			for _, old := range before {
				old.release()
			}
		case <-s.drained:
			return time.Since(s.since), &drainError{s.after}
		case <-s.done:
			*r = s.retry
			return s.lasted, s.err
		}
	}
}

// connectAnew is connect, but an attempt that began before the machine slept, or
// long before the network changed, is ended by that.
func (a *Agent) connectAnew(ctx context.Context, id [16]byte, road *road) (*session, error) {
	for len(a.news) > 0 {
		<-a.news
	}
	began := time.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() {
		for {
			select {
			case n := <-a.news:
				if n == netwatch.Woke || time.Since(began) >= patience {
					cancel(errAnew)
				}
			case <-ctx.Done():
				return
			}
		}
	})
	s, err := a.connect(ctx, id, road)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return s, err
}

// enter notes that s lives, and returns those before it, which are draining. If
// there are too many, the oldest has to go.
func (a *Agent) enter(s *session) (before []*session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before = slices.Clone(a.sessions)
	if len(before) > maxDraining {
		before[0].cancel(errTooMany)
	}
	a.sessions = append(a.sessions, s)
	return before
}

func (a *Agent) left(s *session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sessions = slices.DeleteFunc(a.sessions, func(x *session) bool { return x == s })
}

func (a *Agent) living() []*session {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.sessions)
}

// watchWorld tells everybody who has, or wants, a connection what happens
// around it. Whoever is behind with the news needs no more of it.
func (a *Agent) watchWorld(ctx context.Context) {
	watch := a.watch
	if watch == nil {
		watch = netwatch.Watcher{ClocksOnly: a.Dial != nil}.Watch
	}
	watch(ctx, func(n netwatch.News) {
		if n == netwatch.Woke {
			a.emit(Event{Kind: EventWoke})
		}
		for _, s := range a.living() {
			select {
			case s.news <- n:
			default:
			}
		}
		select {
		case a.news <- n:
		default:
		}
	})
}

// rest waits for d. When something has changed around us there is no point in
// waiting for longer than least.
func (a *Agent) rest(ctx context.Context, d, least time.Duration) {
	for len(a.news) > 0 {
		<-a.news // of the time before
	}
	late := time.NewTimer(d)
	defer late.Stop()
	select {
	case <-a.news:
		sleep(ctx, min(d, least))
	case <-late.C:
	case <-ctx.Done():
	}
}

// hasBeenWelcomed is for run alone, which closes the channel.
func (a *Agent) hasBeenWelcomed() bool {
	select {
	case <-a.welcomed:
		return true
	default:
		return false
	}
}

// stop ends all listeners with err, and lets nobody in any more.
func (a *Agent) stop(err error) {
	a.mu.Lock()
	if a.closed == nil {
		a.closed = err
	}
	listeners := slices.Clone(a.listeners)
	a.mu.Unlock()

	for _, l := range listeners {
		if l.end(err) && !errors.Is(err, net.ErrClosed) {
			a.emit(Event{Kind: EventEnded, Name: l.Name(), URL: l.URL(), Err: err})
		}
	}
}

// open returns the listeners that want a tunnel.
func (a *Agent) open() []*Listener {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.listeners)
}

// forget removes l, which has ended.
func (a *Agent) forget(l *Listener) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.Index(a.listeners, l); i >= 0 {
		a.listeners = slices.Delete(a.listeners, i, i+1)
	}
	a.nudge()
}

// nudge makes the session look at the listeners again. It never waits: one
// pending nudge is as good as two.
func (a *Agent) nudge() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *Agent) setLast(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = err
}

// gaveUp is the end of ctx, and what we were waiting for.
func (a *Agent) gaveUp(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), a.last)
	}
	return context.Cause(ctx)
}

func (a *Agent) logger() *slog.Logger {
	if a.Log != nil {
		return a.Log
	}
	return slog.New(slog.DiscardHandler)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
