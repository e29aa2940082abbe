package edge

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A phase is what a visitor's connection, or one request of it, is at. How
// long it may last is for the watchman to see.
type phase uint32

const (
	phaseFree      phase = iota // nothing is limited: ended, or upgraded
	phaseIdle                   // between two requests
	phaseHead                   // the head of a request is on its way
	phaseSending                // the request is being passed on
	phaseWaiting                // it was passed on, and there is no answer
	phaseAnswering              // the answer is being passed on
	phaseHeld                   // an agent is waited for, which is nobody's fault
)

// A lateness is what the watchman tells whom he watches.
type lateness uint8

const (
	lateDrowsy  lateness = iota + 1 // idle for a moment: buffers could be given back
	lateIdle                        // idle for too long
	lateHead                        // the visitor does not come to the end of a head
	lateLasting                     // a request takes a while: does the visitor still wait?
	lateService                     // no answer in time
	lateSilence                     // nothing moved either way
	lateSending                     // the visitor sends a body too slowly
	lateTaking                      // the visitor takes the answer too slowly
	lateClosed                      // nothing is waited for any more
)

// slowFor is how long a visitor may be slower than the least rate, in all.
const slowFor = 25 * time.Second

// parting is how long a connection may be idle once the edge is leaving: for a
// visitor who is just about to ask again, but not for all who might.
const parting = time.Second

// limits are how long things may take. Zero means for ever.
type limits struct {
	idle, head, service, silence time.Duration
	rate                         int  // bytes in a second
	leaving                      bool // the edge is: idle is what lasts longer than parting
}

// Who is watched is told what is late, and in which turn of his watch that was.
// He must not block.
type watched interface {
	late(what lateness, turn uint32)
}

// A watch is what a watchman looks at from time to time: so nobody who moves
// bytes has to set a timer, or look at a clock. It may be used again after
// remove.
type watch struct {
	owner watched

	turn    atomic.Uint32 // the phase, and above it a number that every turn changes
	service atomic.Int64  // limits that the tunnel has, in nanoseconds
	silence atomic.Int64

	in      atomic.Uint64 // bytes that the visitor has sent
	out     atomic.Uint64 // and taken
	heard   atomic.Uint64 // and the service has sent
	reading atomic.Bool   // the visitor is waited for: to send,
	writing atomic.Bool   // or to take
	pending atomic.Int64  // bytes that are being written
	sized   atomic.Bool   // he has said how much he will send

	// taken says how much the visitor has taken for certain, and may be nil:
	// out lags behind by what is being written.
	taken func() (bytes uint64, ok bool)

	// The watchman's own.
	seen                 uint32
	since, moved         time.Duration // of the watchman's time
	lastIn, lastOut, sum uint64
	lastTaken            uint64
	debtIn, debtOut      int64 // by how many bytes the visitor lags behind the least rate
	told                 bool  // lateDrowsy, which is told once in a turn
}

const (
	phaseBits = 3
	phaseMask = 1<<phaseBits - 1
)

// turnTo begins a phase. Only advance may be called at the same time.
func (w *watch) turnTo(p phase) {
	w.turn.Store((w.turn.Load()>>phaseBits+1)<<phaseBits | uint32(p))
}

// advance begins a phase if that before it is still on.
func (w *watch) advance(from, to phase) {
	old := w.turn.Load()
	if old&phaseMask == uint32(from) {
		w.turn.CompareAndSwap(old, (old>>phaseBits+1)<<phaseBits|uint32(to))
	}
}

// limit sets what a tunnel says of its service; 0 means for ever.
func (w *watch) limit(service, silence time.Duration) {
	w.service.Store(int64(service))
	w.silence.Store(int64(silence))
}

// look is called by the watchman, at his time now, which is a tick after the
// last one. It returns what is late, if anything is.
func (w *watch) look(now, tick time.Duration, l *limits) lateness {
	turn := w.turn.Load()
	if turn != w.seen {
		w.seen, w.since, w.told = turn, now, false
		if p := phase(turn & phaseMask); p <= phaseSending {
			w.debtIn, w.debtOut, w.moved = 0, 0, now
		}
	}
	lasted := now - w.since
	over := func(limit time.Duration) bool { return limit > 0 && lasted >= limit }
	switch phase(turn & phaseMask) {
	case phaseFree:
		return 0
	case phaseIdle:
		if over(l.idle) || l.leaving && lasted >= parting {
			return lateIdle
		}
		if lasted >= tick && !w.told {
			w.told = true
			return lateDrowsy
		}
		return 0
	case phaseHead:
		if over(l.head) {
			return lateHead
		}
		if l.leaving && lasted >= parting {
			return lateIdle // which only he notices who has not begun
		}
		return 0
	case phaseHeld:
		if lasted >= tick {
			return lateLasting
		}
		return 0
	}
	in, out := w.in.Load(), w.out.Load()
	sum := in + out + w.heard.Load()
	if sum != w.sum {
		w.moved = now
	}
	least := int64(float64(l.rate) * tick.Seconds())
	most := int64(float64(l.rate) * slowFor.Seconds())
	if w.reading.Load() && w.sized.Load() && phase(turn&phaseMask) == phaseSending {
		w.debtIn = max(0, w.debtIn+least-int64(in-w.lastIn))
	}
	due := int64(0)
	if w.writing.Load() {
		due = least
	}
	w.debtOut = max(0, w.debtOut+due-w.tookSince(out))
	w.lastIn, w.lastOut, w.sum = in, out, sum
	silence := time.Duration(w.silence.Load())
	switch {
	case most > 0 && w.debtIn >= most:
		return lateSending
	case most > 0 && w.debtOut >= most+w.unknown():
		return lateTaking
	case phase(turn&phaseMask) == phaseWaiting && over(time.Duration(w.service.Load())):
		return lateService
	case silence > 0 && now-w.moved >= silence && phase(turn&phaseMask) != phaseWaiting:
		return lateSilence
	}
	if lasted >= tick {
		return lateLasting
	}
	return 0
}

// unknown is how much of what is being written the visitor may have taken
// already.
func (w *watch) unknown() int64 {
	if w.taken != nil {
		return 0
	}
	return w.pending.Load()
}

// tookSince is how much the visitor took since he was last looked at, who has
// by now been written so much.
func (w *watch) tookSince(out uint64) int64 {
	took := int64(out - w.lastOut)
	if w.taken == nil {
		return took
	}
	bytes, ok := w.taken()
	if ok {
		took = max(took, int64(bytes-w.lastTaken))
		w.lastTaken = bytes
	}
	return took
}

// A watchman looks at all watches every tick. What he says is late by at most
// two of these, and what has not taken a tick he may not see at all.
type watchman struct {
	limits  atomic.Pointer[limits]
	leaving atomic.Bool
	tick    time.Duration
	also    func() // called every tick

	now  atomic.Int64           // nanoseconds of his time: a clock that costs nothing
	date atomic.Pointer[[]byte] // as a Date field has it (RFC 9110, section 5.6.7)

	mu      sync.Mutex // guards the field below
	watches map[*watch]struct{}
}

func newWatchman(l *limits, also func()) *watchman {
	m := &watchman{tick: 500 * time.Millisecond, also: also, watches: make(map[*watch]struct{})}
	m.limits.Store(l)
	for _, d := range []time.Duration{l.idle, l.head, l.service, l.silence} {
		if d > 0 {
			m.tick = min(m.tick, max(d/4, 5*time.Millisecond))
		}
	}
	m.setDate()
	return m
}

// run looks until done is closed.
func (m *watchman) run(done <-chan struct{}) {
	t := time.NewTicker(m.tick)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			m.look()
		case <-done:
			return
		}
	}
}

func (m *watchman) add(w *watch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watches[w] = struct{}{}
}

// remove ends the watch. It may still be told what was found out before.
func (m *watchman) remove(w *watch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.watches, w)
}

func (m *watchman) look() {
	now := m.since() + m.tick
	m.now.Store(int64(now))
	m.setDate()
	type found struct {
		w    *watch
		what lateness
		turn uint32
	}
	l := *m.limits.Load()
	l.leaving = m.leaving.Load()
	var late []found // told without the lock: whom we tell may remove himself
	m.mu.Lock()
	for w := range m.watches {
		if what := w.look(now, m.tick, &l); what != 0 {
			late = append(late, found{w, what, w.seen})
		}
	}
	m.mu.Unlock()
	for _, f := range late {
		f.w.owner.late(f.what, f.turn)
	}
	m.also()
}

// tellAll tells all who are watched that the edge is closed.
func (m *watchman) tellAll(what lateness) {
	m.mu.Lock()
	all := make([]*watch, 0, len(m.watches))
	for w := range m.watches {
		all = append(all, w)
	}
	m.mu.Unlock()
	for _, w := range all {
		w.owner.late(what, w.turn.Load())
	}
}

// since is the watchman's time.
func (m *watchman) since() time.Duration { return time.Duration(m.now.Load()) }

func (m *watchman) setDate() {
	b := time.Now().UTC().AppendFormat(nil, http.TimeFormat)
	m.date.Store(&b)
}
