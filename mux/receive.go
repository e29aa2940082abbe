package mux

import "io"

// What arrives on streams: whose it is, whether it may come, and the credit
// that is given for more.

// findLocked returns the stream with that id, having opened it if the peer
// may and has not yet; nil means that it has ended and was forgotten.
func (c *Conn) findLocked(id uint64) (*Stream, error) {
	if s := c.streams[id]; s != nil {
		return s, nil
	}
	number := id >> 1
	if id&1 == c.ours {
		if number >= c.opened {
			return nil, violation(CodeProtocol, "stream %d was never opened", id)
		}
		return nil, nil
	}
	if number < c.arrived {
		return nil, nil
	}
	if number >= c.arriveSaid {
		return nil, violation(CodeStreamLimit, "stream %d, at most %d were allowed", id, c.arriveSaid)
	}
	// RFC 9000, section 3.2: opening a stream opens those before it.
	for ; c.arrived <= number; c.arrived++ {
		s := c.addStreamLocked(c.arrived<<1 | c.ours ^ 1)
		s.announced = true
		s.implied = c.arrived < number
		if c.away && c.arrived >= c.takeLimit {
			s.resetLocked(CodeRefused)
			continue
		}
		c.accept.push(s)
		c.acceptable.Signal()
	}
	c.sayStreamsLocked()
	return c.streams[id], nil
}

// admitLocked checks a frame of n bytes of data against every limit. It
// returns the stream, or nil when the bytes are of no use to anybody, and how
// many of the first bytes are known already.
func (c *Conn) admitLocked(id, offset uint64, n int, fin bool) (s *Stream, known int, err error) {
	s, err = c.findLocked(id)
	if s == nil || err != nil {
		return nil, 0, err
	}
	end := offset + uint64(n)
	switch {
	case s.finalKnown && (end > s.final || fin && end != s.final), fin && end < s.received:
		return nil, 0, violation(CodeFinalSize, "stream %d", id)
	case s.finalKnown:
		return nil, 0, c.chargeLocked()
	case offset > s.received:
		return nil, 0, violation(CodeProtocol, "stream %d: a gap from %d to %d", id, s.received, offset)
	case end > s.receiveSaid:
		return nil, 0, violation(CodeFlowControl, "stream %d: %d bytes of %d", id, end, s.receiveSaid)
	}
	known = int(min(s.received-offset, uint64(n)))
	if c.received+uint64(n-known) > c.receiveSaid {
		return nil, 0, violation(CodeFlowControl, "all streams: %d bytes of %d", c.received+uint64(n-known), c.receiveSaid)
	}
	return s, known, nil
}

func (l *Lane) onDataLocked(f frame) error {
	c := l.c
	fin := f.kind == frameDataFin
	arrivedBefore := c.arrived
	s, known, err := c.admitLocked(f.stream, f.offset, len(f.data), fin)
	if s == nil || err != nil {
		return err
	}
	fresh := f.data[known:]
	if len(fresh) == 0 && !fin && c.arrived == arrivedBefore {
		if s.implied { // announced late: streams after it were first
			s.implied = false
			return nil
		}
		return c.chargeLocked() // neither bytes, nor an end, nor a new stream
	}
	c.countLocked(l, s, len(fresh))
	if s.deaf || s.readErr != nil {
		c.consumeLocked(s, len(fresh))
	} else if len(fresh) > 0 {
		s.arrived.put(fresh)
		l.in.wakes(s)
	}
	if fin {
		c.finishLocked(l, s)
	}
	return nil
}

// countLocked notes n new bytes of s, which came over l.
func (c *Conn) countLocked(l *Lane, s *Stream, n int) {
	s.received += uint64(n)
	c.received += uint64(n)
	c.cfg.Pool.add(c, n)
	if c.cfg.Pool != nil && n > 0 {
		c.unread.push(s)
	}
	switch {
	case l != c.main:
		l.busyAt = c.age()
	case c.keeps && c.ours == 0 && c.living == 1:
		if s.incoming.add(n); s.received%lookEvery < uint64(n) && s.incoming.heavy() {
			c.wantLaneLocked(s.received)
		}
	}
	c.returnCreditLocked()
	l.reassureLocked()
}

// reassureLocked tells a peer whose bytes are arriving, and to whom we have
// said nothing for long, that they do. Its ping may be standing in line
// behind them.
func (l *Lane) reassureLocked() {
	c := l.c
	if c.age()-l.wroteAt < reassureAfter {
		return
	}
	l.wroteAt = c.age()
	if c.peer.keep > 0 {
		l.ackDue = true
		l.kickLocked()
	} else {
		c.sayCreditLocked()
	}
}

// sayCreditLocked tells the peer the session's limit as it is by now. There is
// one place for that in the next batch: a peer that does not read cannot make
// us pile up more.
func (c *Conn) sayCreditLocked() {
	c.receiveSaid = c.consumed + c.cfg.budget()
	c.credit = true
	c.main.kickLocked()
}

// finishLocked notes that the peer sends no more on s.
func (c *Conn) finishLocked(l *Lane, s *Stream) {
	s.final, s.finalKnown = s.received, true
	if s.readErr == nil {
		s.readErr = io.EOF
	}
	l.in.wakes(s)
	c.settleLocked(s)
}

// onResetLocked notes that the peer's direction of s was cut at final. What
// arrived can still be read, as after a reset of TCP: it may be the answer that
// a service gave before it hung up. What will never arrive is settled: RFC
// 9000, section 4.5.
func (l *Lane) onResetLocked(s *Stream, code Code, final uint64) error {
	c := l.c
	switch {
	case s.finalKnown && final != s.final, final < s.received:
		return violation(CodeFinalSize, "stream %d", s.id)
	case s.finalKnown:
		return c.chargeLocked()
	case final > s.receiveSaid || final-s.received > c.receiveSaid-c.received:
		return violation(CodeFlowControl, "stream %d was reset at %d", s.id, final)
	}
	rest := int(final - s.received)
	c.countLocked(l, s, rest)
	c.consumeLocked(s, rest)
	if s.readErr == nil {
		s.readErr = &StreamError{Code: code, Remote: true}
	}
	s.final, s.finalKnown = final, true
	l.in.wakes(s)
	c.settleLocked(s)
	return nil
}

func (c *Conn) onStreamCreditLocked(s *Stream, limit uint64) {
	if limit <= s.sendLimit {
		return
	}
	s.sendLimit = limit
	c.queueLocked(s)
}

func (c *Conn) onGoAwayLocked(take uint64) error {
	if c.peerAway {
		return c.chargeLocked()
	}
	if take > c.opened {
		return violation(CodeProtocol, "go-away after %d streams of %d", take, c.opened)
	}
	c.peerAway = true
	close(c.gone)
	c.changed.Broadcast()
	return nil
}

// consumeLocked notes that n bytes of s have been read or thrown away, and
// returns their credit.
func (c *Conn) consumeLocked(s *Stream, n int) {
	s.consumed += uint64(n)
	c.consumed += uint64(n)
	c.cfg.Pool.add(c, -n)
	if c.cfg.Pool != nil && s.arrived.size == 0 {
		c.unread.remove(s)
	}
	c.returnCreditLocked()
	c.offerCreditLocked(s)
}

// returnCreditLocked tells the peer how much it may send on all streams. A
// quarter of the budget is worth a frame; less is, when the peer has not even
// that left because others hold the rest. So it is asked when bytes are
// consumed and also when they arrive.
func (c *Conn) returnCreditLocked() {
	budget := c.cfg.budget()
	if c.consumed+budget-c.receiveSaid >= min(budget/4, max(1, c.receiveSaid-c.received)) {
		c.sayCreditLocked()
	}
}

// onBlockedLocked notes that the peer waits for credit.
func (c *Conn) onBlockedLocked(s *Stream, at uint64) {
	s.heldUp, s.heldUpAt, s.isHeldUp = c.age(), at, true
	c.offerCreditLocked(s)
}

// worthCredit is how much credit of a stream is worth a frame, however large
// its window.
const worthCredit = 256 << 10

// offerCreditLocked gives the peer credit for more of s, once there is enough
// of it to be worth a frame: half a window, or less of a large one, because
// what was not said yet is missing from what can be under way.
func (c *Conn) offerCreditLocked(s *Stream) {
	if s.finalKnown || s.deaf || s.readErr != nil {
		return
	}
	if s.arrived.size == 0 && s.isHeldUp {
		c.growLocked(s)
	}
	if s.consumed+s.window-s.receiveSaid >= min(s.window/2, max(worthCredit, s.window/8)) {
		s.receiveSaid = s.consumed + s.window
		c.crediting.push(s)
		c.main.kickLocked()
	}
}

// growLocked widens the window of s if the peer had to wait for credit while
// the reader was quick: then the window, and not the reader, sets the pace.
func (c *Conn) growLocked(s *Stream) {
	s.isHeldUp = false
	if c.age()-s.heldUp > max(c.main.rtt, promptRead) || c.cfg.Pool.half() {
		return
	}
	left := c.cfg.budget() - min(c.cfg.budget(), c.windows)
	more := min(3*s.window, left, c.cfg.streamWindow()-min(c.cfg.streamWindow(), s.window))
	s.window += more
	c.windows += more
}
