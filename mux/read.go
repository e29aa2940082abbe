package mux

import (
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	// floodBurst and floodRate bound the frames without content that a peer
	// may send: so many at once, and so many a second.
	floodBurst = 4096
	floodRate  = 1024

	// bigPayload is how much payload must be missing from the buffer to be
	// read into its chunk without a copy between.
	bigPayload = 4 << 10

	// promptRead is how quickly a reader has to be done for the window, and
	// not the reader, to be what holds up the peer, where the round trip is
	// shorter than this.
	promptRead = 5 * time.Millisecond

	// reassureAfter is how long a peer that sends is left without a word.
	reassureAfter = time.Second
)

// readLoop handles frames until the lane or the Conn ends.
func (l *Lane) readLoop() {
	defer l.ended()
	c := l.c
	err := l.readFrames()
	ours, _ := errors.AsType[*ConnError](err)
	if ours != nil {
		c.fail(ours)
	} else {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // a connection ends with frameClose
		}
		l.lose(fmt.Errorf("mux: connection lost: %w", err))
	}
	if ours != nil && !ours.Remote {
		io.Copy(io.Discard, l.conn) // until the peer has heard why, or for closeTime
	}
	l.closeConn()
	l.in.release()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.readers--; c.readers == 0 && c.cut != nil {
		c.cut.Stop()
	}
}

func (l *Lane) lose(err error) {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	l.loseLocked(err)
}

func (l *Lane) readFrames() error {
	if err := l.in.need(len(preface)); err != nil {
		return err
	}
	if got := l.in.buffered()[:len(preface)]; string(got) != preface {
		return violation(CodeVersion, "the peer began with %q, not with %q", got, preface)
	}
	l.in.skip(len(preface))
	if err := l.readFirst(); err != nil {
		return err
	}
	for {
		if err := l.in.need(frameHeader); err != nil {
			return err
		}
		if err := l.handleBuffered(); err != nil {
			return err
		}
		if len(l.in.buffered()) < frameHeader {
			continue
		}
		// What is left begins with a frame that is not all there.
		kind, size := l.in.header()
		if err := checkHeader(kind, size); err != nil {
			return err
		}
		missing := frameHeader + size - len(l.in.buffered())
		var err error
		if kind <= frameDataFin && missing > bigPayload {
			err = l.readBig(kind, size)
		} else {
			err = l.in.need(frameHeader + size)
		}
		if err != nil {
			return err
		}
	}
}

// readFirst reads the frame that must come first: settings on the lane with
// which the Conn began, and the lane's number on all others.
func (l *Lane) readFirst() error {
	if err := l.in.need(frameHeader); err != nil {
		return err
	}
	want := byte(frameSettings)
	if l.number > 0 {
		want = frameLane
	}
	kind, size := l.in.header()
	if kind != want {
		return violation(CodeProtocol, "the first frame is of type %#02x, not %#02x", kind, want)
	}
	if err := checkHeader(kind, size); err != nil {
		return err
	}
	if err := l.in.need(frameHeader + size); err != nil {
		return err
	}
	f, err := parseFrame(kind, l.in.buffered()[frameHeader:frameHeader+size])
	if err != nil {
		return err
	}
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.err != nil { // the peer knows, or will, that we took nothing
		return errLeave
	}
	if kind == frameSettings {
		err = c.onSettingsLocked(f.data)
	} else if f.value != l.number {
		err = violation(CodeProtocol, "lane %d of the peer is our lane %d", f.value, l.number)
	}
	l.in.skip(frameHeader + size)
	l.takeLocked(len(preface) + frameHeader + size)
	return err
}

func (c *Conn) onSettingsLocked(body []byte) error {
	said, err := parseSettings(body)
	if err != nil {
		return err
	}
	c.peer, c.introduced = said, true
	if !c.keeps {
		c.peer.keep = 0 // it will see that we keep nothing, and do neither
	} else if said.keep == 0 {
		c.keepNothingLocked()
	}
	c.sendLimit = max(c.sendLimit, said.credit)
	c.openLimit = max(c.openLimit, said.streams)
	for _, s := range c.streams {
		c.onStreamCreditLocked(s, said.streamCredit)
	}
	c.changed.Broadcast()
	c.main.kickLocked()
	return nil
}

// handleBuffered handles every frame that is in the buffer as a whole, and
// wakes those who wait for what was in them once the lock is free.
func (l *Lane) handleBuffered() error {
	c := l.c
	c.mu.Lock()
	var err error
	for err == nil && len(l.in.buffered()) >= frameHeader {
		kind, size := l.in.header()
		if err = checkHeader(kind, size); err != nil {
			break
		}
		b := l.in.buffered()
		if len(b) < frameHeader+size {
			break
		}
		if l.err != nil { // the peer knows, or will, that we took nothing more
			err = errLeave
			break
		}
		var f frame
		if f, err = parseFrame(kind, b[frameHeader:frameHeader+size]); err == nil {
			err = l.handleLocked(f)
		}
		l.in.skip(frameHeader + size)
		l.takeLocked(frameHeader + size)
	}
	c.mu.Unlock()
	l.in.wakeReaders()
	c.cfg.Pool.squeeze()
	return err
}

// readBig reads a frame of data whose payload is mostly still to come.
func (l *Lane) readBig(kind byte, size int) error {
	if err := l.in.need(frameHeader + min(size, maxPrefix)); err != nil {
		return err
	}
	b := l.in.buffered()
	id, offset, prefix, err := parseDataPrefix(b[frameHeader:min(len(b), frameHeader+size)])
	if err != nil {
		return err
	}
	l.in.skip(frameHeader + prefix)
	n := size - prefix
	if n > maxPayload {
		return violation(CodeFrameSize, "%d bytes of data in a frame", n)
	}
	c := l.c
	var s *Stream
	var known int
	c.mu.Lock()
	if c.err == nil && l.err == nil {
		s, known, err = c.admitLocked(id, offset, n, kind == frameDataFin)
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if s == nil {
		if err := l.in.discard(n); err != nil {
			return err
		}
		c.mu.Lock()
		l.takeLocked(frameHeader + size)
		c.mu.Unlock()
		return nil
	}
	if err := l.in.discard(known); err != nil {
		return err
	}
	k := newChunk(n - known)
	k.w = n - known
	if err := l.readPayload(k.buf[:k.w]); err != nil {
		k.free()
		return err
	}
	err = l.takeBig(k, kind, size, id, offset, n)
	l.in.wakeReaders()
	c.cfg.Pool.squeeze()
	l.in.expectBig()
	return err
}

// takeBig takes the payload of a frame, n bytes at offset, of which k are the
// last. k is its own from here on.
func (l *Lane) takeBig(k *chunk, kind byte, size int, id, offset uint64, n int) error {
	c, fin := l.c, kind == frameDataFin
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.err != nil { // what we took of the lane has been said, and this is not of it
		k.free()
		return errLeave
	}
	if c.err != nil { // the Conn has ended meanwhile, and left the Pool
		k.free()
		return nil
	}
	l.takeLocked(frameHeader + size)
	// It was admitted before it came. Meanwhile another lane may have brought
	// the same, or used up the credit.
	s, known, err := c.admitLocked(id, offset, n, fin)
	if s == nil || err != nil {
		k.free()
		return err
	}
	k.r += known - (n - k.w)
	fresh := k.w - k.r
	c.countLocked(l, s, fresh)
	switch {
	case s.deaf || s.readErr != nil:
		c.consumeLocked(s, fresh)
		k.free()
	case fresh < bigPayload: // most of it was known: hold no chunk for the rest
		s.arrived.put(k.buf[k.r:k.w])
		k.free()
		l.in.wakes(s)
	default:
		s.arrived.putChunk(k)
		l.in.wakes(s)
	}
	if fin {
		c.finishLocked(l, s)
	} else if fresh == 0 {
		return c.chargeLocked()
	}
	return nil
}

// readPayload fills p, however slowly it comes.
func (l *Lane) readPayload(p []byte) error {
	c := l.c
	for since := c.age(); len(p) > 0; {
		n, err := l.in.read(p)
		if p = p[n:]; err != nil && len(p) > 0 {
			return err
		}
		if now := c.age(); now-since > reassureAfter {
			since = now
			c.mu.Lock()
			l.reassureLocked()
			c.mu.Unlock()
		}
	}
	return nil
}

func (l *Lane) handleLocked(f frame) error {
	c := l.c
	if c.err != nil && f.kind != frameClose {
		return nil // the Conn has ended; this is to hear that the peer's has
	}
	switch f.kind {
	case frameData, frameDataFin:
		return l.onDataLocked(f)
	case framePing:
		l.pong, l.pongValue = true, f.value
		l.kickLocked()
		return c.chargeLocked()
	case framePong:
		return l.onPongLocked(f.value)
	case frameCredit:
		if f.value <= c.sendLimit {
			return c.chargeLocked()
		}
		c.sendLimit = f.value
		for _, l := range c.all {
			l.kickLocked()
		}
		return nil
	case frameStreams:
		if f.value <= c.openLimit {
			return c.chargeLocked()
		}
		c.openLimit = f.value
		c.changed.Broadcast()
		return nil
	case frameGoAway:
		return c.onGoAwayLocked(f.value)
	case frameClose:
		return c.onCloseLocked(l, &ConnError{Code: Code(f.value), Remote: true, Reason: printable(f.data)})
	case frameSettings:
		if c.introduced {
			return violation(CodeProtocol, "settings stand twice")
		}
		return c.onSettingsLocked(f.data) // sent again: the first lane ended before they arrived
	case frameLane:
		return violation(CodeProtocol, "a lane has one number, and says it first")
	case frameAck:
		return l.onAckLocked(f.value)
	case frameLeave:
		return l.onLeaveLocked(f.stream, f.value)
	}
	if f.kind >= frameExtension {
		return c.chargeLocked()
	}
	s, err := c.findLocked(f.stream)
	if s == nil || err != nil {
		return err
	}
	switch f.kind {
	case frameStreamCredit:
		if f.value <= s.sendLimit {
			return c.chargeLocked()
		}
		c.onStreamCreditLocked(s, f.value)
	case frameBlocked:
		if f.value <= s.heldUpAt || f.value > s.received { // said before, or made up
			return c.chargeLocked()
		}
		c.onBlockedLocked(s, f.value)
	case frameStop:
		if s.stopped {
			return c.chargeLocked()
		}
		s.stopped = true
		code := Code(f.value)
		s.cutWriteLocked(code, &StreamError{Code: code, Remote: true})
	case frameReset:
		return l.onResetLocked(s, Code(f.value), f.offset)
	}
	return nil
}

// chargeLocked counts a frame that carried nothing, and ends the Conn when
// there are too many of them.
func (c *Conn) chargeLocked() error {
	const each = time.Second / floodRate
	earned := (c.age() - c.allowedAt) / each
	c.allowedAt += earned * each
	c.allowance = int(min(floodBurst, time.Duration(c.allowance)+earned))
	if c.allowance == 0 {
		return violation(CodeFlood, "more than %d frames without content", floodBurst)
	}
	c.allowance--
	return nil
}

// printable makes a peer's text fit for a log.
func printable(b []byte) string {
	out := make([]rune, 0, len(b))
	for _, r := range string(b) {
		if r < ' ' || r == 0x7f || r == '\ufffd' {
			r = '?'
		}
		out = append(out, r)
	}
	return string(out)
}
