package mux

import (
	"errors"
	"flag"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
)

// FuzzLanes lets a peer say anything over up to four lanes that come and go,
// while the application does what it likes. Whatever it says, the Conn lives, or
// ends with a verdict; and as long as it lives its books are right: see audit.
func FuzzLanes(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(anyBytes(seed))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		synctest.Test(t, func(t *testing.T) { goAstray(t, script) })
	})
}

var laneScripts = flag.Int("lanes.scripts", 300, "how many scripts TestLaneBooks plays")

// TestLaneBooks is the law of FuzzLanes for scripts made at random.
func TestLaneBooks(t *testing.T) {
	for seed := range uint64(*laneScripts) {
		synctest.Test(t, func(t *testing.T) { goAstray(t, anyBytes(seed)) })
		if t.Failed() {
			t.Fatalf("script %d", seed)
		}
	}
}

func anyBytes(seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 4))
	b := make([]byte, 50+rng.IntN(2000))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// A strayer is a peer that may say anything. What the Conn says it reads, if at
// all, only to know where frames begin.
type strayer struct {
	t       *testing.T
	script  []byte
	conn    *Conn
	lanes   []*strayLane
	last    uint64
	streams []*Stream
}

type strayLane struct {
	link   *memnet.Conn
	number uint64
	heard  []byte
	acked  uint64
}

func goAstray(t *testing.T, script []byte) {
	p := &strayer{t: t, script: script}
	cfg := Config{KeepAlive: -1, Budget: 1 << 20, MaxStreams: 16, Keep: 128 << 10, Pool: NewPool(1 << 30)}
	left, right := memnet.Pipe()
	p.conn = Server(right, cfg)
	first := &strayLane{link: left}
	p.lanes = append(p.lanes, first)
	said := settings{streamCredit: 1 << 20, credit: 1 << 20, streams: 1 << 10, keep: 1 << 20}
	p.say(first, []byte(preface))
	p.say(first, appendFrame(nil, frame{kind: frameSettings, data: appendSettings(nil, said)}))
	for steps := 0; steps < 2000 && len(p.script) > 0 && p.conn.Err() == nil; steps++ {
		p.step()
		synctest.Wait()
		p.audit()
		if t.Failed() {
			break
		}
	}
	for _, l := range p.lanes {
		l.link.Close()
	}
	if err := p.conn.Err(); err != nil {
		if verdict, ok := errors.AsType[*ConnError](err); !ok || verdict.Code == CodeNone && !verdict.Remote {
			t.Errorf("the Conn ended with %v", err)
		}
	}
	for _, s := range p.streams {
		s.Close()
	}
	p.conn.Close()
	if n := cfg.Pool.kept.Load(); n != 0 {
		t.Errorf("the pool counts %d bytes that are kept", n)
	}
	if n := cfg.Pool.held.Load(); n != 0 {
		t.Errorf("the pool counts %d bytes that wait", n)
	}
}

func (p *strayer) next() int {
	if len(p.script) == 0 {
		return 0
	}
	b := p.script[0]
	p.script = p.script[1:]
	return int(b)
}

func (p *strayer) say(l *strayLane, b []byte) {
	l.link.SetWriteDeadline(time.Now().Add(time.Millisecond)) // or its buffer is full
	l.link.Write(b)
}

// listen reads what has come on l.
func (p *strayer) listen(l *strayLane) {
	b := make([]byte, 256<<10)
	l.link.SetReadDeadline(time.Now().Add(time.Microsecond))
	for {
		n, err := l.link.Read(b)
		l.heard = append(l.heard, b[:n]...)
		if err != nil {
			return
		}
	}
}

// border is how much of what was heard on l is whole frames, or some of them.
func (p *strayer) border(l *strayLane, most int) uint64 {
	at := min(len(preface), len(l.heard))
	for n := 0; n < most; n++ {
		_, body, ok := frameAt(l.heard[at:])
		if !ok {
			break
		}
		at += frameHeader + len(body)
	}
	return uint64(at)
}

// leave gives up a lane, mostly over another one.
func (p *strayer) leave(over, l *strayLane, taken uint64) {
	if over != l || p.next() < 8 {
		p.say(over, appendFrame(nil, leave(l.number, taken)))
	}
}

// lane is one of the latest.
func (p *strayer) lane() *strayLane { return p.lanes[max(0, len(p.lanes)-1-p.next()%6)] }

// id is that of a stream of the peer, or of one that the application has.
func (p *strayer) id(small uint64) uint64 {
	if small >= 4 && len(p.streams) > 0 {
		return p.streams[p.next()%len(p.streams)].id
	}
	return 2 * small
}

// at is where a stream of the peer goes on.
func (p *strayer) at(id uint64) uint64 {
	p.conn.mu.Lock()
	defer p.conn.mu.Unlock()
	if s := p.conn.streams[id]; s != nil {
		return s.received
	}
	return 0
}

func (p *strayer) step() {
	what := p.next()
	l, other := p.lane(), p.lane()
	small := uint64(p.next() % 8)
	switch what % 32 {
	case 0:
		p.last += 1 + small/3
		left, right := memnet.Pipe()
		if _, err := p.conn.Join(right, p.last); err == nil {
			l = &strayLane{link: left, number: p.last}
			p.lanes = append(p.lanes, l)
			p.say(l, appendFrame([]byte(preface), frame{kind: frameLane, value: p.last}))
		}
	case 1:
		l.link.Break()
	case 2:
		if all := p.conn.Lanes(); len(all) > 1 {
			all[int(small)%len(all)].Leave()
		}
	case 3, 4, 5:
		p.listen(l)
		l.acked = p.border(l, 1<<20)
		p.say(l, appendFrame(nil, number(frameAck, l.acked)))
	case 6, 7:
		p.listen(other)
		p.leave(l, other, p.border(other, 1<<20))
	case 8:
		p.listen(other)
		p.leave(l, other, max(other.acked, p.border(other, int(small))))
	case 9:
		if p.next() < 16 { // which mostly is the end
			p.say(l, appendFrame(nil, leave(small, uint64(p.next()))))
		}
	case 10, 11, 12, 13:
		id := p.id(small)
		b := appendFrame(nil, frame{kind: byte(what >> 7), stream: id, offset: p.at(id), data: make([]byte, p.next()*64)})
		half := len(b) * p.next() / 256
		p.say(l, b[:half])
		if what%3 == 0 {
			synctest.Wait()
		}
		p.say(l, b[half:])
	case 14:
		id := p.id(small)
		p.say(l, appendFrame(nil, reset(id, appCode, p.at(id)+uint64(p.next()))))
	case 15:
		p.say(l, appendFrame(nil, stop(p.id(small), appCode)))
	case 16:
		p.say(l, appendFrame(nil, streamCredit(p.id(small), uint64(p.next())<<16)))
	case 17:
		p.say(l, appendFrame(nil, number(frameCredit, uint64(p.next())<<16)))
	case 18:
		p.say(l, appendFrame(nil, number(framePing+byte(what>>7), small)))
	case 19:
		p.conn.mu.Lock()
		s := p.conn.streams[2*small]
		p.conn.mu.Unlock()
		if s != nil {
			p.say(l, appendFrame(nil, blocked(2*small, s.receiveSaid)))
		}
	case 20:
		if p.next() < 8 {
			p.say(l, p.script[:min(len(p.script), int(small)*4)])
		}
	case 21:
		if p.next() < 8 {
			p.say(l, appendFrame(nil, frame{kind: frameClose}))
		}
	case 22:
		p.conn.mu.Lock()
		waits := !p.conn.accept.empty()
		p.conn.mu.Unlock()
		if waits {
			s, _ := p.conn.Accept(p.t.Context())
			p.streams = append(p.streams, s)
		}
	case 23:
		p.conn.mu.Lock()
		may := p.conn.living > 0 && p.conn.opened < p.conn.openLimit && len(p.conn.streams) < 30
		p.conn.mu.Unlock()
		if may {
			if s, err := p.conn.Open(p.t.Context()); err == nil {
				p.streams = append(p.streams, s)
			}
		}
	case 24:
		time.Sleep(time.Duration(small) * 10 * time.Millisecond)
	default:
		if len(p.streams) == 0 {
			return
		}
		s := p.streams[p.next()%len(p.streams)]
		s.SetDeadline(time.Now().Add(time.Millisecond))
		switch what % 32 {
		case 25:
			s.CloseWrite()
		case 26:
			if small < 3 {
				s.Reset(appCode)
			}
		case 27:
			if small < 3 {
				s.Close()
			}
		case 28:
			s.Read(make([]byte, p.next()*256))
		case 29:
			s.Write(make([]byte, p.next()*256)) // zeros look like frames
		default:
			s.Write(make([]byte, p.next()))
		}
	}
}

// audit holds the books of a Conn that lives against each other.
func (p *strayer) audit() {
	c, t := p.conn, p.t
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	var kept, living int
	again := map[*Lane]map[uint64]int{}
	for _, l := range c.all {
		if l.err == nil {
			living++
		}
		if l.acked > l.sent || l.ackSaid > l.taken {
			t.Errorf("lane %d: %d of %d acknowledged, %d of %d said", l.number, l.acked, l.sent, l.ackSaid, l.taken)
		}
		for _, b := range append(l.kept[:len(l.kept):len(l.kept)], l.again...) {
			kept += cap(b.b)
		}
		at := l.acked
		for i, b := range l.kept {
			if i > 0 && b.start != at {
				t.Errorf("lane %d: what is kept has a hole at %d", l.number, at)
			}
			at = b.start + uint64(len(b.b))
		}
		if len(l.kept) > 0 && at != l.sent {
			t.Errorf("lane %d: kept up to %d of %d", l.number, at, l.sent)
		}
		again[l] = map[uint64]int{}
		for _, b := range l.again {
			for at := b.at; at < len(b.b); {
				kind, body, ok := frameAt(b.b[at:])
				if !ok {
					t.Fatalf("lane %d: what is to be sent again is no frame", l.number)
				}
				if id, ordered := orderedFrame(kind, body); ordered {
					again[l][id]++
				}
				at += frameHeader + len(body)
			}
		}
	}
	switch {
	case living != c.living || living > maxLanes || living > 0 && c.main.err != nil:
		t.Errorf("%d lanes live, it counts %d; the main one has ended with %v", living, c.living, c.main.err)
	case uint64(kept) != c.kept || c.cfg.Pool.kept.Load() != int64(kept):
		t.Errorf("%d bytes are kept, it counts %d, and the pool %d", kept, c.kept, c.cfg.Pool.kept.Load())
	case c.received > c.receiveSaid || c.consumed > c.received || c.cfg.Pool.held.Load() != int64(c.received-c.consumed):
		t.Errorf("%d bytes of %d came, %d were read; the pool counts %d", c.received, c.receiveSaid, c.consumed, c.cfg.Pool.held.Load())
	}
	for id, s := range c.streams {
		if s.received > s.receiveSaid || s.sent > s.sendLimit {
			t.Errorf("stream %d: %d of %d came, %d of %d were sent", id, s.received, s.receiveSaid, s.sent, s.sendLimit)
		}
		if n := again[s.lane][id]; n != s.again {
			t.Errorf("stream %d: %d frames are to be sent again, it counts %d", id, n, s.again)
		}
		if q := s.links[linkSend].of; q != nil && (q != &s.lane.light && q != &s.lane.heavy || s.lane.err != nil) {
			t.Errorf("stream %d waits for a lane that is not its own, or has ended", id)
		}
		if s.lane.err != nil && living > 0 && s.deliveredLocked() {
			t.Errorf("stream %d stays on a lane that has ended", id)
		}
	}
}
