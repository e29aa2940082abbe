package mux

import "time"

// Bulk shares a lane with small exchanges badly: one connection delivers in
// order, so that what is small stands behind every loss and every queue of what
// is big. So bulk gets a lane of its own, as long as it lasts.

const (
	// worthLane is how much a stream must have moved for another lane to be
	// worth its handshakes, and farLane how far away the peer must be: next
	// door nothing queues for long.
	worthLane = 256 << 10
	farLane   = 2 * time.Millisecond

	// lookEvery is after how many bytes of a stream we look whether it is
	// worth a lane.
	lookEvery = 64 << 10

	// idleLane is how long an additional lane is kept that carries nothing.
	idleLane = 3 * time.Second
)

// WantLane gives a value while bulk flows that would better have a lane of its
// own. It is for one reader on the side that dials, who joins another if Lanes
// still says that there is but one. The lane is given up when nothing has gone
// over it for three seconds.
func (c *Conn) WantLane() <-chan struct{} { return c.wants }

// wantLaneLocked asks for another lane because of a heavy stream that has moved
// n bytes in one direction.
func (c *Conn) wantLaneLocked(n uint64) {
	if c.ours != 0 || c.living != 1 || n < worthLane || c.main.rtt < farLane {
		return
	}
	select {
	case c.wants <- struct{}{}:
	default:
	}
}

// sideLaneLocked is the lane for bulk, or nil.
func (c *Conn) sideLaneLocked() *Lane {
	if c.living < 2 {
		return nil
	}
	for i := len(c.all) - 1; i >= 0; i-- {
		if l := c.all[i]; l.err == nil && l != c.main && !l.peerLeft {
			return l
		}
	}
	return nil
}

// asideLocked moves s, whose turn it is and which is heavy, out of the way of
// everybody else, if there is a lane for that. Data may not overtake data: s
// waits until the peer has what it sent before.
func (c *Conn) asideLocked(s *Stream) bool {
	if s.lane != c.main {
		return false
	}
	to := c.sideLaneLocked()
	if to == nil {
		c.wantLaneLocked(s.sent)
		return false
	}
	if s.deliveredLocked() {
		s.takeLaneLocked(to)
		c.queueLocked(s)
		return true
	}
	s.isMoving = true
	c.moving = append(c.moving, s)
	s.lane.startPingLocked() // with its answer comes an acknowledgement
	return true
}

// moveLocked moves the streams that have waited for l to deliver what they sent.
func (c *Conn) moveLocked(l *Lane) {
	waiting := c.moving[:0]
	for _, s := range c.moving {
		switch {
		case s.lane != l:
			waiting = append(waiting, s)
			continue
		case !s.deliveredLocked() && l.err == nil:
			waiting = append(waiting, s)
			l.startPingLocked()
			continue
		}
		s.isMoving = false
		if to := c.sideLaneLocked(); to != nil && l.err == nil {
			s.takeLaneLocked(to)
		}
		c.queueLocked(s)
	}
	clear(c.moving[len(waiting):])
	c.moving = waiting
}

// mayStayLocked reports whether s may send where it is, once it is where it
// should be.
func (c *Conn) mayStayLocked(s *Stream, heavy bool) bool {
	switch {
	case s.lane.err != nil || s.again > 0 || s.isMoving:
		return false
	case heavy:
		return s.lane != c.main || c.living < 2 // the queue sees to the rest
	case s.lane != c.main && s.deliveredLocked():
		s.takeLaneLocked(c.main)
	}
	return true
}
