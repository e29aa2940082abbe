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
)

// An Agent holds tunnels on one node, over one connection. Fill in the fields,
// then call Listen; the fields are not to be changed any more. All methods may
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
	// which looks the name up anew each time. TLS is ours in any case.
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

	wake     chan struct{} // something changed in listeners; cap 1, made by start
	welcomed chan struct{} // closed by the first session; made by start
	done     chan struct{} // closed when run has ended; made by start

	mu        sync.Mutex // guards the fields below
	cancel    context.CancelCauseFunc
	listeners []*Listener // open ones, oldest first
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
	a.wake, a.welcomed, a.done = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancelCause(context.Background())
	a.cancel = cancel
	go a.run(ctx)
	return nil
}

// run is the life of an agent: session after session, until it is closed or
// refused for good.
func (a *Agent) run(ctx context.Context) {
	defer close(a.done)
	var id [16]byte // of this run; by it the node knows our half-open sessions
	rand.Read(id[:])
	var wait backoff
	road := road{fixed: a.Transport}
	for {
		lasted, err := a.stay(ctx, id, &road)
		if ctx.Err() != nil {
			a.stop(fmt.Errorf("agent: %w", net.ErrClosed))
			return
		}
		if permanent(err, !a.hasBeenWelcomed()) {
			a.emit(Event{Kind: EventDisconnected, Server: a.Server, Err: err})
			a.stop(err)
			return
		}
		pause := wait.next(lasted, retryAfter(err))
		a.setLast(err)
		a.emit(Event{Kind: EventDisconnected, Server: a.Server, Err: err, Retry: pause})
		sleep(ctx, pause)
	}
}

// stay is one session, from the dial to its end. It returns how long it lasted
// after the node's welcome, and why it ended.
func (a *Agent) stay(ctx context.Context, id [16]byte, road *road) (lasted time.Duration, err error) {
	a.emit(Event{Kind: EventConnecting, Server: a.Server})
	s, err := a.connect(ctx, id, road)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	a.setLast(nil)
	if !a.hasBeenWelcomed() {
		close(a.welcomed)
	}
	a.emit(Event{Kind: EventConnected, Server: a.Server, Session: s.id, Transport: s.transport})
	err = s.run(ctx)
	return time.Since(began), err
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
