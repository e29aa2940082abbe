package mux

import (
	"slices"
	"sync"
	"time"
)

// keeper is what a Lane keeps to send it again, and what it has taken of what
// the peer keeps. Its fields are guarded by Conn.mu.
type keeper struct {
	sent    uint64   // bytes of all batches, up to the one that leaves next
	acked   uint64   // of those, bytes that the peer has taken
	kept    []*batch // from acked on, the oldest first
	writing *batch   // the one in a Write of the net.Conn
	spare   []*batch // that were kept, the one used last at the end: still in a cache of the processor
	again   []*batch // of lanes that have ended: to be sent before all else of the same streams
	asking  bool     // a ping will be sent soon, for its acknowledgement

	taken   uint64 // bytes of the peer's frames that were handled
	ackSaid uint64 // of those, bytes of which it knows
	ackDue  bool
}

const (
	// smallBatch is a batch that is copied to the end of what is kept already,
	// so that a trickle does not keep a buffer for every drop.
	smallBatch = 4 << 10

	// maxGather bounds the buffers for that.
	maxGather = 32 << 10

	// ackAlong is how much must have been taken to be acknowledged with
	// whatever leaves anyway.
	ackAlong = 16 << 10

	// keepMore is how much more than twice of what may be kept makes a peer
	// one that does not acknowledge.
	keepMore = 64 * maxRoom

	// maxSpare is how many buffers a busy lane holds on to.
	maxSpare = 8

	// ackParts is into how many parts acknowledgements divide what the peer
	// can keep, if nothing leaves that could take them along.
	ackParts = 64
)

// keepLocked keeps a batch that is about to be written.
func (l *Lane) keepLocked(b *batch) error {
	c := l.c
	b.start = l.sent
	l.sent += uint64(len(b.b))
	l.writing = b
	if !c.keeps || c.err != nil {
		b.copied = true
		return nil
	}
	if b.copied = l.gatherKeptLocked(b); !b.copied {
		l.kept = append(l.kept, b)
		c.keptLocked(cap(b.b))
	}
	// Data waits when there is no room. What does not wait is caused by the
	// peer, which has to acknowledge it.
	if c.kept > 2*c.cfg.keep()+keepMore {
		return violation(CodeFlood, "%d bytes were sent and not acknowledged", c.kept)
	}
	return nil
}

// gatherKeptLocked copies a batch that is small, or leaves most of its buffer
// empty, behind others of the kind, and reports whether it did. They are apart
// from what is large, which would be kept as long as anything stands behind it:
// while both ends talk about what they have there always is something.
func (l *Lane) gatherKeptLocked(b *batch) bool {
	if len(b.b) > maxGather || len(b.b) >= smallBatch && len(b.b) >= cap(b.b)/4 {
		return false
	}
	if n := len(l.kept); n > 0 {
		if last := l.kept[n-1]; last.gathers && cap(last.b)-len(last.b) >= len(b.b) {
			last.b = append(last.b, b.b...)
			return true
		}
	}
	if b.gathers = cap(b.b) <= smallBatch; b.gathers {
		return false
	}
	k := newGathering(len(b.b))
	k.b, k.start = append(k.b, b.b...), b.start
	l.kept = append(l.kept, k)
	l.c.keptLocked(cap(k.b))
	return true
}

// gatherings are buffers for small batches: for drops, and for a busy trickle.
var gatherings = [...]sync.Pool{
	{New: func() any { return &batch{b: make([]byte, 0, smallBatch)} }},
	{New: func() any { return &batch{b: make([]byte, 0, maxGather)} }},
}

// newGathering returns a buffer for a batch of n bytes, n ≤ maxGather, and
// others of its kind.
func newGathering(n int) *batch {
	pool := &gatherings[0]
	if n > smallBatch/4 {
		pool = &gatherings[1]
	}
	k := pool.Get().(*batch)
	k.gathers, k.home = true, pool
	return k
}

// writtenLocked notes that b has been written.
func (l *Lane) writtenLocked(b *batch) {
	l.writing = nil
	if b.copied || b.start+uint64(len(b.b)) <= l.acked {
		b.free()
	}
}

// dropLocked lets go of a batch that was kept.
func (l *Lane) dropLocked(b *batch) {
	l.c.keptLocked(-cap(b.b))
	switch {
	case b == l.writing: // it is still read from; writtenLocked frees it
	case b.home == nil && len(l.spare) < maxSpare && l.err == nil && l.c.err == nil:
		*b = batch{b: b.b[:0]}
		l.spare = append(l.spare, b)
	default:
		b.free()
	}
}

// freeSpareLocked is for a lane that needs no buffers for a while.
func (l *Lane) freeSpareLocked() {
	for _, b := range l.spare {
		b.free()
	}
	l.spare = nil
}

// roomLocked reports whether more data may be sent: what we have sent can be
// kept.
func (c *Conn) roomLocked() bool {
	return !c.keeps || c.kept < c.cfg.keep() && (c.kept < poolShare/4 || !c.cfg.Pool.half())
}

// takeLocked notes that a frame of n bytes was handled, and lets the peer know
// now and then.
func (l *Lane) takeLocked(n int) {
	l.taken += uint64(n)
	if keep := l.c.peer.keep; keep > 0 && l.taken-l.ackSaid >= max(ackAlong, keep/ackParts) && !l.ackDue {
		l.ackDue = true
		l.kickLocked()
	}
}

// gatherAckLocked puts an acknowledgement into the batch that leaves next, if it
// is due, or if there is something to say and the batch leaves anyway.
func (l *Lane) gatherAckLocked(ponging bool) {
	fresh := l.taken - l.ackSaid
	if l.c.peer.keep == 0 || !l.ackDue && (fresh == 0 || !ponging && (fresh < ackAlong || l.out == nil)) {
		return
	}
	l.ackDue = false
	l.ackSaid = l.taken
	l.controlLocked(frame{kind: frameAck, value: l.taken})
}

func (l *Lane) onAckLocked(taken uint64) error {
	c := l.c
	switch {
	case !c.keeps || taken > l.sent:
		return violation(CodeProtocol, "%d bytes of %d were acknowledged", taken, l.sent)
	case taken <= l.acked:
		return c.chargeLocked()
	}
	l.ackedLocked(taken)
	c.words = slices.DeleteFunc(c.words, func(w word) bool { return w.over == l && w.at <= taken })
	c.moveLocked(l)
	c.kickWaitingLocked()
	return nil
}

// kickWaitingLocked wakes the writers of streams that waited until less was
// kept.
func (c *Conn) kickWaitingLocked() {
	if !c.roomLocked() {
		return
	}
	for _, l := range c.all {
		if l.waitingLocked() {
			l.kickLocked()
		}
	}
}

func (l *Lane) waitingLocked() bool { return !l.light.empty() || !l.heavy.empty() }

// askLocked asks the peer to acknowledge what it has, if data waits for that:
// what is little, measured by what we can keep at other times, it says only
// along with something else, such as the answer to a ping.
func (c *Conn) askLocked() {
	if c.err != nil || c.sent >= c.sendLimit || c.roomLocked() || !slices.ContainsFunc(c.all, (*Lane).waitingLocked) {
		return
	}
	for _, l := range c.all {
		l.askLocked()
	}
}

func (l *Lane) askLocked() {
	c := l.c
	pause := pingPace - (c.age() - l.pongAt)
	switch {
	case l.pinging || l.asking || l.err != nil || len(l.kept) == 0:
	case pause <= 0:
		l.startPingLocked()
	default:
		l.asking = true
		time.AfterFunc(pause, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			l.asking = false
			c.askLocked()
		})
	}
}

// ackedLocked lets go of what the peer has.
func (l *Lane) ackedLocked(taken uint64) {
	l.acked = taken
	n := 0
	for ; n < len(l.kept) && l.kept[n].start+uint64(len(l.kept[n].b)) <= taken; n++ {
		l.dropLocked(l.kept[n])
		l.kept[n] = nil
	}
	if l.kept = l.kept[n:]; len(l.kept) == 0 {
		l.kept = nil
	}
}

// resolveLocked is for a lane that both ends have given up, once the peer has
// said how much it took of it. What is missing goes to the main lane.
func (l *Lane) resolveLocked(taken uint64) error {
	c := l.c
	if taken > l.sent || taken < l.acked {
		return violation(CodeProtocol, "%d bytes of lane %d, of %d, after %d", taken, l.number, l.sent, l.acked)
	}
	if l.loseLocked(errLeft); c.err != nil { // it was the last that a Conn waited for whose peer has said close
		return nil
	}
	l.ackedLocked(taken)
	missing := l.kept
	if l.out != nil { // what has gathered since: it was never sent
		l.out.start = l.sent
		missing = append(missing, l.out)
		c.keptLocked(cap(l.out.b))
		l.out = nil
	}
	for i, b := range missing {
		if b == l.writing { // the writer has not noticed yet, and frees it
			missing[i] = &batch{b: append([]byte(nil), b.b...), start: b.start}
			c.keptLocked(cap(missing[i].b) - cap(b.b))
			b.copied = true
		}
		b = missing[i]
		if from := max(taken, uint64(len(preface))); from > b.start {
			b.at = int(from - b.start)
		}
		if !c.countAgainLocked(b) {
			return violation(CodeProtocol, "%d bytes of lane %d are not whole frames", taken, l.number)
		}
	}
	c.main.again = append(append(c.main.again, missing...), l.again...)
	l.kept, l.again = nil, nil
	for _, s := range c.streams {
		if s.lane == l {
			s.takeLaneLocked(c.main)
			c.queueLocked(s)
		}
	}
	c.main.kickLocked()
	c.kickWaitingLocked()
	return nil
}

// keepNothingLocked is for a peer that keeps nothing: the Conn ends with its
// only lane.
func (c *Conn) keepNothingLocked() {
	c.keeps = false
	for _, b := range c.main.kept {
		c.main.dropLocked(b)
	}
	c.main.kept = nil
}

// keptLocked notes that n bytes more are kept.
func (c *Conn) keptLocked(n int) {
	c.kept += uint64(n)
	c.cfg.Pool.keep(n)
}

// countAgainLocked makes the streams of b's frames, from b.at on, wait until
// those were sent. It reports false if b.at is no border of two frames: behind
// it may stand anything, which somebody has written into a stream.
func (c *Conn) countAgainLocked(b *batch) bool {
	at := 0
	if b.start == 0 {
		at = len(preface)
	}
	for at < len(b.b) {
		kind, body, ok := frameAt(b.b[at:])
		next := at + frameHeader + len(body)
		if !ok || at < b.at && b.at < next {
			return false
		}
		if id, ordered := orderedFrame(kind, body); ordered && at >= b.at {
			if s := c.streams[id]; s != nil {
				s.again++
			}
		}
		at = next
	}
	return true
}

// sendAgainLocked puts frames of lanes that have ended into the next batch, as
// far as there is room.
func (l *Lane) sendAgainLocked() {
	for len(l.again) > 0 && l.lenLocked() < l.room {
		b := l.again[0]
		if b.at >= len(b.b) {
			l.again[0] = nil
			l.again = l.again[1:]
			l.dropLocked(b)
			continue
		}
		kind, body, _ := frameAt(b.b[b.at:])
		whole := b.b[b.at : b.at+frameHeader+len(body)]
		b.at += len(whole)
		l.resendLocked(kind, body, whole)
	}
	if len(l.again) == 0 {
		l.again = nil
	}
}

func (l *Lane) resendLocked(kind byte, body, whole []byte) {
	c := l.c
	if !c.stillTrueLocked(kind, body) {
		return
	}
	out := l.outLocked()
	out.b = append(out.b, whole...)
	id, ordered := orderedFrame(kind, body)
	if !ordered {
		return
	}
	if s := c.streams[id]; s != nil {
		s.sentAt = l.sent + uint64(len(out.b))
		if s.again--; s.again == 0 {
			c.queueLocked(s)
		}
	}
}

// stillTrueLocked reports whether a frame need be said again. What was said of
// a lane is no longer, and of credit only the last word counts.
func (c *Conn) stillTrueLocked(kind byte, body []byte) bool {
	switch kind {
	case framePing, framePong, frameAck, frameLane, frameLeave:
		return false
	}
	f, _ := parseFrame(kind, body)
	switch kind {
	case frameCredit:
		return f.value == c.receiveSaid
	case frameStreams:
		return f.value == c.arriveSaid
	case frameStreamCredit:
		s := c.streams[f.stream]
		return s != nil && s.receiveSaid == f.value
	}
	return true
}

// frameAt takes a frame of ours from the front of b, the preface aside.
func frameAt(b []byte) (kind byte, body []byte, ok bool) {
	if len(b) < frameHeader {
		return 0, nil, false
	}
	n := int(b[1])<<8 | int(b[2])
	if len(b) < frameHeader+n {
		return 0, nil, false
	}
	return b[0], b[frameHeader : frameHeader+n], true
}

// orderedFrame reports whether a frame has its place among those of a stream's
// data, and which stream's that is.
func orderedFrame(kind byte, body []byte) (id uint64, ordered bool) {
	switch kind {
	case frameData, frameDataFin, frameReset, frameBlocked:
		p := parser{rest: body}
		return p.varint(), true
	}
	return 0, false
}

// orderedLocked sends a frame of s that must not overtake its data.
func (c *Conn) orderedLocked(s *Stream, f frame) {
	l := s.lane
	if c.err != nil {
		return
	}
	if s.again == 0 {
		l.controlLocked(f)
		s.sentAt = l.sent + uint64(l.lenLocked())
		return
	}
	last := l.again[len(l.again)-1] // there is one: s waits for it
	before := cap(last.b)
	last.b = appendFrame(last.b, f)
	c.keptLocked(cap(last.b) - before)
	s.again++
}

// deliveredLocked reports whether the peer is known to have all that s sent.
func (s *Stream) deliveredLocked() bool { return s.again == 0 && s.sentAt <= s.lane.acked }

// takeLaneLocked makes s send over l from now on.
func (s *Stream) takeLaneLocked(l *Lane) {
	s.conn.unqueueLocked(s)
	s.lane, s.sentAt, s.frameBatch = l, 0, noBatch
}

// noBatch is the number of no batch.
const noBatch = ^uint64(0)
