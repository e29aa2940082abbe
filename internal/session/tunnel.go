package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/culvertd/culvert/internal/router"
	"github.com/culvertd/culvert/internal/wire"
	"github.com/culvertd/culvert/mux"
)

// A tunnel is a name that an agent holds. It is the [router.Opener] of its host
// for one epoch.
type tunnel struct {
	session  *session
	request  uint32
	name     string
	host     string
	takeover wire.Takeover
	epoch    uint64 // set before anybody else sees it, but for the router, who knows it

	told   bool   // the agent has heard of it; guarded by session.mu
	winner *agent // who took it over before; the same
}

// Open opens a stream to the agent and says whose it is. It does not wait for
// the agent: what the service has to say against it is told by Read and Write.
// An agent that is leaving, or may not stay, is a [router.ErrOffline].
func (t *tunnel) Open(ctx context.Context, v router.Visit) (net.Conn, error) {
	x := t.session
	if err := x.server.Auth.Valid(x.grant); err != nil {
		x.end(&wire.Refused{Code: wire.Revoked, Reason: "the token has ended"})
		return nil, fmt.Errorf("%w: %w", router.ErrOffline, err)
	}
	stream, err := x.conn.Open(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", router.ErrOffline, err)
	}
	c := &visitor{Stream: stream, session: x}
	if !x.enter(c) {
		stream.Reset(wire.VisitorGone)
		return nil, fmt.Errorf("%w: the session is ending", router.ErrOffline)
	}
	head := wire.Append(make([]byte, 0, 64), &wire.Visit{
		Request: t.request, ID: wire.Text(v.ID, wire.MaxVisitID), Remote: v.Remote,
	})
	stream.SetWriteDeadline(time.Now().Add(writeTime))
	if _, err := stream.Write(head); err != nil {
		c.Abort()
		return nil, fmt.Errorf("%w: %w", router.ErrOffline, err)
	}
	stream.SetWriteDeadline(time.Time{}) // from here on it is the caller's
	return c, nil
}

// enter counts a visitor, unless the session takes none any more.
func (x *session) enter(v *visitor) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended || x.closing {
		return false
	}
	x.visitors[v] = struct{}{}
	return true
}

// leave forgets a visitor; the last one ends a session that takes no more.
func (x *session) leave(v *visitor) {
	x.mu.Lock()
	delete(x.visitors, v)
	last := x.closing && len(x.visitors) == 0
	x.mu.Unlock()
	if last {
		x.end(nil)
	}
}

// A visitor is a stream to an agent whose errors say what the agent said of its
// service.
type visitor struct {
	*mux.Stream
	session *session
	once    sync.Once
}

// Read is [mux.Stream.Read], with errors for the edge.
func (v *visitor) Read(b []byte) (int, error) {
	n, err := v.Stream.Read(b)
	return n, v.explain(err)
}

// Write is [mux.Stream.Write], with errors for the edge.
func (v *visitor) Write(b []byte) (int, error) {
	n, err := v.Stream.Write(b)
	return n, v.explain(err)
}

// WriteTo is [mux.Stream.WriteTo], with errors for the edge.
func (v *visitor) WriteTo(w io.Writer) (int64, error) {
	n, err := v.Stream.WriteTo(w)
	return n, v.explain(err)
}

// ReadFrom is [mux.Stream.ReadFrom], with errors for the edge.
func (v *visitor) ReadFrom(r io.Reader) (int64, error) {
	n, err := v.Stream.ReadFrom(r)
	return n, v.explain(err)
}

// Close ends the stream in good order: what was written arrives.
func (v *visitor) Close() error {
	err := v.Stream.Close()
	v.gone()
	return err
}

// Abort ends both directions at once. The service's side can tell it from an
// end.
func (v *visitor) Abort() {
	v.Stream.Reset(wire.VisitorGone)
	v.gone()
}

// over reports whether the session has ended, or is about to.
func (x *session) over() bool {
	x.mu.Lock()
	ended := x.ended
	x.mu.Unlock()
	return ended || x.conn.Err() != nil
}

func (v *visitor) gone() { v.once.Do(func() { v.session.leave(v) }) }

// explain translates the codes of an agent, and the end of its session, whose
// errors are many: the connection's, and that of streams that were cut.
func (v *visitor) explain(err error) error {
	if err == nil {
		return nil
	}
	reset, ok := errors.AsType[*mux.StreamError](err)
	switch {
	case ok && reset.Remote:
	case err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) || !v.session.over():
		return err
	default:
		return fmt.Errorf("%w: %w", router.ErrLost, err)
	}
	switch reset.Code {
	case wire.ServiceRefused:
		return &router.ServiceError{Problem: router.ServiceRefused, Err: err}
	case wire.ServiceReset:
		return &router.ServiceError{Problem: router.ServiceReset, Err: err}
	case wire.ServiceTimeout:
		return &router.ServiceError{Problem: router.ServiceTimeout, Err: err}
	case wire.NoTunnel, mux.CodeRefused:
		return fmt.Errorf("%w: %w", router.ErrOffline, err)
	}
	return err
}
