package mux

import (
	"cmp"
	"time"
)

// Config tunes a Conn. The zero value is ready to use. A Config may be shared
// by any number of Conns, and is not changed by them.
type Config struct {
	// Budget is how many bytes the peer may have sent, on all streams
	// together, that nobody here has read yet. It bounds the memory of a
	// connection, and its throughput to Budget per round trip. Zero means
	// 32 MiB; less than 1 MiB means 1 MiB.
	Budget int

	// StreamWindow is the most that the peer may have sent on one stream
	// before it is read. A stream begins with a window of 32 KiB, which
	// grows towards StreamWindow, inside Budget, when the peer is held up by
	// it and the reader is not. Zero means half of Budget; less than 32 KiB
	// means 32 KiB.
	StreamWindow int

	// Pool bounds what this Conn and the others that have the same Pool hold
	// together. Nil means that only their budgets bound it.
	Pool *Pool

	// MaxStreams is how many streams of the peer may be open at a time. Zero
	// means 8192; less than 16 means 16.
	MaxStreams int

	// Keep is how many bytes that were sent are kept until the peer has
	// acknowledged them, so that they can be sent again over another lane. Who
	// writes more than that waits. If both ends keep something, the Conn
	// outlives its lanes: see [Conn.Join]. Zero means nothing: the Conn ends
	// with its only lane; less than 64 KiB means 64 KiB.
	Keep int

	// Resume is how long a Conn that outlives its lanes may be without one.
	// Zero means 30 seconds.
	Resume time.Duration

	// KeepAlive is the longest silence before we ping. Zero means 15
	// seconds; negative means never.
	KeepAlive time.Duration

	// Timeout is how long a ping may stay unanswered, while nothing else
	// arrives, before its lane ends with ErrPeerSilent; four round trips, if
	// that is more. A peer to whom bytes are still coming says so every second,
	// so that a slow link is no silence. Zero means 10 seconds; negative means
	// for ever.
	Timeout time.Duration
}

const (
	// firstWindow is the window with which every stream begins. A thousand
	// streams that nobody reads leave room in the default budget.
	firstWindow = 32 << 10

	// maxOpen is how many streams of ours may be open at a time, those that we
	// have closed and the peer has not among them.
	maxOpen = 32 << 10

	// closeTime is what a closing connection may still spend on bytes that
	// were written before.
	closeTime = time.Second
)

func (c Config) budget() uint64 {
	return min(uint64(max(1<<20, cmp.Or(c.Budget, 32<<20))), 1<<40)
}

func (c Config) streamWindow() uint64 {
	return uint64(max(firstWindow, cmp.Or(c.StreamWindow, int(c.budget()/2))))
}

func (c Config) maxStreams() uint64 { return uint64(max(floorStreams, cmp.Or(c.MaxStreams, 8192))) }

func (c Config) keep() uint64 {
	if c.Keep <= 0 {
		return 0
	}
	return min(max(64<<10, uint64(c.Keep)), 1<<40)
}

func (c Config) resume() time.Duration { return cmp.Or(c.Resume, 30*time.Second) }

func (c Config) keepAlive() time.Duration { return max(0, cmp.Or(c.KeepAlive, 15*time.Second)) }

func (c Config) timeout() time.Duration { return max(0, cmp.Or(c.Timeout, 10*time.Second)) }
