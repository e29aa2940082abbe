package mux

import (
	"fmt"
	"slices"
)

// A reference is a receiver as docs/protocol.md has it, and nothing else: it
// has no buffers to reuse, forgets nothing, and shares no code with the one it
// is held against. It takes the bytes that a peer sends and the calls of the
// application, and knows what has to come of them.
//
// Where the protocol leaves a choice, it does not guess. Which credit counts
// is what the Conn has said, so it listens (hear), and checks that what is
// said is neither too much nor so little that an honest peer would wait for
// ever. Where a flood begins, between two bounds, it asks (dead). And of a
// frame that breaks several rules, each is a verdict.
type reference struct {
	budget, window, places uint64 // of the Conn's Config

	hear func()      // has the Conn handle what came before this frame, and takes what it said
	dead func() bool // has it handle this frame as well; has that ended it?

	stage int
	in    []byte   // what is no whole frame yet
	taken int      // bytes before it
	legal []string // how the connection has to have ended, one of these; none: it lives

	streams         map[uint64]*refStream
	live            map[uint64]*refStream // those of which something is still to be said
	opened          uint64                // by the application,
	mayOpen         uint64                // of which the peer allows so many
	maySend         uint64                // bytes
	settings        map[uint64]uint64
	arrived, freed  uint64 // opened by the peer; of those, places that are free again
	away            bool   // the application takes no streams
	taking          uint64 // but the first so many
	peerAway        bool
	waiting         []*refStream // for accept
	received        uint64       // bytes, on all streams
	consumed        uint64       // of those, read or thrown away
	charges, doubts int          // frames without content; some that may be counted
	seconds         float64      // since the connection began
	ponged          bool         // the first ping was answered
	ping            []byte       // the last body
	said            refSaid
}

// refSaid is what the Conn was heard to say.
type refSaid struct {
	in              []byte
	settings        bool
	credit, streams uint64
	pong            []byte
	close           string
}

type refStream struct {
	id      uint64
	limit   uint64 // the credit that was said
	maySend uint64 // the peer's
	blocked uint64 // where the peer says that it waits
	bytes   []byte // all that arrived
	read    int    // of those, how many the application has
	final   uint64 // the end of the peer's direction,
	known   bool   // once it is known
	why     string // "EOF", or the reset
	closed  string // why the application reads no more
	quit    bool   // our direction has ended
	stopped bool   // the peer wants it to
	queued  bool   // waits for accept
	implied bool   // opened by a later one
	named   bool   // in a frame of its own
	spared  bool   // its first empty frame has come
	heard   struct{ open, end bool }
}

// Codes, and how a connection ends with them.
const (
	refProtocol  = "close 2"
	refFlow      = "close 3"
	refLimit     = "close 4"
	refFrameSize = "close 5"
	refFinalSize = "close 6"
	refFlood     = "close 7"
	refVersion   = "close 8"
	refLost      = "lost"
)

func newReference(budget, places uint64) *reference {
	return &reference{
		budget: budget, window: budget / 2, places: places,
		mayOpen: 16, maySend: 65536,
		settings: map[uint64]uint64{1: 16384, 2: 65536, 3: 16},
		streams:  make(map[uint64]*refStream), live: make(map[uint64]*refStream),
	}
}

// feed takes what arrives.
func (r *reference) feed(b []byte) {
	r.in = append(r.in, b...)
	for r.legal == nil {
		n := r.step()
		if n == 0 {
			break
		}
		r.in, r.taken = r.in[n:], r.taken+n
	}
}

// step handles what is first in line, if it is there as a whole, and says how
// long it was.
func (r *reference) step() int {
	if r.stage == 0 {
		if len(r.in) < 8 {
			return 0
		}
		if string(r.in[:8]) != "culvmux\x01" {
			r.legal = []string{refVersion}
		}
		r.stage = 1
		return 8
	}
	if len(r.in) < 3 {
		return 0
	}
	kind, size := r.in[0], int(r.in[1])<<8|int(r.in[2])
	var broken []string
	if r.stage == 1 && kind != 0x0c || r.stage > 1 && kind == 0x0c {
		broken = append(broken, refProtocol)
		if r.stage > 1 && len(r.in) < 3+size && size <= 1024 {
			return 0
		}
	}
	broken = append(broken, refHeader(kind, size)...)
	if r.legal = broken; broken != nil || len(r.in) < 3+size {
		return 0
	}
	body := r.in[3 : 3+size]
	if r.stage == 1 {
		r.stage = 2
		r.onSettings(body, size)
		return 3 + size
	}
	n, tail, broken := refTakeApart(kind, body)
	if r.legal = broken; broken == nil {
		r.onFrame(kind, n, tail, body)
	}
	return 3 + size
}

func (r *reference) onSettings(body []byte, size int) {
	for last := uint64(0); len(body) > 0; {
		id, n, good := refNumber(body)
		body = body[n:]
		value, m, good2 := refNumber(body)
		body = body[m:]
		if n == 0 || m == 0 || !good || !good2 || value < r.settings[id] || id <= last {
			r.legal = []string{refProtocol}
			return
		}
		last = id
		if _, known := r.settings[id]; known {
			r.settings[id] = value
		}
	}
	r.maySend, r.mayOpen = r.settings[2], r.settings[3]
	for _, s := range r.streams { // opened before
		s.maySend = r.settings[1]
	}
}

func (r *reference) onFrame(kind byte, n [3]uint64, tail, body []byte) {
	switch kind {
	case 0x0d, 0x0e, 0x0f: // of lanes, which a Conn that keeps nothing does not have
		r.legal = []string{refProtocol}
	case 0x06:
		r.raise(&r.maySend, n[0])
	case 0x07:
		r.raise(&r.mayOpen, n[0])
	case 0x08:
		r.ping = slices.Clone(body)
		r.charge()
	case 0x09:
		if n[0] == 1 && !r.ponged {
			r.ponged = true
			return
		}
		r.charge()
	case 0x0a:
		switch {
		case r.peerAway:
			r.charge()
		case n[0] > r.opened:
			r.legal = []string{refProtocol}
		default:
			r.peerAway = true
		}
	case 0x0b:
		r.legal = []string{fmt.Sprintf("closed by peer %d", n[0])}
	default:
		if kind >= 0x40 {
			r.charge()
			return
		}
		r.onStreamFrame(kind, n, tail)
	}
}

func (r *reference) onStreamFrame(kind byte, n [3]uint64, tail []byte) {
	before := r.arrived
	s := r.find(n[0])
	if s == nil || s.over() {
		return
	}
	first, named := r.arrived > before, s.named
	s.named = true
	switch kind {
	case 0, 1:
		if r.legal = r.admit(s, n[1], uint64(len(tail)), kind == 1); r.legal != nil {
			return
		}
		if s.known {
			r.charge()
			return
		}
		fresh := tail[min(uint64(len(tail)), s.got()-n[1]):]
		r.arrive(s, fresh)
		switch {
		case kind == 1:
			r.finish(s, s.got(), "EOF")
		case len(fresh) > 0 || first:
		case s.implied && !s.spared:
			s.spared = true
			if named { // its first data, but not its first frame
				r.doubt()
			}
		default:
			r.charge()
		}
	case 2:
		if r.legal = r.admitReset(s, n[2]); r.legal != nil {
			return
		}
		if s.known {
			r.charge()
			return
		}
		rest := n[2] - s.got()
		r.received, r.consumed = r.received+rest, r.consumed+rest
		r.finish(s, n[2], fmt.Sprintf("reset by peer %d", n[1]))
	case 3:
		if s.stopped {
			r.charge()
		}
		s.quit, s.stopped = true, true
		r.settle(s)
	case 4:
		r.raise(&s.maySend, n[1])
	case 5:
		if n[1] > s.got() {
			r.charge()
			return
		}
		r.raise(&s.blocked, n[1])
	}
}

// raise takes a limit. One that raises nothing is ignored, but counted.
func (r *reference) raise(limit *uint64, to uint64) {
	if to <= *limit {
		r.charge()
	}
	*limit = max(*limit, to)
}

// begun says of a frame that has not arrived as a whole how it may end the
// connection all the same, and how many streams it may have opened: what it
// begins with may be judged at once. Safe: none of that, whatever happens
// before the rest.
func (r *reference) begun() (safe bool, broken []string, opens uint64) {
	if r.stage < 2 || len(r.in) < 3 || r.in[0] > 1 {
		return true, nil, 0
	}
	id, n, good := refNumber(r.in[3:])
	if n == 0 {
		return true, nil, 0
	}
	offset, m, good2 := refNumber(r.in[3+n:])
	size := int(r.in[1])<<8 | int(r.in[2]) - n - m
	switch number := id / 2; {
	case m == 0:
		return good, []string{refProtocol}, 0
	case !good || !good2 || size > 16384:
		return false, []string{refProtocol, refFrameSize}, 0
	case id%2 == 0 && number >= r.arrived:
		// What is wrong with it will be one of these; which one, it says
		// when it is whole.
		return false, []string{refLimit, refProtocol, refFlow}, min(number, r.places+r.freed) + 1 - r.arrived
	case id%2 == 1 && number >= r.opened:
		return false, []string{refProtocol}, 0
	}
	s := r.streams[id]
	if s.over() {
		return true, nil, 0
	}
	broken = r.admit(s, offset, uint64(size), r.in[0] == 1)
	return broken == nil, broken, 0
}

// find returns a stream, which it opens if the peer may.
func (r *reference) find(id uint64) *refStream {
	number := id / 2
	switch {
	case id%2 == 1 && number >= r.opened:
		r.legal = []string{refProtocol}
		return nil
	case id%2 == 1 || number < r.arrived:
		return r.streams[id]
	}
	if number >= r.said.streams && number < r.places+r.freed {
		r.hear()
	}
	if number >= r.said.streams {
		r.legal = []string{refLimit}
		return nil
	}
	for ; r.arrived <= number; r.arrived++ {
		s := r.open(2 * r.arrived)
		s.implied = r.arrived < number
		if r.away && r.arrived >= r.taking {
			s.quit, s.closed = true, "reset 1"
			continue
		}
		s.queued = true
		r.waiting = append(r.waiting, s)
	}
	return r.streams[id]
}

func (r *reference) open(id uint64) *refStream {
	s := &refStream{id: id, limit: 32768, maySend: r.settings[1]}
	r.streams[id], r.live[id] = s, s
	return s
}

// got is the offset of the next byte.
func (s *refStream) got() uint64 { return uint64(len(s.bytes)) }

// over says whether both directions have ended: what comes then is ignored.
func (s *refStream) over() bool { return s.known && s.quit }

// admit says which rules are broken by size bytes of s at offset.
func (r *reference) admit(s *refStream, offset, size uint64, fin bool) (broken []string) {
	end := offset + size
	if s.known { // by offset, the receiver has it or will never want it
		if end > s.final || fin && end != s.final {
			return []string{refFinalSize}
		}
		return nil
	}
	if fin && end < s.got() {
		broken = append(broken, refFinalSize)
	}
	if offset > s.got() {
		broken = append(broken, refProtocol)
	}
	if !r.covered(s, end) {
		broken = append(broken, refFlow)
	}
	return broken
}

func (r *reference) admitReset(s *refStream, final uint64) (broken []string) {
	if s.known {
		if final != s.final {
			return []string{refFinalSize}
		}
		return nil
	}
	if final < s.got() {
		broken = append(broken, refFinalSize)
	}
	if !r.covered(s, final) {
		broken = append(broken, refFlow)
	}
	return broken
}

// covered says whether there is credit for s up to end.
func (r *reference) covered(s *refStream, end uint64) bool {
	fresh := max(end, s.got()) - s.got()
	covered := func() bool { return end <= s.limit && r.received+fresh <= r.said.credit }
	if covered() {
		return true
	}
	r.hear()
	return covered()
}

// arrive takes new bytes of s.
func (r *reference) arrive(s *refStream, fresh []byte) {
	s.bytes = append(s.bytes, fresh...)
	r.received += uint64(len(fresh))
	if s.closed != "" {
		r.discard(s)
	}
}

// discard throws away what of s was not read.
func (r *reference) discard(s *refStream) {
	r.consumed += uint64(len(s.bytes) - s.read)
	s.read = len(s.bytes)
}

// finish notes the end of the peer's direction.
func (r *reference) finish(s *refStream, final uint64, why string) {
	s.final, s.known, s.why = final, true, why
	r.settle(s)
}

// settle gives the place of s to another stream when both directions have
// ended. One that is whole keeps it until it was accepted; one that was cut
// before is not given out.
func (r *reference) settle(s *refStream) {
	if !s.over() || s.id%2 == 1 || s.queued && s.why == "EOF" {
		return
	}
	if s.queued {
		s.queued = false
		r.waiting = slices.DeleteFunc(r.waiting, func(w *refStream) bool { return w == s })
		s.closed = "cut"
		r.discard(s)
	}
	r.freed++
}

// charge counts a frame without content.
func (r *reference) charge() {
	r.charges++
	r.weigh()
}

// doubt is for one of which the protocol does not say whether it counts.
func (r *reference) doubt() {
	r.doubts++
	r.weigh()
}

// weigh ends the connection when there were too many of them: surely when there
// were more than the burst and what was earned since the beginning, and perhaps
// from the burst on.
func (r *reference) weigh() {
	if float64(r.charges) > 4096+1024*r.seconds || r.charges+r.doubts > 4096 && r.dead() {
		r.legal = []string{refFlood}
	}
}
