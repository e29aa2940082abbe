package mux

import (
	"context"
	"slices"
	"time"
)

// pinger measures the round trip and notices a peer that has fallen silent.
// Its fields are guarded by Conn.mu.
type pinger struct {
	pings     uint64        // how many were sent; the last one's number
	pinging   bool          // one is under way
	pingSent  time.Duration // and this is when it was sent
	pongAt    time.Duration // when the last one was answered,
	pongTook  time.Duration // and how long that took
	pingWaits []chan time.Duration
	rtt       time.Duration // smoothed, zero before the first measurement
	watch     *time.Timer
}

// age is the time on the Conn's own clock.
func (c *Conn) age() time.Duration { return time.Since(c.born) }

// An ear reads from the net.Conn and notes that the peer was heard.
type ear struct{ c *Conn }

func (e ear) Read(p []byte) (int, error) {
	n, err := e.c.conn.Read(p)
	if n > 0 {
		e.c.heard.Store(int64(e.c.age()))
	}
	return n, err
}

// pingPace is how far apart pings are at least: a peer counts them.
const pingPace = 5 * time.Millisecond

// Ping measures how long the peer takes to answer, until ctx ends. Calls at
// the same time share a ping, and so do those within a few milliseconds.
func (c *Conn) Ping(ctx context.Context) (time.Duration, error) {
	answer := make(chan time.Duration, 1)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return 0, c.err
	}
	if !c.pinging && c.pings > 0 && c.age()-c.pongAt < pingPace {
		defer c.mu.Unlock()
		return c.pongTook, nil
	}
	c.startPingLocked()
	c.pingWaits = append(c.pingWaits, answer)
	c.mu.Unlock()

	select {
	case rtt := <-answer:
		return rtt, nil
	case <-c.done:
		return 0, c.Err()
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		c.pingWaits = slices.DeleteFunc(c.pingWaits, func(w chan time.Duration) bool { return w == answer })
		return 0, context.Cause(ctx)
	}
}

// RTT returns the round trip as measured so far, smoothed. It is zero before
// the first answer.
func (c *Conn) RTT() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rtt
}

// startPingLocked sends a ping, unless one is under way.
func (c *Conn) startPingLocked() {
	if c.pinging {
		return
	}
	c.pings++
	c.pinging, c.pingSent = true, c.age()
	c.controlLocked(frame{kind: framePing, value: c.pings})
}

func (c *Conn) onPongLocked(number uint64) error {
	if number != c.pings || !c.pinging {
		return c.chargeLocked() // an answer to nothing
	}
	took := c.age() - c.pingSent
	c.pinging, c.pongAt, c.pongTook = false, c.age(), took
	if c.rtt == 0 {
		c.rtt = took
	} else {
		c.rtt += (took - c.rtt) / 8
	}
	for _, w := range c.pingWaits {
		w <- took
	}
	c.pingWaits = nil
	return nil
}

func (c *Conn) startWatchLocked() {
	if every := c.cfg.keepAlive(); every > 0 {
		c.watch = time.AfterFunc(every, c.look)
	}
}

func (c *Conn) stopWatchLocked() {
	if c.watch != nil {
		c.watch.Stop()
	}
}

// look pings a peer that has been silent for Config.KeepAlive, and gives up
// one that has been silent for Config.Timeout more.
func (c *Conn) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	now, every, timeout := c.age(), c.cfg.keepAlive(), c.cfg.timeout()
	heard := time.Duration(c.heard.Load())
	if silent := now - heard; silent < every {
		c.watch.Reset(every - silent)
		return
	}
	c.startPingLocked()
	if timeout == 0 {
		c.watch.Reset(every)
		return
	}
	// The silence that counts began with the ping, or with the last sign of
	// life after it.
	if left := timeout - (now - max(c.pingSent, heard)); left > 0 {
		c.watch.Reset(left)
		return
	}
	c.failLocked(&ConnError{Code: CodeSilent, Reason: "no answer to a ping for " + timeout.String()})
}
