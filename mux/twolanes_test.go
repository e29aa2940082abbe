package mux

import (
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
)

// beside lays one more lane to the Conn, beside those that live, and says its
// number.
func (p *peer) beside(number uint64) *peer {
	p.t.Helper()
	left, right := memnet.Pipe()
	if _, err := p.conn.Join(right, number); err != nil {
		p.t.Fatal(err)
	}
	q := &peer{t: p.t, link: left, conn: p.conn}
	if got := q.read(len(preface)); string(got) != preface {
		p.t.Fatalf("the preface is %q", got)
	}
	q.want("a lane says its number", frame{kind: frameLane, value: number})
	q.want("and a ping", frame{kind: framePing, value: 1})
	q.write(preface)
	q.send(frame{kind: frameLane, value: number})
	return q
}

// TestFramesInsideFrames: half of a frame is half of a frame, also when what
// somebody has written into it looks like a whole one, of a stream that goes
// another way.
func TestFramesInsideFrames(t *testing.T) {
	withPeer(t, keepQuietly, func(p *peer) {
		p.send(data(0, 0, ""), data(2, 0, ""), data(4, 0, ""), number(frameCredit, 1<<30), streamCredit(2, 1<<30))
		s, bulk, other := p.accept(), p.accept(), p.accept()
		main, side := p.beside(7), p.beside(8)
		inside := appendFrame(nil, data(other.id, 0, ""))
		s.Write(inside)
		synctest.Wait()
		p.conn.mu.Lock()
		sent := p.conn.main.sent
		other.takeLaneLocked(p.conn.all[2]) // as bulk does
		p.conn.mu.Unlock()
		p.link.Break()
		synctest.Wait()
		go bulk.Write(make([]byte, 512<<10)) // nobody reads the lane that is the main one now
		synctest.Wait()
		side.send(leave(0, sent-uint64(len(inside))))
		other.Reset(appCode)
		side.wantEnd(CodeProtocol)
		main.link.Close()
	})
}

// TestLeaveAfterClose: what was kept is counted once when the Conn ends with the
// lane that is given up.
func TestLeaveAfterClose(t *testing.T) {
	cfg := keepQuietly
	cfg.Pool = NewPool(1 << 30)
	withPeer(t, cfg, func(p *peer) {
		q := p.beside(7)
		p.conn.mu.Lock()
		sent := p.conn.all[1].sent
		p.conn.mu.Unlock()
		p.send(frame{kind: frameClose}, leave(7, sent))
		<-p.conn.Done()
		q.link.Close()
		p.link.Close()
		p.conn.Close()
		if n := cfg.Pool.kept.Load(); n != 0 {
			t.Errorf("the pool counts %d bytes that are kept", n)
		}
	})
}

// A stubborn conn takes its time to close.
type stubborn struct {
	net.Conn
	closed chan struct{}
}

func (s stubborn) Close() error {
	<-s.closed
	return s.Conn.Close()
}

// TestFirstWordsTooLate: what comes on a lane that was given up is not taken,
// its first words neither; the peer says them again.
func TestFirstWordsTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left, right := memnet.Pipe()
		closed := make(chan struct{})
		p := &peer{t: t, link: left, conn: Server(stubborn{right, closed}, keepQuietly)}
		p.conn.Lanes()[0].Leave()
		said := floorSettings
		said.keep = keepQuietly.keep()
		settings := frame{kind: frameSettings, data: appendSettings(nil, said)}
		p.write(preface)
		p.send(settings)
		close(closed)
		p.join(7, 0, 0)
		p.send(number(frameLane, 7), leave(0, 0), settings)
		if err := p.conn.Err(); err != nil {
			t.Errorf("settings that were not taken came again: %v", err)
		}
		p.conn.Close()
		p.link.Close()
	})
}

// TestLeaveOfItsOwnLane: a lane is not given up over itself, which would be a
// word that says how much of it was taken, and is not counted in it.
func TestLeaveOfItsOwnLane(t *testing.T) {
	withPeer(t, keepQuietly, func(p *peer) {
		q := p.beside(7)
		q.send(leave(7, 0))
		q.wantEnd(CodeProtocol)
	})
}

// TestBudgetOverTwoLanes: what two lanes bring at the same time is held against
// the credit as if it came one after the other.
func TestBudgetOverTwoLanes(t *testing.T) {
	cfg := keepQuietly
	cfg.Budget = 1 << 20
	withPeer(t, cfg, func(p *peer) {
		full := strings.Repeat("x", maxPayload)
		q := p.beside(7)
		for i := range uint64(1<<20/firstWindow - 1) { // nobody reads them
			p.send(data(2*i, 0, full), data(2*i, maxPayload, full))
		}
		p.send(data(62, 0, full))
		// Of either of these there is room for one.
		a, b := string(appendFrame(nil, data(64, 0, full))), string(appendFrame(nil, data(66, 0, full)))
		p.write(a[:100])
		q.write(b[:100])
		synctest.Wait()
		p.write(a[100:])
		q.write(b[100:])
		synctest.Wait()
		p.wantEnd(CodeFlowControl)
	})
}

// TestLanesThatAreNeverSettled: a peer that comes back again and again, and
// never says what it has of the lanes before, is not remembered for ever; nor is
// one that asks for lanes that never were, and does not listen to the answers.
func TestLanesThatAreNeverSettled(t *testing.T) {
	withPeer(t, keepQuietly, func(p *peer) {
		p.link.Break()
		for n := uint64(1); n < 10*maxUnsettled && p.conn.Err() == nil; n++ {
			left, right := memnet.Pipe()
			left.Close()
			p.conn.Join(right, n)
			synctest.Wait()
		}
		if p.conn.Err() == nil {
			t.Error("the Conn lives on")
		}
		if n := len(p.conn.all); n > maxUnsettled+maxLanes {
			t.Errorf("%d lanes are remembered", n)
		}
	})
	withPeer(t, keepQuietly, func(p *peer) {
		go func() {
			b := make([]byte, 1<<10)
			for {
				if _, err := p.link.Read(b); err != nil {
					return
				}
			}
		}()
		p.send(leave(1<<40, 0))
		for n := uint64(1); n < 10*maxUnsettled && p.conn.Err() == nil; n++ {
			p.send(leave(n, 0))
			time.Sleep(time.Second / floodRate)
		}
		if p.conn.Err() == nil {
			t.Error("the Conn lives on")
		}
		if n := len(p.conn.words); n > maxUnsettled+maxLanes {
			t.Errorf("%d words are remembered", n)
		}
	})
}
