package edge

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvertd/culvert/internal/h1"
	"github.com/culvertd/culvert/internal/router"
)

const (
	// idleStream is how long a stream without a request is kept. Services
	// hang up on idle connections after 2 seconds and more; we let go first,
	// so that hardly a request meets a service that is just hanging up.
	// Another stream costs no round trip.
	idleStream = 1500 * time.Millisecond

	// freshEnough is how long a stream may have been idle that gets a request
	// which must not be sent twice.
	freshEnough = time.Second

	maxIdleStreams = 4096 // of all tunnels
	maxIdlePerStay = 1024
)

// A stream is a connection to a service of HTTP/1.1: one of ours, to its agent,
// that becomes one of the agent's. It carries one visit at a time.
type stream struct {
	conn     net.Conn
	reader   *h1.Reader
	res      h1.Response
	stay     stay
	idle     time.Duration // since then, of the watchman's time
	used     bool          // it has carried a visit before this one
	aborted  atomic.Bool
	answered bool // a byte of the answer has come
	last     bool // the service ends the connection behind the answer
}

// A stay is one holding of a host: what a stream was opened for.
type stay struct {
	host  string
	epoch uint64
}

// streams opens streams, and keeps those that can carry another visit.
type streams struct {
	man *watchman

	mu     sync.Mutex // guards the fields below
	closed bool
	n      int
	idle   map[stay][]*stream // the one used last at the end
}

// take returns a stream for v. One that was used before is taken only if v may
// be sent again, or nearly nobody would have hung up in so short a time; never
// if fresh.
func (p *streams) take(v *visit, fresh bool) (*stream, error) {
	if !fresh {
		least := p.man.since() - idleStream
		if !replayable(v.req) {
			least = p.man.since() - freshEnough
		}
		for {
			s := p.pop(stay{v.route.Host, v.route.Epoch}, least)
			if s == nil {
				break
			}
			if s.quiet() {
				s.answered, s.last = false, false
				return s, nil
			}
			s.conn.Close() // the service has hung up, or says what nobody asked for
		}
	}
	c, err := v.dial()
	if err != nil {
		return nil, err
	}
	return &stream{conn: c, reader: h1.NewReader(c), stay: stay{v.route.Host, v.route.Epoch}}, nil
}

// pop returns the stream that was used last, unless that was before least.
func (p *streams) pop(of stay, least time.Duration) *stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[of]
	if len(list) == 0 || list[len(list)-1].idle < least {
		return nil
	}
	s := list[len(list)-1]
	list[len(list)-1] = nil
	p.idle[of] = list[:len(list)-1] // and the next sweep forgets it if it is empty
	p.n--
	return s
}

// keep takes s back for another visit.
func (p *streams) keep(s *stream) {
	s.reader.Release()
	s.res.Clear()
	s.used, s.idle = true, p.man.since()
	p.mu.Lock()
	list := p.idle[s.stay]
	full := p.closed || p.n >= maxIdleStreams || len(list) >= maxIdlePerStay
	if !full {
		p.idle[s.stay] = append(list, s)
		p.n++
	}
	p.mu.Unlock()
	if full {
		s.conn.Close()
	}
}

// sweep lets go of those that were idle for long. It is called every tick.
func (p *streams) sweep() { p.letGo(p.man.since() - idleStream) }

// close lets go of all.
func (p *streams) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.letGo(1<<63 - 1)
}

func (p *streams) letGo(before time.Duration) {
	var gone []*stream
	p.mu.Lock()
	for of, list := range p.idle {
		n := 0
		for n < len(list) && list[n].idle <= before {
			n++
		}
		gone = append(gone, list[:n]...)
		p.n -= n
		if n == len(list) {
			delete(p.idle, of)
		} else if n > 0 {
			p.idle[of] = append([]*stream(nil), list[n:]...)
		}
	}
	p.mu.Unlock()
	for _, s := range gone {
		s.conn.Close()
	}
}

// quiet reports whether a stream that nobody uses is as it was left: open both
// ways, and with nothing to read.
func (s *stream) quiet() bool {
	q, ok := s.conn.(interface{ Quiet() bool })
	return ok && q.Quiet()
}

// abort ends both directions at once, so that nobody takes what was cut for the
// whole. It does not wait, and may be called by anybody, also twice.
func (s *stream) abort() {
	if s.aborted.Swap(true) {
		return
	}
	if a, ok := s.conn.(interface{ Abort() }); ok {
		a.Abort()
		return
	}
	s.conn.Close()
}

// replayable reports whether a request can be sent a second time when nobody
// knows what became of the first: whether its method is safe (RFC 9110, section
// 9.2.1). Others may be repeated by whoever sent them, who knows what they do.
func replayable(q *h1.Request) bool {
	switch string(q.Method) {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return true
	}
	return false
}

// An openError says that no stream could be opened. The service has not been
// asked anything.
type openError struct{ err error }

func (e *openError) Error() string { return "open stream: " + e.err.Error() }
func (e *openError) Unwrap() error { return e.err }

// dial opens a stream for the visit.
func (v *visit) dial() (net.Conn, error) {
	limit := time.Duration(v.watch.service.Load())
	if limit == 0 {
		limit = 1<<63 - 1
	}
	ctx, cancel := context.WithTimeout(v.door.ctx, limit)
	defer cancel()
	if err := v.opening(cancel); err != nil {
		return nil, err
	}
	defer v.opening(nil)
	c, err := v.door.edge.Visitors.Open(ctx, router.Visit{
		Host: v.route.Host, Epoch: v.route.Epoch, ID: v.id.String(), Remote: v.from.addr,
	})
	if err == nil {
		return c, nil
	}
	if cause := v.stopped(); cause != nil {
		return nil, cause
	}
	return nil, &openError{err}
}
