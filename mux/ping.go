package mux

import (
	"context"
	"slices"
	"time"
)

// pinger measures the round trip of a Lane and notices a peer that has fallen
// silent on it. Its fields are guarded by Conn.mu.
type pinger struct {
	pings    uint64        // how many were sent; the last one's number
	pinging  bool          // one is under way
	pingSent time.Duration // and this is when it was sent
	pongAt   time.Duration // when the last one was answered,
	pongTook time.Duration // and how long that took
	rtt      time.Duration // smoothed, zero before the first measurement
	watch    *time.Timer
	probe    *time.Timer
	began    time.Duration // the age at which the lane did
	progress uint64        // bytes that the socket had moved …
	lookedAt time.Duration // … when we last found it moving
}

// age is the time on the Conn's own clock.
func (c *Conn) age() time.Duration { return time.Since(c.born) }

// An ear reads from the net.Conn and notes that the peer was heard.
type ear struct{ l *Lane }

func (e ear) Read(p []byte) (int, error) {
	n, err := e.l.conn.Read(p)
	if n > 0 {
		e.l.heard.Store(int64(e.l.c.age()))
	}
	return n, err
}

// pingPace is how far apart pings are at least: a peer counts them.
const pingPace = 5 * time.Millisecond

// Ping measures how long the peer takes to answer, until ctx ends. Calls at
// the same time share a ping, and so do those within a few milliseconds. While
// the Conn has no lane, it waits for one.
func (c *Conn) Ping(ctx context.Context) (time.Duration, error) {
	answer := make(chan time.Duration, 1)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return 0, c.err
	}
	if l := c.main; l.err == nil && !l.pinging && l.pings > 0 && c.age()-l.pongAt < pingPace {
		defer c.mu.Unlock()
		return l.pongTook, nil
	}
	c.pinged = append(c.pinged, answer)
	c.main.startPingLocked()
	c.mu.Unlock()

	select {
	case rtt := <-answer:
		return rtt, nil
	case <-c.done:
		return 0, c.Err()
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		c.pinged = slices.DeleteFunc(c.pinged, func(w chan time.Duration) bool { return w == answer })
		return 0, context.Cause(ctx)
	}
}

// RTT returns the round trip of the oldest lane as measured so far, smoothed. It
// is zero before the first answer.
func (c *Conn) RTT() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.main.rtt
}

// Probe asks for a sign of life on every lane, and gives up those that give
// none within d: for who has reason to believe that the network has changed.
func (c *Conn) Probe(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.all {
		if l.err != nil || c.err != nil {
			continue
		}
		l.startPingLocked()
		if l.probe != nil {
			l.probe.Stop()
		}
		since := c.age()
		l.probe = time.AfterFunc(d, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if heard := time.Duration(l.heard.Load()); heard < since || heard == since && l.pinging {
				l.loseLocked(silence(d))
			}
		})
	}
}

func silence(d time.Duration) error {
	return &ConnError{Code: CodeSilent, Reason: "no answer to a ping for " + d.String()}
}

// startPingLocked sends a ping, unless one is under way.
func (l *Lane) startPingLocked() {
	if l.pinging || l.err != nil {
		return
	}
	l.pings++
	l.pinging, l.pingSent = true, l.c.age()
	l.controlLocked(frame{kind: framePing, value: l.pings})
}

func (l *Lane) onPongLocked(number uint64) error {
	c := l.c
	if number != l.pings || !l.pinging {
		return c.chargeLocked() // an answer to nothing
	}
	took := c.age() - l.pingSent
	l.pinging, l.pongAt, l.pongTook = false, c.age(), took
	if l.rtt == 0 {
		l.rtt = took
	} else {
		l.rtt += (took - l.rtt) / 8
	}
	if l == c.main {
		for _, w := range c.pinged {
			w <- took
		}
		c.pinged = nil
	}
	if l.watch != nil { // which waited for the answer: silence is counted from here
		l.watch.Reset(c.cfg.keepAlive())
	}
	c.moveLocked(l)
	c.askLocked()
	return nil
}

func (l *Lane) startWatchLocked() {
	if every := l.c.cfg.keepAlive(); every > 0 {
		l.watch = time.AfterFunc(every, l.look)
	}
}

func (l *Lane) stopWatchLocked() {
	for _, t := range []*time.Timer{l.watch, l.probe} {
		if t != nil {
			t.Stop()
		}
	}
}

// look pings a peer that has been silent for Config.KeepAlive, and gives up
// the lane of one that has been silent for Config.Timeout more.
func (l *Lane) look() {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || l.err != nil {
		return
	}
	now, every := c.age(), c.cfg.keepAlive()
	heard := time.Duration(l.heard.Load())
	if c.ours == 0 && l != c.main && now-max(l.busyAt, l.began) >= idleLane {
		l.loseLocked(errLeave)
		return
	}
	l.freeSpareLocked()
	if silent := now - heard; silent < every {
		l.watch.Reset(every - silent)
		return
	}
	if !l.pinging {
		l.progress = l.socket.progress()
	}
	l.startPingLocked()
	timeout := max(c.cfg.timeout(), 4*l.rtt)
	if c.cfg.timeout() == 0 {
		l.watch.Reset(every)
		return
	}
	// The silence that counts began with the ping, or with the last sign of
	// life after it.
	left := timeout - (now - max(l.pingSent, heard, l.lookedAt))
	if left <= 0 {
		// Bytes that trickle are no silence, even if it takes them longer to
		// become something that can be read.
		moved := l.socket.progress()
		if moved == l.progress {
			l.loseLocked(silence(timeout))
			return
		}
		l.progress, l.lookedAt, left = moved, now, timeout
	}
	l.watch.Reset(left)
}
