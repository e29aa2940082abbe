package mux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
)

// ignore reads what the Conn says, and forgets it.
func (p *peer) ignore() { go io.Copy(io.Discard, p.link) }

// held returns how much memory what has arrived on s takes.
func held(s *Stream) (bytes int) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	for k := s.arrived.head; k != nil; k = k.next {
		bytes += len(k.buf)
	}
	return bytes
}

func TestRepeatsOfBigFramesHoldNothing(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.ignore()
		big := strings.Repeat("x", maxPayload)
		p.send(data(0, 0, big))
		s := p.accept()
		for range 2 * floodBurst {
			if _, err := p.link.Write(appendFrame(nil, data(0, 0, big))); err != nil {
				break
			}
		}
		synctest.Wait()
		if n := held(s); n > 2*maxPayload {
			t.Errorf("%d bytes are held for %d", n, maxPayload)
		}
		if e, ok := errors.AsType[*ConnError](p.conn.Err()); !ok || e.Code != CodeFlood {
			t.Errorf("the Conn ended with %v, want CodeFlood", p.conn.Err())
		}
	})
}

func TestOverlapsHoldWhatIsNew(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.ignore()
		big := strings.Repeat("x", bigPayload+1000)
		p.send(data(0, 0, big))
		s := p.accept()
		for i := range uint64(5000) {
			p.write(string(appendFrame(nil, data(0, i+1, big))))
		}
		synctest.Wait()
		if n := held(s); n > 4*s.arrived.size {
			t.Errorf("%d bytes are held for %d", n, s.arrived.size)
		}
	})
}

func TestWhatSomeLeaveIsForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := bounded(t, Config{Budget: 1 << 20})
		live, r := joined(t, a, b)
		go io.Copy(io.Discard, r)
		live.Write(make([]byte, 1<<18-1)) // just less than is worth a frame of credit
		synctest.Wait()
		for range 25 { // and nobody reads these
			s, _ := joined(t, a, b)
			go s.Write(make([]byte, 1<<20))
			synctest.Wait()
		}
		live.SetWriteDeadline(time.Now().Add(time.Hour))
		if _, err := live.Write([]byte("hello")); err != nil {
			t.Errorf("%v, while a quarter of the budget is free", err)
		}
	})
}

// TestPeerThatDoesNotRead opens and ends streams for as long as it is let. What
// we have to say about each waits for it, and must not wait without bound.
func TestPeerThatDoesNotRead(t *testing.T) {
	for name, accepted := range map[string]bool{"nobody accepts": false, "somebody accepts and closes": true} {
		t.Run(name, func(t *testing.T) {
			withPeer(t, quietly, func(p *peer) {
				if accepted {
					go func() {
						for {
							s, err := p.conn.Accept(context.Background())
							if err != nil {
								return
							}
							s.Close()
						}
					}()
				}
				var b []byte
				for i := range uint64(100_000) {
					if !accepted {
						b = appendFrame(b, stop(2*i, 0))
					}
					b = appendFrame(b, dataFin(2*i, 0, ""))
					if len(b) > 16<<10 {
						if _, err := p.link.Write(b); err != nil {
							break
						}
						b = b[:0]
						synctest.Wait()
					}
				}
				p.conn.mu.Lock()
				if n := p.conn.main.lenLocked(); n > 2*maxRoom {
					t.Errorf("%d bytes wait for it", n)
				}
				p.conn.mu.Unlock()
				p.link.Break()
			})
		})
	}
}

func TestClosedBeforeAcceptedArrivesWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := bounded(t, Config{MaxStreams: 16})
		for range 100 { // more than may be open: each frees its place
			s, err := a.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			s.Write([]byte("hello"))
			s.Close()
			synctest.Wait()
			r, err := b.Accept(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); string(got) != "hello" || err != nil {
				t.Fatalf("got %q, %v", got, err)
			}
			r.Close()
		}
	})
}

func TestEveryPlaceCanBeTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := bounded(t, Config{MaxStreams: 16})
		for i := range 16 {
			s, r := joined(t, a, b)
			if i < 3 {
				s.Close()
				r.Close()
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := a.Open(ctx); err != nil {
			t.Errorf("with 13 streams of 16: %v", err)
		}
	})
}

// stuck is a conn whose Write waits for the gate to open.
type stuck struct {
	*memnet.Conn
	gate chan struct{}
}

func (s stuck) Write(p []byte) (int, error) {
	<-s.gate
	return s.Conn.Write(p)
}

func TestManyOpensAtOnceAreNoFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left, right := memnet.Pipe()
		gate := make(chan struct{}, 1)
		a, b := Client(stuck{left, gate}, quietly), Server(right, quietly)
		gate <- struct{}{} // preface and settings
		synctest.Wait()
		var last *Stream
		for range 6000 {
			var err error
			if last, err = a.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // the writer takes the first, and is stuck with it
		}
		last.Write([]byte("hello")) // leaves before the others are announced
		close(gate)
		synctest.Wait()
		if err := b.Err(); err != nil {
			t.Errorf("honest streams: %v", err)
		}
		a.Close()
		b.Close()
	})
}

func TestCreditDoesNotPileUp(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.send(data(0, 0, "x"))
		s := p.accept()
		go io.Copy(io.Discard, s)
		big := string(make([]byte, maxPayload))
		for i := range uint64(16_000) { // the road holds the credit of some of it
			if _, err := p.link.Write(appendFrame(nil, data(0, 1+i*maxPayload, big))); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		p.conn.mu.Lock()
		if n := p.conn.main.lenLocked(); n > 1<<10 {
			t.Errorf("%d bytes wait for a peer that does not read", n)
		}
		p.conn.mu.Unlock()
		p.link.Break()
	})
}

// TestFloodAtItsRate sends as much as may come, and then a little more, for an
// hour.
func TestFloodAtItsRate(t *testing.T) {
	for rate, fine := range map[int]bool{floodRate * 49 / 50: true, floodRate + floodRate/50: false} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			withPeer(t, quietly, func(p *peer) {
				p.ignore()
				extension := appendFrame(nil, frame{kind: frameExtension})
				pause := time.Second / time.Duration(2*rate)
				for range rate * 600 {
					if _, err := p.link.Write(extension); err != nil {
						break
					}
					pause = 2*time.Second/time.Duration(rate) - pause // long, short, long
					time.Sleep(pause)
				}
				synctest.Wait()
				if err := p.conn.Err(); (err == nil) != fine {
					t.Errorf("after ten minutes at %d a second: %v", rate, err)
				}
			})
		})
	}
}

func TestPongsDoNotPileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left, right := memnet.Pipe()
		gate := make(chan struct{}, 1)
		c := Server(stuck{right, gate}, quietly)
		gate <- struct{}{} // preface and settings
		synctest.Wait()
		go io.Copy(io.Discard, left)
		left.Write([]byte(preface))
		b := appendFrame(nil, frame{kind: frameSettings})
		for i := range uint64(1000) {
			b = appendFrame(b, number(framePing, i))
		}
		left.Write(b) // the writer takes the first pong, and is stuck with it
		synctest.Wait()
		left.Write(b[len(appendFrame(nil, frame{kind: frameSettings})):])
		synctest.Wait()
		c.mu.Lock()
		if n := c.main.lenLocked(); n > maxPrefix {
			t.Errorf("%d bytes wait for a peer that does not read", n)
		}
		c.mu.Unlock()
		close(gate)
		left.Close()
		c.Close()
	})
}

func TestPingInALoopIsNoFlood(t *testing.T) {
	a, b := memnet.Pipe()
	c, s := Client(a, Config{}), Server(b, Config{})
	defer s.Close()
	defer c.Close()
	for i := range 4 * floodBurst {
		if _, err := c.Ping(t.Context()); err != nil {
			t.Fatalf("ping %d: %v", i, err)
		}
	}
}

func TestCreditBeyondAnInt(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.send(data(0, 0, ""), number(frameCredit, 1<<40), streamCredit(0, 1<<40))
		s := p.accept()
		go s.Write([]byte("hello"))
		p.want("where int has 32 bits as well", data(0, 0, "hello"))
	})
}

// TestPeerThatEndsNothing lets us open and close as many streams as we like,
// and never ends its side of any.
func TestPeerThatEndsNothing(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.ignore()
		p.send(number(frameStreams, 1<<40))
		for range maxOpen {
			s, err := p.conn.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
		}
		ctx, cancel := context.WithCancel(context.Background())
		opened := make(chan error)
		go func() {
			_, err := p.conn.Open(ctx)
			opened <- err
		}()
		synctest.Wait()
		select {
		case <-opened:
			t.Fatal("a stream was opened beyond the bound")
		default:
		}
		p.send(reset(1, 0, 0)) // it ends one
		if err := <-opened; err != nil {
			t.Error(err)
		}
		cancel()
		if n := p.conn.NumStreams(); n != maxOpen {
			t.Errorf("%d streams are left", n)
		}
	})
}

// waiting is a conn whose empty Read is an error: some wait in it for the next
// byte, net.Pipe's and a WebSocket's among them.
type waiting struct {
	net.Conn
	t *testing.T
}

func (w waiting) Read(p []byte) (int, error) {
	if len(p) == 0 {
		w.t.Error("an empty Read")
	}
	return w.Conn.Read(p)
}

func TestEndOfARepeatIsHeardAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left, right := net.Pipe()
		c := Server(waiting{right, t}, quietly)
		go io.Copy(io.Discard, left)
		big := strings.Repeat("x", maxPayload)
		b := append([]byte(preface), appendFrame(nil, frame{kind: frameSettings})...)
		b = appendFrame(b, data(0, 0, big))
		b = appendFrame(b, dataFin(0, 0, big))
		left.Write(b)
		s, err := c.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.SetReadDeadline(time.Now().Add(time.Minute))
		if got, err := io.ReadAll(s); len(got) != maxPayload || err != nil {
			t.Errorf("read %d bytes and %v", len(got), err)
		}
		left.Close()
		c.Close()
	})
}

func TestNothingIsSaidAfterClose(t *testing.T) {
	for range 2000 { // the writer is at the right place in one of some hundred
		synctest.Test(t, func(t *testing.T) {
			w := newWire(false)
			c := Server(w, quietly)
			synctest.Wait()
			w.taken()
			w.give([]byte(preface + "\x0c\x00\x00"))
			synctest.Wait()
			c.Open(t.Context())            // the writer wakes to announce it,
			w.give([]byte("\x0d\x00\x00")) // and the reader ends the Conn
			synctest.Wait()
			for said := w.taken(); len(said) > frameHeader; {
				kind, n := said[0], frameHeader+(int(said[1])<<8|int(said[2]))
				if said = said[n:]; kind == frameClose && len(said) > 0 {
					t.Fatalf("after close came % x", said)
				}
			}
			w.end(nil)
			c.Close()
		})
	}
}

func TestFloodAfterAWhileIsAFlood(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.ignore()
		time.Sleep(time.Minute)
		for range floodBurst + 1 {
			p.link.Write(appendFrame(nil, number(framePing, 1)))
		}
		synctest.Wait()
		if p.conn.Err() == nil {
			t.Errorf("%d pings at once pass", floodBurst+1)
		}
	})
}

// bounded returns both ends of a Conn, closed when the test ends.
func bounded(t *testing.T, cfg Config) (a, b *Conn) {
	left, right := memnet.Pipe()
	a, b = Client(left, cfg), Server(right, cfg)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// joined returns both ends of a new stream.
func joined(t *testing.T, a, b *Conn) (s, r *Stream) {
	t.Helper()
	s, err := a.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r, err = b.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, r
}
