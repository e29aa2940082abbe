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
	maxMoves   = 3  // how often a request that was not seen is taken elsewhere
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

// An outcome is what became of a request whose carrying has ended.
type outcome uint8

const (
	ended  outcome = iota // there is an answer, or there will be none
	unseen                // nothing of it has reached the service
	unsure                // nobody knows, and it may be repeated
)

// carry returns nil when the visitor has the whole answer. It waits for an
// agent that is away, and follows a host that changes hands, as long as the
// service has seen nothing of the request. If nobody knows whether it has,
// because a kept stream turns out to have ended, or the agent was lost, only a
// request that may be repeated is asked again, and that once.
func (d *door) carry(v *visit) error {
	body, whole := v.visitor.whole()
	// Who does not say how much he will send has a conversation, perhaps, which
	// may take its time.
	v.watch.sized.Store(v.req.Length > 0)
	introduced := false
	repeated := false
	settings := d.edge.settings()
	for moves := 0; ; {
		if err := d.find(v); err != nil {
			return err
		}
		v.watch.limit(orLimit(v.route.ServiceTimeout, settings.serviceTimeout()), orLimit(v.route.Silence, settings.silence()))
		if !introduced {
			introduce(v)
			introduced = true
		}
		carryOn := d.carryH1
		if v.route.Proto == router.H2 {
			carryOn = d.carryH2
		}
		outcome, err := carryOn(v, body, whole, repeated)
		switch {
		case v.stopped() != nil:
			return err
		case outcome == unseen && moves < maxMoves:
			moves++
		case outcome == unsure && !repeated:
			repeated = true
		default:
			return err
		}
		v.wait.Not = 0
		if errors.Is(err, router.ErrOffline) || errors.Is(err, router.ErrLost) {
			v.wait.Not = v.route.Epoch // the router may not have heard of it yet
		}
		v.watch.turnTo(phaseSending)
	}
}

// find finds the stay that carries v, and waits for it if one is expected. That
// is nobody's fault, so no clock runs meanwhile; but the visitor may leave.
func (d *door) find(v *visit) (err error) {
	if v.wait.Not == 0 {
		v.route, err = d.edge.Visitors.Lookup(v.host)
		if !errors.Is(err, router.ErrOffline) {
			return err
		}
	}
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	if cause := v.opening(cancel); cause != nil {
		return cause
	}
	defer v.opening(nil)
	v.watch.turnTo(phaseHeld)
	defer v.watch.turnTo(phaseSending)
	v.route, err = d.edge.Visitors.Await(ctx, v.host, &v.wait)
	return err
}

// elsewhere reports whether a stream could not be opened because of where it
// was to go, and not of the service that is there.
func elsewhere(err error) bool {
	_, ok := errors.AsType[*openError](err)
	return ok && (errors.Is(err, router.ErrMoved) || errors.Is(err, router.ErrOffline))
}

// orLimit is what a tunnel wants, or what is usual; 0 means for ever.
func orLimit(wish, usual time.Duration) time.Duration {
	if wish != 0 {
		return max(0, wish)
	}
	return usual
}

// carryH1 takes a request to a service of HTTP/1.1: over a stream that nobody
// has used before, if fresh.
func (d *door) carryH1(v *visit, body []byte, whole, fresh bool) (outcome, error) {
	s, err := d.streams.take(v, fresh)
	if err != nil {
		if elsewhere(err) {
			return unseen, err
		}
		return ended, err
	}
	if cause := v.carriedBy(s); cause != nil {
		s.abort()
		return ended, cause
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
	switch {
	case err == nil || s.answered || !whole:
		return ended, err
	case errors.Is(err, router.ErrOffline) && !s.used: // the agent has not looked at it
		return unseen, err
	case (s.used || errors.Is(err, router.ErrLost)) && replayable(v.req):
		return unsure, err
	}
	return ended, err
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
	case errors.Is(err, router.ErrOffline), errors.Is(err, router.ErrMoved), errors.Is(err, router.ErrLost):
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
