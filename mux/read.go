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

// readLoop handles frames until the Conn ends.
func (c *Conn) readLoop() {
	defer c.wg.Done()
	err := c.readFrames()
	ours, _ := errors.AsType[*ConnError](err)
	if ours == nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // a connection ends with frameClose
		}
		err = fmt.Errorf("mux: connection lost: %w", err)
	}
	c.fail(err)
	if ours != nil && !ours.Remote {
		io.Copy(io.Discard, c.conn) // until the peer has heard why, or for closeTime
	}
	c.closeConn()
	c.in.release()
	c.mu.Lock()
	c.cut.Stop()
	c.mu.Unlock()
}

func (c *Conn) readFrames() error {
	if err := c.in.need(len(preface)); err != nil {
		return err
	}
	if got := c.in.buffered()[:len(preface)]; string(got) != preface {
		return violation(CodeVersion, "the peer began with %q, not with %q", got, preface)
	}
	c.in.skip(len(preface))
	if err := c.readSettings(); err != nil {
		return err
	}
	for {
		if err := c.in.need(frameHeader); err != nil {
			return err
		}
		if err := c.handleBuffered(); err != nil {
			return err
		}
		if len(c.in.buffered()) < frameHeader {
			continue
		}
		// What is left begins with a frame that is not all there.
		kind, size := c.in.header()
		if err := checkHeader(kind, size); err != nil {
			return err
		}
		missing := frameHeader + size - len(c.in.buffered())
		var err error
		if kind <= frameDataFin && missing > bigPayload {
			err = c.readBig(kind, size)
		} else {
			err = c.in.need(frameHeader + size)
		}
		if err != nil {
			return err
		}
	}
}

// readSettings reads the frame that must come first.
func (c *Conn) readSettings() error {
	if err := c.in.need(frameHeader); err != nil {
		return err
	}
	kind, size := c.in.header()
	if kind != frameSettings {
		return violation(CodeProtocol, "the first frame is of type %#02x, not settings", kind)
	}
	if err := checkHeader(kind, size); err != nil {
		return err
	}
	if err := c.in.need(frameHeader + size); err != nil {
		return err
	}
	said, err := parseSettings(c.in.buffered()[frameHeader : frameHeader+size])
	if err != nil {
		return err
	}
	c.in.skip(frameHeader + size)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.peer = said
	c.sendLimit = max(c.sendLimit, said.credit)
	c.openLimit = max(c.openLimit, said.streams)
	for _, s := range c.streams {
		c.onStreamCreditLocked(s, said.streamCredit)
	}
	c.changed.Broadcast()
	c.kickLocked()
	return nil
}

// handleBuffered handles every frame that is in the buffer as a whole, and
// wakes those who wait for what was in them once the lock is free.
func (c *Conn) handleBuffered() error {
	c.mu.Lock()
	var err error
	for err == nil && len(c.in.buffered()) >= frameHeader {
		kind, size := c.in.header()
		if err = checkHeader(kind, size); err != nil {
			break
		}
		b := c.in.buffered()
		if len(b) < frameHeader+size {
			break
		}
		var f frame
		if f, err = parseFrame(kind, b[frameHeader:frameHeader+size]); err == nil {
			err = c.handleLocked(f)
		}
		c.in.skip(frameHeader + size)
	}
	c.mu.Unlock()
	c.in.wakeReaders()
	c.cfg.Pool.squeeze()
	return err
}

// readBig reads a frame of data whose payload is mostly still to come.
func (c *Conn) readBig(kind byte, size int) error {
	if err := c.in.need(frameHeader + min(size, maxPrefix)); err != nil {
		return err
	}
	b := c.in.buffered()
	id, offset, prefix, err := parseDataPrefix(b[frameHeader:min(len(b), frameHeader+size)])
	if err != nil {
		return err
	}
	c.in.skip(frameHeader + prefix)
	n := size - prefix
	if n > maxPayload {
		return violation(CodeFrameSize, "%d bytes of data in a frame", n)
	}
	var s *Stream
	var known int
	c.mu.Lock()
	if c.err == nil {
		s, known, err = c.admitLocked(id, offset, n, kind == frameDataFin)
	}
	c.mu.Unlock()
	switch {
	case err != nil:
		return err
	case s == nil:
		return c.in.discard(n)
	}
	if err := c.in.discard(known); err != nil {
		return err
	}
	k := newChunk(n - known)
	k.w = n - known
	if err := c.readPayload(k.buf[:k.w]); err != nil {
		k.free()
		return err
	}
	c.mu.Lock()
	if c.err != nil { // the Conn has ended meanwhile, and left the Pool
		c.mu.Unlock()
		k.free()
		return nil
	}
	c.countLocked(s, k.w)
	switch {
	case s.deaf || s.readErr != nil:
		c.consumeLocked(s, k.w)
		k.free()
	case k.w < bigPayload: // most of it was known: hold no chunk for the rest
		s.arrived.put(k.buf[:k.w])
		k.free()
		c.in.wakes(s)
	default:
		s.arrived.putChunk(k)
		c.in.wakes(s)
	}
	if kind == frameDataFin {
		c.finishLocked(s)
	} else if n == known {
		err = c.chargeLocked()
	}
	c.mu.Unlock()
	c.in.wakeReaders()
	c.cfg.Pool.squeeze()
	c.in.expectBig()
	return err
}

// readPayload fills p, however slowly it comes.
func (c *Conn) readPayload(p []byte) error {
	for since := c.age(); len(p) > 0; {
		n, err := c.in.read(p)
		if p = p[n:]; err != nil && len(p) > 0 {
			return err
		}
		if now := c.age(); now-since > reassureAfter {
			since = now
			c.mu.Lock()
			c.reassureLocked()
			c.mu.Unlock()
		}
	}
	return nil
}

func (c *Conn) handleLocked(f frame) error {
	if c.err != nil && f.kind != frameClose {
		return nil // the Conn has ended; this is to hear that the peer's has
	}
	switch f.kind {
	case frameData, frameDataFin:
		return c.onDataLocked(f)
	case framePing:
		c.pong, c.pongValue = true, f.value
		c.kickLocked()
		return c.chargeLocked()
	case framePong:
		return c.onPongLocked(f.value)
	case frameCredit:
		if f.value <= c.sendLimit {
			return c.chargeLocked()
		}
		c.sendLimit = f.value
		c.kickLocked()
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
		return &ConnError{Code: Code(f.value), Remote: true, Reason: printable(f.data)}
	case frameSettings:
		return violation(CodeProtocol, "settings stand twice")
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
		return c.onResetLocked(s, Code(f.value), f.offset)
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
