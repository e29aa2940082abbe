package edge

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/culvertd/culvert/internal/router"
)

// A stream is the conn to a service, as the Transport sees it: it remembers
// which visit it carries and how the far side ended it.
type stream struct {
	net.Conn
	user atomic.Pointer[visit] // nil between visits

	closeOnce, endOnce sync.Once
	closed             chan struct{} // by us
	ended              chan struct{} // nothing more will be read

	mu     sync.Mutex // guards broken
	broken error      // the first error of the far side, before we closed
}

func newStream(c net.Conn) *stream {
	return &stream{Conn: c, closed: make(chan struct{}), ended: make(chan struct{})}
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if err != nil {
		s.note(err)
		s.endOnce.Do(func() { close(s.ended) })
	}
	return n, err
}

// Write writes to the service. A service that has heard enough may answer and
// stop reading; the Transport would throw the answer away if Write failed then.
// So an error waits until there is nothing left to be heard.
func (s *stream) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	if err != nil {
		s.note(err)
		select {
		case <-s.ended:
		case <-s.closed:
		}
	}
	return n, err
}

func (s *stream) CloseWrite() error {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close ends the stream: at once if what it carries will never be complete, so
// that nobody takes the rest for the whole, and otherwise gently.
func (s *stream) Close() error {
	var err error
	s.closeOnce.Do(func() {
		close(s.closed)
		v := s.user.Load()
		if v != nil {
			v.stopReading()
		}
		if a, ok := s.Conn.(interface{ Abort() }); ok && v != nil && v.abandoned() {
			a.Abort()
			return
		}
		err = s.Conn.Close()
	})
	return err
}

// release says that v has all of its answer. By then the stream may carry
// another visit.
func (s *stream) release(v *visit) { s.user.CompareAndSwap(v, nil) }

func (s *stream) note(err error) {
	select {
	case <-s.closed:
		return
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil {
		s.broken = err
	}
}

// brokenBy is how the far side ended the stream: nil if it did not, or not
// before we did, and [io.EOF] if it did so in good order.
func (s *stream) brokenBy() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}

// An openError says that no stream could be opened. The service has not been
// asked anything.
type openError struct{ err error }

func (e *openError) Error() string { return "open stream: " + e.err.Error() }
func (e *openError) Unwrap() error { return e.err }

// diagnose finds out whose side is broken when err came instead of an answer.
func (d *door) diagnose(v *visit, err error) refusal {
	s := v.stream.Load()
	broken := s.brokenBy()
	switch {
	case errors.Is(err, router.ErrNoTunnel):
		return noTunnel
	case errors.Is(err, router.ErrOffline), errors.Is(err, router.ErrMoved), errors.Is(broken, router.ErrOffline):
		return offline
	case v.body.failed.Load(), errors.Is(err, errVisitorSilent):
		return badRequest
	}
	for _, err := range []error{err, broken} {
		if e, ok := errors.AsType[*router.ServiceError](err); ok {
			switch e.Problem {
			case router.ServiceRefused:
				return serviceRefused
			case router.ServiceTimeout:
				return serviceTimeout
			default:
				return serviceReset
			}
		}
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() || errors.Is(err, errServiceSilent) {
		return serviceTimeout
	}
	if _, ok := errors.AsType[*openError](err); ok {
		return offline // the agent is leaving, or is at its limit
	}
	switch {
	case s == nil:
		return badRequest // the standard library would not send it
	case broken == nil:
		return badResponse
	case broken != io.EOF:
		if _, err := d.edge.Visitors.Lookup(v.host); err != nil {
			return offline // it was the agent that left, not the service
		}
	}
	return serviceReset
}
