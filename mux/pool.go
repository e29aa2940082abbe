package mux

import "sync/atomic"

// A Pool bounds what several Conns hold together that nobody has read: say,
// all of a process, which then says how many bytes it can spare, however many
// peers it has. Conns share it through Config.Pool; it needs no end.
//
// When half of it is taken, the windows of streams stop growing, which makes
// streams that are far away slower. When all of it is, a Conn that holds more
// than 1 MiB resets those of its streams on which more arrives, with
// CodeMemory. So the Conns hold at most the Pool and 1 MiB each.
type Pool struct {
	limit int64
	held  atomic.Int64
}

// poolShare is what a Conn may hold when there is nothing left.
const poolShare = 1 << 20

// NewPool returns a Pool of limit bytes. One of zero bytes or less is full
// from the beginning.
func NewPool(limit int) *Pool { return &Pool{limit: int64(limit)} }

// Held says how many bytes have arrived on all Conns that share p and wait to
// be read.
func (p *Pool) Held() int { return int(p.held.Load()) }

func (p *Pool) add(n int) {
	if p != nil {
		p.held.Add(int64(n))
	}
}

func (p *Pool) half() bool { return p != nil && p.held.Load() > p.limit/2 }
func (p *Pool) full() bool { return p != nil && p.held.Load() > p.limit }
