package mux

import (
	"bytes"
	"fmt"
)

// The reference's other side: what the application does with the streams, and
// what the Conn says.

// accept gives out the next stream; nil: there is none.
func (r *reference) accept() *refStream {
	if len(r.waiting) == 0 {
		return nil
	}
	s := r.waiting[0]
	r.waiting = r.waiting[1:]
	s.queued = false
	if s.over() {
		r.freed++
	}
	return s
}

// mine opens a stream for the application.
func (r *reference) mine() *refStream {
	r.opened++
	return r.open(2*r.opened - 1)
}

// take is a read of at most n bytes. When there are none, it says why.
func (r *reference) take(s *refStream, n int) (b []byte, why string) {
	b = s.bytes[s.read:min(len(s.bytes), s.read+n)]
	s.read += len(b)
	r.consumed += uint64(len(b))
	switch {
	case len(b) > 0:
	case s.closed != "":
		why = s.closed
	default:
		why = s.why
	}
	return b, why
}

// close ends what the application has to do with s, because of why. A reset is
// one; it changes nothing of what was closed before.
func (r *reference) close(s *refStream, why string) {
	r.closeWrite(s)
	s.closed = why
	r.discard(s)
}

func (r *reference) closeWrite(s *refStream) {
	if !s.quit {
		s.quit = true
		r.settle(s)
	}
}

func (r *reference) goAway() {
	if !r.away {
		r.away, r.taking = true, r.arrived
	}
}

// listen takes what the Conn says, and gives the first thing that it must not.
func (r *reference) listen(b []byte) error {
	h := &r.said
	h.in = append(h.in, b...)
	if !h.settings {
		body, good := bytes.CutPrefix(h.in, []byte("culvmux\x01\x0c\x00"))
		if !good || len(body) == 0 || len(body) < 1+int(body[0]) {
			return fmt.Errorf("began with % x", h.in)
		}
		body, h.in = body[1:1+body[0]], body[1+body[0]:]
		for _, want := range [][2]uint64{{1, 32768}, {2, r.budget}, {3, r.places}} {
			id, n, _ := refNumber(body)
			value, m, _ := refNumber(body[n:])
			if body = body[n+m:]; id != want[0] || value != want[1] {
				return fmt.Errorf("setting %d is %d, want %v", id, value, want)
			}
		}
		h.settings, h.credit, h.streams = true, r.budget, r.places
	}
	for len(h.in) >= 3 {
		kind, size := h.in[0], int(h.in[1])<<8|int(h.in[2])
		if h.close != "" {
			return fmt.Errorf("said % x after close", h.in)
		}
		if kind > 0x0b || len(h.in) < 3+size {
			return fmt.Errorf("said % x", h.in)
		}
		n, tail, broken := refTakeApart(kind, h.in[3:3+size])
		if broken != nil {
			return fmt.Errorf("said % x, which is %v", h.in[:3+size], broken)
		}
		if err := r.onSaid(kind, n, tail, h.in[3:3+size]); err != nil {
			return err
		}
		h.in = h.in[3+size:]
	}
	if len(h.in) > 0 {
		return fmt.Errorf("said half a frame: % x", h.in)
	}
	return nil
}

// onSaid judges one frame of the Conn's. Credit may be less than there is, but
// never more, and never less than it was.
func (r *reference) onSaid(kind byte, n [3]uint64, tail, body []byte) error {
	h := &r.said
	switch kind {
	case 0x06:
		if n[0] < h.credit || n[0] > r.consumed+r.budget {
			return fmt.Errorf("credit of %d after %d, with %d consumed", n[0], h.credit, r.consumed)
		}
		h.credit = n[0]
	case 0x07:
		if n[0] <= h.streams || n[0] > r.places+r.freed {
			return fmt.Errorf("%d streams after %d, with %d free again", n[0], h.streams, r.freed)
		}
		h.streams = n[0]
	case 0x09:
		h.pong = bytes.Clone(body)
	case 0x0a:
		if !r.away || n[0] != r.taking {
			return fmt.Errorf("go-away after %d streams of %d", n[0], r.taking)
		}
	case 0x0b:
		h.close = fmt.Sprintf("close %d", n[0])
	case 0x00, 0x01, 0x02, 0x03, 0x04:
		s := r.streams[n[0]]
		if s == nil {
			return fmt.Errorf("frame %#02x of stream %d, which nobody opened", kind, n[0])
		}
		if kind == 0x04 && n[1] > uint64(s.read)+r.window {
			return fmt.Errorf("stream %d: credit of %d, with %d read", s.id, n[1], s.read)
		}
		return s.onSaid(kind, n, tail)
	}
	return nil
}

func (s *refStream) onSaid(kind byte, n [3]uint64, tail []byte) error {
	switch kind {
	case 0x00, 0x01, 0x02:
		final := n[1]
		if kind == 2 {
			final = n[2]
		}
		if s.heard.end || final+uint64(len(tail)) > 0 || kind > 0x00 && !s.quit {
			return fmt.Errorf("frame %#02x of stream %d, on which nothing was written", kind, s.id)
		}
		s.heard.open, s.heard.end = true, kind > 0x00
	case 0x03:
		if s.closed == "" {
			return fmt.Errorf("stopped stream %d, which is read", s.id)
		}
	case 0x04:
		if n[1] <= s.limit {
			return fmt.Errorf("stream %d: credit of %d after %d", s.id, n[1], s.limit)
		}
		s.limit = n[1]
	}
	return nil
}

// atRest gives what the Conn should have said by now and has not: a peer that
// keeps the protocol would wait for it.
func (r *reference) atRest() error {
	h := &r.said
	switch {
	case r.stage < 2:
		return nil
	case r.received == h.credit && h.credit < r.consumed+r.budget:
		return fmt.Errorf("no credit, with %d of %d bytes consumed", r.consumed, r.received)
	case r.arrived == h.streams && h.streams < r.places+r.freed && !r.away:
		return fmt.Errorf("no stream, with %d places free", r.freed)
	case !bytes.Equal(r.ping, h.pong):
		return fmt.Errorf("the last ping was % x, the last pong % x", r.ping, h.pong)
	}
	for id, s := range r.live {
		switch {
		case s.over() && s.heard.end:
			delete(r.live, id)
		case s.quit != s.heard.end:
			return fmt.Errorf("stream %d: our end is %v and was said: %v", s.id, s.quit, s.heard.end)
		case s.id%2 == 1 && !s.heard.open && !s.heard.end:
			return fmt.Errorf("stream %d was not announced", s.id)
		case !s.known && s.closed == "" && s.read == len(s.bytes) && s.limit-s.got() < 16384:
			return fmt.Errorf("stream %d: credit for %d bytes, all was read", s.id, s.limit-s.got())
		}
	}
	return nil
}
