package edge

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/culvertd/culvert/internal/h1"
	"github.com/culvertd/culvert/internal/router"
)

const (
	maxMoves   = 3  // how often a request follows a host that changes hands
	maxInterim = 32 // 1xx answers to one request
)

// A visitorError says that it was the visitor who broke off, or took nothing
// more.
type visitorError struct{ err error }

func (e *visitorError) Error() string { return "visitor: " + e.err.Error() }
func (e *visitorError) Unwrap() error { return e.err }

// A badAnswer says that the service's answer cannot be passed on.
type badAnswer string

func (e badAnswer) Error() string { return string(e) }

// forward takes a request to the service that its host stands for, and the
// answer back.
func (d *door) forward(v *visit) {
	err := d.carry(v)
	if err != nil {
		d.failed(v, err)
	}
	if v.debug() {
		d.log.Debug("visit ended", "visit", v.id, "tunnel", v.host, "peer", v.from.addr,
			"method", v.method, "status", v.status, "took", time.Since(v.began), "err", err)
	}
}

// carry returns nil when the visitor has the whole answer. It follows a host
// that changes hands, and asks once more when a stream that was used before
// turns out to have ended: nothing has been sent in the first case, and the
// second is only for requests that may be repeated.
func (d *door) carry(v *visit) error {
	body, whole := v.visitor.whole()
	// Who does not say how much he will send has a conversation, perhaps, which
	// may take its time.
	v.watch.sized.Store(v.req.Length > 0)
	introduced := false
	fresh := false
	for moves := 0; ; {
		route, err := d.edge.Visitors.Lookup(v.host)
		if err != nil {
			return err
		}
		v.route = route
		v.watch.limit(orLimit(route.ServiceTimeout, d.edge.serviceTimeout()), orLimit(route.Silence, d.edge.silence()))
		if !introduced {
			introduce(v)
			introduced = true
		}
		var again bool
		if route.Proto == router.H2 {
			err = d.carryH2(v, body, whole)
		} else {
			again, err = d.carryH1(v, body, whole, fresh)
		}
		switch {
		case errors.Is(err, router.ErrMoved) && moves < maxMoves:
			moves++
		case again && v.stopped() == nil:
			fresh = true
		default:
			return err
		}
	}
}

// orLimit is what a tunnel wants, or what is usual; 0 means for ever.
func orLimit(wish, usual time.Duration) time.Duration {
	if wish != 0 {
		return max(0, wish)
	}
	return usual
}

// carryH1 takes a request to a service of HTTP/1.1. It may be carried again if
// the stream had been used before, and the service was not there any more.
func (d *door) carryH1(v *visit, body []byte, whole, fresh bool) (again bool, err error) {
	s, err := d.streams.take(v, fresh)
	if err != nil {
		return false, err
	}
	if cause := v.carriedBy(s); cause != nil {
		s.abort()
		return false, cause
	}
	clean, err := s.exchange(v, body, whole)
	v.carriedBy(nil)
	if v.stopped() != nil {
		clean = false // it has been, or is being, cut
	}
	switch {
	case err == nil && s.res.Status == 101: // which has closed it
		s.done()
	case clean && s.last:
		s.done()
		s.conn.Close()
	case clean:
		d.streams.keep(s)
	default:
		s.abort()
		s.done()
	}
	again = err != nil && s.used && !s.answered && whole && replayable(v.req)
	return again, err
}

// failed answers a request whose carrying failed, if that is still possible.
func (d *door) failed(v *visit, err error) {
	cause := v.stopped()
	_, gone := errors.AsType[*visitorError](err)
	if v.status != 0 || gone || cause == errVisitorLeft || cause == errClosed {
		v.visitor.abort() // nobody to tell, or too late
		return
	}
	d.refuse(v, d.diagnose(v, cause, err), cmp.Or(cause, err))
}

// refuse answers a visit ourselves.
func (d *door) refuse(v *visit, f refusal, err error) {
	level := slog.LevelDebug // strangers cause these at will
	if f.status == 502 || f.status == 504 {
		level = slog.LevelInfo // and these take a service that fails
	}
	if d.log.Enabled(context.Background(), level) {
		d.log.Log(context.Background(), level, "visitor refused", "visit", v.id, "tunnel", string(v.req.Host),
			"peer", v.from.addr, "status", f.status, "reason", f.code, "err", err)
	}
	f.answer(v)
}

// diagnose finds out whose side is broken when err came instead of an answer.
// The cause is why we stopped the visit, if we did.
func (d *door) diagnose(v *visit, cause, err error) refusal {
	if e, ok := errors.AsType[*h1.Error](cause); ok { // of the request's body
		return badRequest.as(e.Status)
	}
	switch cause {
	case errVisitorSlow:
		return tooSlow
	case errServiceLate, errServiceSilent:
		return serviceTimeout
	}
	if e, ok := errors.AsType[*h1.Error](err); ok && e.Status == 502 {
		return badResponse
	}
	if _, ok := errors.AsType[badAnswer](err); ok {
		return badResponse
	}
	switch {
	case errors.Is(err, router.ErrNoTunnel):
		return noTunnel
	case errors.Is(err, router.ErrOffline), errors.Is(err, router.ErrMoved):
		return offline
	}
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
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return serviceTimeout
	}
	if _, ok := errors.AsType[*openError](err); ok {
		return offline // the agent is leaving, or is at its limit
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return serviceReset
	}
	if _, err := d.edge.Visitors.Lookup(v.host); err != nil {
		return offline // it was the agent that left, not the service
	}
	return serviceReset
}
