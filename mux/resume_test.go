package mux

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
)

// keepQuietly is quietly, with something kept.
var keepQuietly = Config{KeepAlive: -1, Keep: 1 << 20}

// introduction is what a peer has sent when withPeer is done, for keepQuietly.
func introduction() uint64 {
	said := floorSettings
	said.keep = keepQuietly.keep()
	return uint64(len(preface) + len(appendFrame(nil, frame{kind: frameSettings, data: appendSettings(nil, said)})))
}

// join lays another lane to the Conn. What the Conn says first has been read.
func (p *peer) join(number, lost, taken uint64) {
	p.t.Helper()
	left, right := memnet.Pipe()
	if _, err := p.conn.Join(right, number); err != nil {
		p.t.Fatal(err)
	}
	p.link = left
	if got := p.read(len(preface)); string(got) != preface {
		p.t.Fatalf("the preface is %q", got)
	}
	p.want("a lane says its number", frame{kind: frameLane, value: number})
	p.want("what was taken of the one before", leave(lost, taken))
	p.want("and a ping", frame{kind: framePing, value: 1})
	p.write(preface)
}

// TestLaneTranscript is the conversation of docs/protocol.md: a lane breaks, and
// another one goes on where it stopped, to the byte.
func TestLaneTranscript(t *testing.T) {
	withPeer(t, keepQuietly, func(p *peer) {
		p.send(data(0, 0, "hello"))
		s := p.accept()
		s.Write([]byte("one"))
		p.want("the first answer", data(0, 0, "one"))
		s.Write([]byte("two"))
		p.want("the second answer", data(0, 3, "two"))
		p.link.Break()
		synctest.Wait()
		if n := len(p.conn.Lanes()); n != 0 {
			t.Fatalf("%d lanes live, want none", n)
		}
		<-p.conn.Adrift()
		s.Write([]byte("three"))
		s.CloseWrite()

		heard := introduction() + uint64(len(appendFrame(nil, data(0, 0, "hello"))))
		p.join(7, 0, heard)
		p.wantQuiet("nothing is sent again before the peer has said what it has")
		// The peer has the first answer, and has not got the second.
		took := uint64(len(preface)) + 3 + uint64(len(appendSettings(nil, settings{
			firstWindow, keepQuietly.budget(), keepQuietly.maxStreams(), keepQuietly.keep(),
		})))
		took += uint64(len(appendFrame(nil, number(framePing, 1))))
		took += uint64(len(appendFrame(nil, data(0, 0, "one"))))
		p.send(number(frameLane, 7), leave(0, took))
		p.want("the second answer again, and not the first", data(0, 3, "two"))
		p.want("and what was written meanwhile, with the end", dataFin(0, 6, "three"))
		p.send(dataFin(0, 5, ""))
		if b, err := io.ReadAll(s); string(b) != "hello" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
	})
}

// TestHostileLanes: what a peer may get wrong about lanes ends the Conn.
func TestHostileLanes(t *testing.T) {
	for name, send := range map[string][]frame{
		"another number":                      {number(frameLane, 8)},
		"no number":                           {number(framePing, 1)},
		"a number twice":                      {number(frameLane, 7), number(frameLane, 7)},
		"settings twice":                      {number(frameLane, 7), {kind: frameSettings}},
		"more taken than was sent":            {number(frameLane, 7), leave(0, 1<<20)},
		"half of a frame taken":               {number(frameLane, 7), leave(0, uint64(len(preface))+1)},
		"the only lane given up on itself":    {number(frameLane, 7), leave(7, 0)},
		"more acknowledged than was sent":     {number(frameLane, 7), number(frameAck, 1<<20)},
		"data that skips what was under way":  {number(frameLane, 7), data(0, 100, "x")},
		"a lane that changes what it had got": {number(frameLane, 7), number(frameAck, 18), leave(7, 8), number(framePing, 9)},
	} {
		t.Run(name, func(t *testing.T) {
			withPeer(t, keepQuietly, func(p *peer) {
				p.link.Break()
				synctest.Wait()
				p.join(7, 0, introduction())
				p.send(send...)
				p.wantEnd(CodeProtocol)
			})
		})
	}
}

// TestJoinRefused: a lane that cannot be one is closed, and nothing else happens.
func TestJoinRefused(t *testing.T) {
	refused := func(p *peer, number uint64, want string) {
		left, right := memnet.Pipe()
		if _, err := p.conn.Join(right, number); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("join %d: %v, want %q", number, err, want)
		}
		if _, err := left.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the lane gives %v, want that it was closed", err)
		}
	}
	withPeer(t, keepQuietly, func(p *peer) {
		refused(p, 0, "lane 0 after lane 0")
		for n := range uint64(maxLanes - 1) {
			left, right := memnet.Pipe()
			defer left.Close()
			if _, err := p.conn.Join(right, 10+n); err != nil {
				t.Error(err)
			}
		}
		refused(p, 11, "lane 11 after lane 12")
		refused(p, 20, "more than 4 lanes")
		p.conn.Close()
		refused(p, 21, "closed")
	})
	withPeer(t, quietly, func(p *peer) { refused(p, 1, "nothing is kept") })
}

// TestPeerKeepsNothing: a Conn outlives its lane only if both ends can.
func TestPeerKeepsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := rawPeer(t, keepQuietly)
		p.write(preface)
		p.send(frame{kind: frameSettings, data: appendSettings(nil, floorSettings)})
		p.link.Break()
		<-p.conn.Done()
		if err := p.conn.Wait(); !errors.Is(err, memnet.ErrBroken) {
			t.Errorf("ended with %v, want what broke the lane", err)
		}
	})
}

// TestResumeWindow: a Conn that stays without a lane ends, and no stream takes
// that for an end of its own.
func TestResumeWindow(t *testing.T) {
	withPeer(t, keepQuietly, func(p *peer) {
		p.send(data(0, 0, "half of a body"))
		s := p.accept()
		p.link.Break()
		began := time.Now()
		b, err := io.ReadAll(s)
		if string(b) != "half of a body" || err == nil || !errors.Is(err, memnet.ErrBroken) {
			t.Errorf("read %q, %v; want the half, and what broke", b, err)
		}
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("ended after %v, want 30 s", took)
		}
		p.link.Close()
	})
}

// TestResumeWindowAgain: the time without a lane is counted anew each time.
func TestResumeWindowAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &road{t: t}
		r.begin(Config{Keep: 1 << 20, KeepAlive: -1})
		r.conns[0].Break()
		time.Sleep(20 * time.Second)
		r.join(1, 0)
		time.Sleep(5 * time.Second)
		r.conns[1].Break()
		time.Sleep(29 * time.Second)
		for _, c := range r.ends {
			if c.Err() != nil {
				t.Errorf("it ended after 29 s: %v", c.Err())
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for _, c := range r.ends {
			if c.Err() == nil {
				t.Error("it lives after 30 s")
			}
		}
		r.close()
	})
}

// TestOpenWaitsForLane: nothing is opened where it is sure to wait, and whoever
// is in a hurry can leave.
func TestOpenWaitsForLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &road{t: t}
		r.begin(Config{Keep: 1 << 20})
		r.conns[0].Break()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.ends[0].Open(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("opened without a lane: %v", err)
		}
		time.AfterFunc(5*time.Second, func() { r.join(1, 0) })
		began := time.Now()
		s, err := r.ends[0].Open(t.Context())
		if err != nil || time.Since(began) != 5*time.Second {
			t.Errorf("opened after %v: %v", time.Since(began), err)
		}
		if !s.Quiet() {
			t.Error("a new stream is not quiet")
		}
		r.ends[0].Lanes()[0].Leave()
		if s.Quiet() {
			t.Error("a stream without a lane is good for more")
		}
		r.close()
	})
}

// close ends both ends as they would in life: one after the other.
func (r *road) close() {
	for _, c := range r.ends {
		c.Close()
	}
}

// TestKeepIsBounded: who does not acknowledge makes us wait, not hold more.
func TestKeepIsBounded(t *testing.T) {
	testKeep(t, Config{KeepAlive: -1, Keep: 256 << 10})
	testKeep(t, Config{KeepAlive: -1, Keep: 8 << 20, Pool: NewPool(1)}) // half of which is always taken
}

func testKeep(t *testing.T, cfg Config) {
	synctest.Test(t, func(t *testing.T) {
		p := rawPeer(t, cfg)
		p.write(preface)
		p.send(frame{kind: frameSettings, data: appendSettings(nil, settings{streamCredit: 1 << 30, credit: 1 << 30, streams: 16, keep: 1})})
		read, total := make(chan int), 0
		go func() {
			b := make([]byte, 64<<10)
			for {
				n, err := p.link.Read(b)
				read <- n
				if err != nil {
					close(read)
					return
				}
			}
		}()
		p.send(data(0, 0, "x"))
		s := p.accept()
		wrote := make(chan error, 1)
		go func() {
			_, err := s.Write(make([]byte, 4<<20))
			wrote <- err
		}()
		took := uint64(8 + 3 + len(appendSettings(nil, settings{firstWindow, cfg.budget(), cfg.maxStreams(), cfg.keep()})) + 4)
		for round := 1; len(wrote) == 0; round++ {
			for idle := false; !idle; {
				select {
				case n := <-read:
					total += n
				case <-time.After(time.Second):
					idle = true
				}
			}
			p.conn.mu.Lock()
			kept := p.conn.kept
			p.conn.mu.Unlock()
			if kept > 256<<10+2*maxRoom {
				t.Errorf("%d bytes are kept, want little more than %d", kept, 256<<10)
			}
			if round > 100 {
				t.Fatalf("not all was written after %d bytes were acknowledged", total)
			}
			p.send(number(frameAck, took+uint64(total)))
		}
		if err := <-wrote; err != nil {
			t.Error(err)
		}
		go func() {
			for range read {
			}
		}()
		p.conn.Close()
		p.link.Close()
	})
}

// TestSilenceIsNoticed on both ends within five seconds, as agent and node have
// it, and not while bytes come, however slowly.
func TestSilenceIsNoticed(t *testing.T) {
	cfg := Config{Keep: 1 << 20, KeepAlive: 2 * time.Second, Timeout: 3 * time.Second}
	synctest.Test(t, func(t *testing.T) {
		r := &road{t: t, link: memnet.Link{Delay: 50 * time.Millisecond}}
		r.begin(cfg)
		time.Sleep(time.Minute)
		r.conns[0].Silence()
		began := time.Now()
		for side, c := range r.ends {
			<-c.Adrift()
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("side %d noticed after %v", side, took)
			}
		}
		r.close()
	})
	synctest.Test(t, func(t *testing.T) {
		r := &road{t: t, link: memnet.Link{Delay: 50 * time.Millisecond, Rate: 8 << 10, Buffer: 64 << 10}}
		r.begin(cfg)
		for side, c := range r.ends { // eight seconds of queue, in both directions
			s, err := c.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			go s.Write(make([]byte, 1<<20))
			go func() {
				p, err := r.ends[1-side].Accept(t.Context())
				if err == nil {
					io.Copy(io.Discard, p)
				}
			}()
		}
		time.Sleep(time.Minute)
		for side, c := range r.ends {
			if len(c.Lanes()) != 1 || c.Lanes()[0].number != 0 {
				t.Errorf("side %d took a slow link for a silent one", side)
			}
		}
		r.conns[0].Break()
		r.close()
	})
}

// TestProbe: a lane that answers lives, and one that does not is given up.
func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &road{t: t, link: memnet.Link{Delay: 50 * time.Millisecond}}
		r.begin(Config{Keep: 1 << 20})
		time.Sleep(time.Second)
		r.ends[0].Probe(200 * time.Millisecond)
		time.Sleep(time.Second)
		if len(r.ends[0].Lanes()) != 1 {
			t.Error("a lane that answers was given up")
		}
		r.conns[0].Silence()
		r.ends[0].Probe(200 * time.Millisecond)
		began := time.Now()
		<-r.ends[0].Adrift()
		if took := time.Since(began); took != 200*time.Millisecond {
			t.Errorf("given up after %v", took)
		}
		r.close()
	})
}

// TestPingGoesElsewhere: whoever waits for an answer has it from the lane that
// is the main one then.
func TestPingGoesElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &road{t: t, link: memnet.Link{Delay: 10 * time.Millisecond}}
		r.begin(Config{Keep: 1 << 20, KeepAlive: -1})
		r.join(1, 0)
		time.Sleep(time.Second)
		r.conns[0].Silence()
		time.AfterFunc(time.Second, r.ends[0].Lanes()[0].Leave)
		began := time.Now()
		if _, err := r.ends[0].Ping(t.Context()); err != nil || time.Since(began) != time.Second+20*time.Millisecond {
			t.Errorf("answered after %v: %v", time.Since(began), err)
		}
		r.close()
	})
}
