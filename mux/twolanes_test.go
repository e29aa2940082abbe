package mux

import (
	"io"
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

// TestAckedIsTaken: what was acknowledged cannot be missing.
func TestAckedIsTaken(t *testing.T) {
	withPeer(t, keepQuietly, func(p *peer) {
		q := p.beside(7)
		p.conn.mu.Lock()
		sent := p.conn.main.sent
		p.conn.mu.Unlock()
		p.send(number(frameAck, sent))
		q.send(leave(0, uint64(len(preface))))
		q.wantEnd(CodeProtocol)
	})
}

// TestWordsWithoutNews: acknowledgements and leaves that say nothing new are
// frames without content.
func TestWordsWithoutNews(t *testing.T) {
	for name, f := range map[string]frame{
		"ack":   number(frameAck, 0),
		"leave": leave(3, 0),
	} {
		t.Run(name, func(t *testing.T) {
			withPeer(t, keepQuietly, func(p *peer) {
				q := p.beside(7)
				for range 100 {
					q.write(strings.Repeat(string(appendFrame(nil, f)), floodBurst/50))
					synctest.Wait()
				}
				q.wantEnd(CodeFlood)
			})
		})
	}
}

// TestNeverAcknowledged: what a peer makes us say is kept up to a bound.
func TestNeverAcknowledged(t *testing.T) {
	withPeer(t, keepQuietly, func(p *peer) {
		p.conn.mu.Lock()
		p.conn.keptLocked(2*int(keepQuietly.keep()) + keepMore) // it would take the peer some hours
		p.conn.mu.Unlock()
		p.send(number(framePing, 9))
		p.wantEnd(CodeFlood)
	})
}

// TestNothingAfterLeave: what comes on a lane after we have said what we took of
// it is not taken, neither whole frames nor those that had begun before.
func TestNothingAfterLeave(t *testing.T) {
	for _, before := range []int{0, 100} {
		withPeer(t, keepQuietly, func(p *peer) {
			left, right := memnet.Pipe()
			closed := make(chan struct{})
			l, err := p.conn.Join(stubborn{right, closed}, 7)
			if err != nil {
				t.Fatal(err)
			}
			q := &peer{t: t, link: left, conn: p.conn}
			q.write(preface)
			late := string(appendFrame(nil, number(frameLane, 7))) + string(appendFrame(nil, data(0, 0, strings.Repeat("x", maxPayload))))
			at := len(late) - maxPayload - 5 + before
			q.write(late[:at])
			synctest.Wait()
			l.Leave()
			q.write(late[at:] + string(appendFrame(nil, data(2, 0, "x"))))
			synctest.Wait()
			p.conn.mu.Lock()
			received := p.conn.received
			p.conn.mu.Unlock()
			if received > 0 {
				t.Errorf("%d bytes were taken", received)
			}
			close(closed)
			left.Close()
		})
	}
}

// TestResentBeforeMoved: a stream whose frames were sent again goes to another
// lane only when the peer has those.
func TestResentBeforeMoved(t *testing.T) {
	withPeer(t, keepQuietly, func(p *peer) {
		p.send(data(0, 0, ""))
		s := p.accept()
		main, side := p.beside(7), p.beside(8)
		p.conn.mu.Lock()
		before := p.conn.main.sent
		p.conn.mu.Unlock()
		s.Write([]byte("lost"))
		synctest.Wait()
		p.link.Break()
		synctest.Wait()
		main.want("what was taken of the lane before", leave(0, introduction()+uint64(len(appendFrame(nil, data(0, 0, ""))))))
		main.send(leave(0, before))
		main.want("again", data(0, 0, "lost"))
		p.conn.mu.Lock()
		s.weight.add(maxLevel) // bulk
		p.conn.mu.Unlock()
		go s.Write([]byte("more"))
		side.wantQuiet("the peer need not have what was sent again")
		p.conn.mu.Lock()
		sent := p.conn.main.sent
		p.conn.mu.Unlock()
		main.send(number(frameAck, sent))
		side.want("it has", data(0, 4, "more"))
	})
}

// TestSaidAgain: of what was said over a lane and not heard, the last word about
// each credit is said again, and nothing about the lane itself.
func TestSaidAgain(t *testing.T) {
	cfg := Config{KeepAlive: -1, Keep: 1 << 20, Budget: 1 << 20, MaxStreams: 16}
	withPeer(t, cfg, func(p *peer) {
		p.conn.mu.Lock()
		before := p.conn.main.sent
		p.conn.mu.Unlock()
		full := strings.Repeat("x", maxPayload)
		p.send(data(0, 0, full))
		s := p.accept()
		for at := uint64(maxPayload); at < 512<<10; at += maxPayload {
			io.ReadFull(s, make([]byte, maxPayload))
			p.send(data(0, at, full))
		}
		for id := uint64(2); id < 10; id += 2 {
			p.send(dataFin(id, 0, ""))
			p.accept().Close()
		}
		p.send(number(framePing, 5))
		p.conn.mu.Lock()
		credit, streams, one, taken := p.conn.receiveSaid, p.conn.arriveSaid, s.receiveSaid, p.conn.main.taken
		p.conn.mu.Unlock()
		if credit == cfg.budget() || streams == 16 || one == firstWindow {
			t.Fatal("there is no news of credit")
		}
		p.link.Break()
		synctest.Wait()
		p.join(7, 0, taken)
		p.send(number(frameLane, 7), leave(0, before))
		again := []frame{
			number(frameCredit, credit), number(frameStreams, streams), streamCredit(0, one),
			dataFin(2, 0, ""), dataFin(4, 0, ""), dataFin(6, 0, ""), dataFin(8, 0, ""),
		}
		p.wantAll(again)

		p.link.Break() // and once more
		synctest.Wait()
		p.conn.mu.Lock()
		more := p.conn.main.taken
		p.conn.mu.Unlock()
		left, right := memnet.Pipe()
		p.conn.Join(right, 8)
		p.link = left
		p.read(len(preface))
		p.want("its number", number(frameLane, 8))
		p.want("the word about the first, which may not have been heard", leave(0, taken))
		p.want("and the one about the second", leave(7, more))
		p.want("and a ping", number(framePing, 1))
		p.write(preface)
		p.send(number(frameLane, 8), leave(7, uint64(len(preface))))
		p.wantAll(again)
	})
}

// wantAll checks that the Conn says these, in whatever order, and nothing else.
func (p *peer) wantAll(all []frame) {
	p.t.Helper()
	count := map[string]int{}
	for range all {
		count[p.next().String()]++
	}
	for _, want := range all {
		if count[want.String()] != 1 {
			p.t.Errorf("%v was said %d times", want, count[want.String()])
		}
	}
	p.wantQuiet("that was all")
}

// TestLanesThatNeverCame: a Conn that lives for long, and misses a lane now and
// then, remembers little of that, and answers for all.
func TestLanesThatNeverCame(t *testing.T) {
	withPeer(t, keepQuietly, func(p *peer) {
		p.conn.mu.Lock()
		for range 2000 {
			p.conn.missedLocked(p.conn.highest + 1)
			p.conn.highest++ // which did come
		}
		if n := len(p.conn.absent); n > maxAbsent {
			t.Errorf("%d spans are remembered", n)
		}
		p.conn.mu.Unlock()
		for _, n := range []uint64{1, 1001, 3999} {
			p.send(leave(n, 0))
			p.want("it never came", leave(n, 0))
		}
	})
}

// TestClosedOnOneLane: a peer that says close need not say it everywhere.
func TestClosedOnOneLane(t *testing.T) {
	for name, end := range map[string]func(q *peer) time.Duration{
		"the other is lost":  func(q *peer) time.Duration { q.link.Break(); return 0 },
		"the other stays":    func(q *peer) time.Duration { return closeTime },
		"the other says so":  func(q *peer) time.Duration { q.send(frame{kind: frameClose}); return 0 },
		"the other is given": func(q *peer) time.Duration { q.conn.Lanes()[1].Leave(); return 0 },
	} {
		t.Run(name, func(t *testing.T) {
			withPeer(t, keepQuietly, func(p *peer) {
				q := p.beside(7)
				p.send(frame{kind: frameClose})
				if p.conn.Err() != nil {
					t.Error("what may still come on the other lane was not waited for")
				}
				began := time.Now()
				want := end(q)
				<-p.conn.Done()
				if took := time.Since(began); took != want {
					t.Errorf("it ended after %v, want %v", took, want)
				}
				if err, ok := p.conn.Err().(*ConnError); !ok || !err.Remote {
					t.Errorf("it ended with %v", p.conn.Err())
				}
				q.link.Close()
			})
		})
	}
}

// TestAside: bulk goes to a lane of its own, and comes back when it is none any
// more, but not before the peer has what was sent on the lane that it leaves.
func TestAside(t *testing.T) {
	withPeer(t, keepQuietly, func(p *peer) {
		p.send(data(0, 0, ""))
		s := p.accept()
		side := p.beside(7)
		ack := func(q *peer, lane int) {
			p.conn.mu.Lock()
			sent := p.conn.all[lane].sent
			p.conn.mu.Unlock()
			q.send(number(frameAck, sent))
		}
		p.send(number(framePong, 1))
		s.Write([]byte("one"))
		p.want("as everybody", data(0, 0, "one"))
		p.conn.mu.Lock()
		s.weight.add(maxLevel)
		p.conn.mu.Unlock()
		go s.Write([]byte("two"))
		p.want("it wants to know", number(framePing, 2))
		side.wantQuiet("the peer may not have what came before")
		ack(p, 0)
		side.want("now it has", data(0, 3, "two"))
		p.conn.mu.Lock()
		s.weight = weight{}
		p.conn.mu.Unlock()
		s.Write([]byte("three"))
		side.want("the peer may not have what came before", data(0, 6, "three"))
		ack(side, 1)
		s.Write([]byte("four"))
		p.want("as everybody", data(0, 11, "four"))
	})
}

// TestLostTwice: what was not sent again yet when the next lane is lost as well
// comes behind what was.
func TestLostTwice(t *testing.T) {
	withPeer(t, keepQuietly, func(p *peer) {
		const size = 400 << 10
		p.send(data(0, 0, ""), number(frameCredit, 1<<30), streamCredit(0, 1<<30))
		s := p.accept()
		go io.Copy(io.Discard, p.link)
		s.Write(make([]byte, size))
		synctest.Wait()
		p.conn.mu.Lock()
		taken := p.conn.main.taken
		p.conn.mu.Unlock()
		p.link.Break()
		synctest.Wait()
		p.join(7, 0, taken)
		p.send(number(frameLane, 7), leave(0, uint64(len(preface)))) // and nobody reads what is sent again
		p.conn.mu.Lock()
		if again := p.conn.main.again; len(again) < 2 {
			t.Errorf("%d batches are still to be sent again", len(again))
		}
		p.conn.mu.Unlock()
		p.link.Break()
		synctest.Wait()
		left, right := memnet.Pipe()
		p.conn.Join(right, 8)
		p.link = left
		p.read(len(preface))
		p.write(preface)
		p.send(number(frameLane, 8), leave(7, uint64(len(preface))))
		for at := uint64(0); at < size; {
			if f := p.next(); f.kind == frameData {
				if f.offset != at {
					t.Fatalf("offset %d comes after %d", f.offset, at)
				}
				at += uint64(len(f.data))
			}
		}
	})
}
