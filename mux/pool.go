package mux

import (
	"sync"
	"sync/atomic"
)

// A Pool bounds what several Conns hold together that nobody has read: say,
// all of a process, which then says how many bytes it can spare, however many
// peers it has. Conns share it through Config.Pool; it needs no end. What a
// stream holds counts until it was read or the stream closed, also when its
// Conn has ended.
//
// When half of it is taken, the windows of streams stop growing, which makes
// streams that are far away slower. When all of it is, the Conn that holds most
// has its stream reset that holds most, with CodeMemory, until there is room
// again or no Conn holds more than 1 MiB. So the Conns hold at most the Pool
// and 1 MiB each. Bytes are counted, not the memory for them, which is up to
// four times as much, or 512 bytes, where they come in small pieces.
//
// What Conns keep so as to send it again counts for the half, too: from there
// on, each keeps at most 256 KiB.
type Pool struct {
	limit int64
	held  atomic.Int64
	kept  atomic.Int64

	squeezing sync.Mutex
	mu        sync.Mutex // guards conns; taken last
	conns     map[*Conn]struct{}
}

// poolShare is what a Conn may hold when there is nothing left.
const poolShare = 1 << 20

// NewPool returns a Pool of limit bytes.
func NewPool(limit int) *Pool {
	return &Pool{limit: int64(limit), conns: make(map[*Conn]struct{})}
}

// Held says how many bytes have arrived on all Conns that share p and wait to
// be read.
func (p *Pool) Held() int { return int(p.held.Load()) }

func (p *Pool) half() bool { return p != nil && p.held.Load()+p.kept.Load() >= p.limit/2 }

// keep counts n bytes more that are kept to be sent again.
func (p *Pool) keep(n int) {
	if p != nil && n != 0 {
		p.kept.Add(int64(n))
	}
}

func (p *Pool) enter(c *Conn) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = struct{}{}
}

// add counts n bytes more of c, whose lock is held. A Conn that has ended
// leaves with its last byte.
func (p *Pool) add(c *Conn, n int) {
	if p == nil || n == 0 {
		return
	}
	p.held.Add(int64(n))
	if c.held.Add(int64(n)) == 0 && c.err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, c)
	}
}

// leavePoolLocked is for a Conn that has just ended. What waits for Accept may
// wait for ever now, and counts again when it is accepted.
func (c *Conn) leavePoolLocked() {
	p := c.cfg.Pool
	if p == nil {
		return
	}
	for s := c.accept.head; s != nil; s = s.links[linkAccept].next {
		p.add(c, -s.arrived.size)
		c.unread.remove(s)
	}
	if c.held.Load() == 0 {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, c)
	}
}

func (c *Conn) rejoinPoolLocked(s *Stream) {
	if p := c.cfg.Pool; p != nil && s.arrived.size > 0 {
		p.enter(c)
		p.add(c, s.arrived.size)
		c.unread.push(s)
	}
}

// squeeze makes room when there is none. No lock is held.
func (p *Pool) squeeze() {
	if p == nil || p.held.Load() <= p.limit || !p.squeezing.TryLock() {
		return
	}
	defer p.squeezing.Unlock()
	for p.held.Load() > p.limit {
		var most *Conn
		p.mu.Lock()
		for c := range p.conns {
			if h := c.held.Load(); h > poolShare && (most == nil || h > most.held.Load()) {
				most = c
			}
		}
		p.mu.Unlock()
		if most == nil || !most.shed() {
			return
		}
	}
}

// shed resets the stream that holds most.
func (c *Conn) shed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	var most *Stream
	for s := c.unread.head; s != nil; s = s.links[linkUnread].next {
		if most == nil || s.arrived.size > most.arrived.size {
			most = s
		}
	}
	if most == nil {
		return false
	}
	most.resetLocked(CodeMemory)
	return true
}
