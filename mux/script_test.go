package mux

import (
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The flags that a script begins with.
const (
	flagRaw         = 1 << iota // neither preface nor settings are sent for it
	flagManyStreams             // 64 instead of 16: enough to use up the connection's credit
	flagEndWithData             // the last bytes come together with the end
)

// steps are the letters of a script; any other byte means one of them as well.
//
//	d e   data, and with the end: stream, offset, length
//	z     reset: stream, code, final offset
//	s     stop: stream, code
//	k b   stream credit and blocked: stream, offset
//	m n   credit and streams: number
//	i o   ping and pong: number
//	g     go-away: number
//	q     close: code, length of the text
//	t     settings: how many pairs, of id and value
//	x     a frame of any type: type, length
//	h     the header of one: type, length in two bytes
//	r     raw bytes: how many, and those
//	F     all that a stream has credit for: stream
//	l     the next frame's numbers are spelled in so many bytes at least
//	y w   the next frame lacks, or has more, so many bytes at its end
//
//	A O   the application accepts a stream, opens one,
//	R     reads: which of those it has, from the last one back, and length
//	C W   closes, closes for writing: which
//	X     resets: which, code, which is a length
//	G     goes away
//	T     time passes: in tenths of a second
//	|     nothing, but all that was sent is handled
//	c     what is sent from here on is read in pieces of that length; 0: whole
//	( )   what is between is repeated: how often, in two bytes
//
// After byte 64 a stream is relative to those that were opened; offsets and
// lengths are relative to what was sent and to the credit. See player.
const steps = "dezskbmnioqgtxhrFlywAORCWXGT|c()"

const (
	maxSteps   = 25_000
	maxSettled = 5000
	maxSent    = 3 << 20
	maxOpened  = 100 // by the application
)

// A player plays a script.
type player struct {
	script []byte
	at     int
	loops  []loop
}

type loop struct{ from, left int }

// next is the next byte of the script; 0 after its end.
func (p *player) next() byte {
	if p.at >= len(p.script) {
		return 0
	}
	p.at++
	return p.script[p.at-1]
}

func (p *player) play(c *conversation) {
	for n := 0; p.at < len(p.script) && n < maxSteps && c.settled < maxSettled && len(c.sent) < maxSent && c.ref.legal == nil; n++ {
		step := p.next()
		if strings.IndexByte(steps, step) < 0 {
			step = steps[int(step)%len(steps)]
		}
		from := len(c.sent)
		switch {
		case step == '(' && len(p.loops) < 3:
			count := int(p.next())<<8 | int(p.next())
			p.loops = append(p.loops, loop{p.at, count})
		case step == ')' && len(p.loops) > 0:
			last := &p.loops[len(p.loops)-1]
			if last.left--; last.left > 0 {
				p.at = last.from
			} else {
				p.loops = p.loops[:len(p.loops)-1]
			}
		case step >= 'a' && step <= 'z':
			p.peer(c, step)
		case step == 'F':
			p.fill(c)
		case c.settle():
			p.application(c, step)
		}
		if testing.Verbose() && n < 1000 && (*receiverSeed >= 0 || c.t.Name() != "TestReceiver") {
			c.t.Logf("%c: %d bytes % x, legal %v", step, len(c.sent)-from, c.sent[from:min(len(c.sent), from+24)], c.ref.legal)
		}
	}
}

// peer sends something.
func (p *player) peer(c *conversation, step byte) {
	switch step {
	case 'd', 'e':
		id := p.stream(c)
		s := c.ref.streams[id]
		offset := p.offset(c, s)
		c.frame(step-'d', c.payload(p.length(c, s, offset)), id, offset)
	case 'z':
		id := p.stream(c)
		code := p.number()
		c.frame(0x02, nil, id, code, p.offset(c, c.ref.streams[id]))
	case 's':
		c.frame(0x03, nil, p.stream(c), p.number())
	case 'k', 'b':
		id := p.stream(c)
		kind := byte(0x04)
		if step == 'b' {
			kind = 0x05
		}
		c.frame(kind, nil, id, p.offset(c, c.ref.streams[id]))
	case 'm', 'n', 'i', 'o', 'g':
		kind := map[byte]byte{'m': 0x06, 'n': 0x07, 'i': 0x08, 'o': 0x09, 'g': 0x0a}[step]
		c.frame(kind, nil, p.number())
	case 'q':
		code := p.number()
		c.frame(0x0b, c.payload(p.length(c, nil, 0)), code)
	case 't':
		var pairs []uint64
		for range p.next() % 8 {
			pairs = append(pairs, p.number(), p.number())
		}
		c.frame(0x0c, nil, pairs...)
	case 'x':
		c.frame(p.next(), c.payload(p.length(c, nil, 0)))
	case 'h':
		c.send([]byte{p.next(), p.next(), p.next()})
	case 'r':
		n := min(int(p.next()), len(p.script)-p.at)
		c.send(p.script[p.at : p.at+n])
		p.at += n
	case 'l':
		c.spelling = int(p.next() % 9)
	case 'y':
		c.trim = int(p.next())
	case 'w':
		c.extra = int(p.next())
	case 'c':
		if c.settle() {
			c.wire.cut(int(p.next()))
		}
	}
}

func (p *player) fill(c *conversation) {
	id := p.stream(c)
	offset, limit := uint64(0), uint64(32768)
	if s := c.ref.streams[id]; s != nil {
		offset, limit = s.got(), s.limit
	}
	for offset < limit {
		n := min(limit-offset, 16384)
		c.frame(0x00, c.payload(int(n)), id, offset)
		offset += n
	}
}

func (p *player) application(c *conversation, step byte) {
	switch step {
	case 'A':
		if want := c.ref.accept(); want != nil {
			s, err := c.conn.Accept(c.t.Context())
			if err != nil || s.id != want.id {
				c.t.Fatalf("accepted %v, %v; want stream %d", s, err, want.id)
			}
			c.held = append(c.held, heldStream{s, want})
		}
	case 'O':
		gone := c.ref.away || c.ref.peerAway
		if c.ref.opened >= min(c.ref.mayOpen, maxOpened) && !gone {
			return // it would wait, or take too long
		}
		s, err := c.conn.Open(c.t.Context())
		if gone != (err == ErrGoAway) || !gone && err != nil {
			c.t.Fatalf("opened a stream after %d of %d, gone away is %v: %v", c.ref.opened, c.ref.mayOpen, gone, err)
		}
		if !gone {
			c.held = append(c.held, heldStream{s, c.ref.mine()})
		}
	case 'G':
		c.conn.GoAway()
		c.ref.goAway()
	case 'T':
		d := time.Duration(1+p.next()) * 100 * time.Millisecond
		c.ref.seconds += d.Seconds()
		time.Sleep(d)
		synctest.Wait()
	case 'R', 'C', 'W', 'X':
		which, n := int(p.next()), 0
		if step == 'R' || step == 'X' {
			n = max(1, p.length(c, nil, 0))
		}
		if len(c.held) == 0 {
			return
		}
		s := c.held[len(c.held)-1-which%len(c.held)]
		switch step {
		case 'R':
			c.read(s, n)
		case 'C':
			s.Close()
			c.ref.close(s.ref, "closed")
		case 'W':
			s.CloseWrite()
			c.ref.closeWrite(s.ref)
		case 'X':
			s.Reset(Code(n))
			c.ref.close(s.ref, ending(&StreamError{Code: Code(n)}))
		}
	}
}

// stream names one: by its number, the client's even; from 64 on one that is
// not open yet, from 96 on one that is and has not ended, the last one first;
// from 128 on a large number.
func (p *player) stream(c *conversation) uint64 {
	b := uint64(p.next())
	switch {
	case b < 64:
		return b
	case b < 96:
		return 2 * (c.ref.arrived + b - 64)
	case b < 128:
		for i := range c.ref.arrived {
			id := 2 * (c.ref.arrived - 1 - i)
			if c.ref.streams[id].known {
				continue
			}
			if b--; b < 96 {
				return id
			}
		}
		return 2 * c.ref.arrived
	}
	return large[b%uint64(len(large))]
}

// large are numbers where the spelling changes, or a floor is.
var large = [...]uint64{
	64, 127, 128, 1<<14 - 1, 1 << 14, 1<<16 - 1, 1 << 16, 1 << 20, 1<<30 - 1, 1 << 30,
	1<<32 - 1, 1 << 32, 1 << 40, 1<<62 - 2, 1<<62 - 1, 0x101,
}

func (p *player) number() uint64 {
	b := uint64(p.next())
	if b < 64 {
		return b
	}
	return large[b%uint64(len(large))]
}

// offset is where s goes on, or up to 63 bytes before; from 64 on behind that;
// from 96 on one that has a meaning, from 128 on a large one.
func (p *player) offset(c *conversation, s *refStream) uint64 {
	if s == nil {
		s = &refStream{limit: 32768}
	}
	b := uint64(p.next())
	at := s.got()
	if s.known {
		at = s.final
	}
	switch {
	case b < 64:
		return at - min(at, b)
	case b < 96:
		return at + b - 63
	case b < 128:
		left := c.ref.said.credit - c.ref.received
		return [...]uint64{0, s.limit, s.limit + 1, s.limit - 1, at + left, at + left + 1, s.got(), s.got() / 2}[b%8]
	}
	return large[b%uint64(len(large))]
}

// length is a number of bytes; from 128 on one where something changes.
func (p *player) length(c *conversation, s *refStream, offset uint64) int {
	b := int(p.next())
	if b < 128 {
		return b
	}
	if s == nil {
		s = &refStream{limit: 32768}
	}
	left := int(min(s.limit-min(s.limit, offset), 16384))
	all := int(min(c.ref.said.credit-c.ref.received, 16384))
	return [...]int{
		128, 256, 257, 512, 509, 1021, 1024, 1025, 2048, 4090, 4096, 4097, 5000, 8192, 16383, 16384,
		16385, 16400, 16401, left, left + 1, all, all + 1, 16384 - 300,
	}[(b-128)%24]
}

// frame sends one, as the steps before would have it.
func (c *conversation) frame(kind byte, tail []byte, numbers ...uint64) {
	b := []byte{kind, 0, 0}
	for _, v := range numbers {
		b = c.spell(b, v)
	}
	b = append(b, tail...)
	b = b[:max(3, len(b)-c.trim)]
	b = append(b, make([]byte, c.extra)...)
	b[1], b[2] = byte((len(b)-3)>>8), byte(len(b)-3)
	c.spelling, c.trim, c.extra = 0, 0, 0
	c.send(b)
}

func (c *conversation) spell(b []byte, v uint64) []byte {
	v &= 1<<62 - 1
	for i, bits := range []int{6, 14, 30, 62} {
		if size := 1 << i; v < 1<<bits && size >= c.spelling {
			for at := size - 1; at >= 0; at-- {
				x := byte(v >> (8 * at))
				if at == size-1 {
					x |= byte(i) << 6
				}
				b = append(b, x)
			}
			return b
		}
	}
	return b
}

// payload is n bytes that are not those of any other frame nearby: when two
// disagree about an offset, the first to arrive is right.
func (c *conversation) payload(n int) []byte { return noise[len(c.sent)%4093:][:n] }

var noise = func() []byte {
	b := make([]byte, 4093+16401)
	for i := range b {
		b[i] = byte(uint32(i) * 0x9e3779b1 >> 13)
	}
	return b
}()

// randomScript is mostly of honest steps on few streams, most of them short.
func randomScript(rng *rand.Rand) []byte {
	any := func() byte { return byte(rng.Uint32()) }
	small := func() byte { return byte(rng.ExpFloat64() * 3) }
	stream := func() byte { return [...]byte{96, 96, 96, 96, 96, 96, 96, 64}[rng.IntN(8)] + min(31, small()) }
	offset := func() byte {
		switch rng.IntN(200) {
		case 0:
			return any()
		case 1, 2, 3, 4, 5, 6, 7, 8, 9:
			return byte(rng.IntN(64)) // again
		}
		return 0
	}
	length := func() byte {
		switch rng.IntN(8) {
		case 0:
			return 128 + byte(rng.IntN(16))
		case 1:
			return 128 + 19 // up to the credit
		}
		return byte(rng.IntN(128))
	}
	usual := strings.Repeat("d", 30) + strings.Repeat("AR", 12) + "eeeezzzsskkbbbmniooFFOOCCWWXXT|||c"
	odd := "gqtxhrlyw(G"
	script := []byte{byte(rng.IntN(4)) << 1}
	for range 10 + rng.IntN(80) {
		step := usual[rng.IntN(len(usual))]
		if rng.IntN(100) == 0 {
			step = odd[rng.IntN(len(odd))]
		}
		script = append(script, step)
		switch step {
		case 'd', 'e':
			script = append(script, stream(), offset(), length())
		case 'z':
			script = append(script, stream(), small(), 64*byte(rng.IntN(2)))
		case 's', 'k', 'b':
			script = append(script, stream(), small())
		case 'R', 'X':
			script = append(script, small(), 128+byte(rng.IntN(16)))
		case 'F':
			script = append(script, stream())
		case 'g':
			script = append(script, 0)
		case '(':
			script = append(script, 0, small(), 'd', stream(), 0, length(), ')')
		case 'h', 'q', 't', 'x':
			script = append(script, any(), any(), small())
		case 'm', 'n', 'i', 'o', 'r', 'l', 'y', 'w', 'c', 'C', 'W', 'T':
			script = append(script, small())
		}
	}
	return script
}
