package mux

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
)

// TestPoolBoundsManyConns lets peers send all that they may on Conns that share
// a Pool, while nobody reads.
func TestPoolBoundsManyConns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, conns, streams = 8 << 20, 16, 100
		pool := NewPool(limit)
		var reset int
		for range conns {
			a, b := bounded(t, Config{Pool: pool})
			for range streams {
				s, _ := joined(t, a, b)
				go func() {
					_, err := s.Write(make([]byte, firstWindow+1))
					if e, ok := errors.AsType[*StreamError](err); ok && e.Remote && e.Code == CodeMemory {
						reset++
					}
				}()
				synctest.Wait()
			}
		}
		if most := limit + conns*(poolShare+maxPayload); pool.Held() > most {
			t.Errorf("%d bytes are held, at most %d should be", pool.Held(), most)
		}
		if pool.Held() < limit-2*firstWindow {
			t.Errorf("%d bytes are held, while there is room for %d", pool.Held(), limit)
		}
		if reset == 0 {
			t.Error("nobody was reset")
		}
	})
}

// TestPoolSparesTheSmall is a Conn that holds a little for slow readers beside
// one that takes all there is and says nothing more.
func TestPoolSparesTheSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := NewPool(2 << 20)
		fill := func(a, b *Conn, streams int) {
			for range streams {
				s, _ := joined(t, a, b)
				go s.Write(make([]byte, firstWindow))
				synctest.Wait()
			}
		}
		greedy, greedyPeer := bounded(t, Config{Pool: pool})
		fill(greedyPeer, greedy, 200)
		a, b := bounded(t, Config{Pool: pool})
		fill(a, b, poolShare/firstWindow-1)
		for i := range 200 {
			s, r := joined(t, a, b)
			go func() {
				io.Copy(r, r)
				r.Close()
			}()
			s.Write(make([]byte, 4096))
			s.CloseWrite()
			if got, err := io.ReadAll(s); len(got) != 4096 || err != nil {
				t.Fatalf("exchange %d: %d bytes and %v", i, len(got), err)
			}
			s.Close()
		}
		if b.NumStreams() < poolShare/firstWindow-1 {
			t.Errorf("%d of its streams are left", b.NumStreams())
		}
		if most := int64(3 << 20); greedy.held.Load()+b.held.Load() > most {
			t.Errorf("%d bytes are held", pool.Held())
		}
	})
}

// TestPoolTakesFromTheGreatest has a Pool overflow because of somebody who
// holds less than somebody else.
func TestPoolTakesFromTheGreatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := NewPool(6 << 20)
		a, aPeer := bounded(t, Config{Pool: pool})
		b, bPeer := bounded(t, Config{Pool: pool})
		fill := func(conn, peer *Conn, streams, each int) {
			for range streams {
				s, _ := joined(t, peer, conn)
				go s.Write(make([]byte, each))
				synctest.Wait()
			}
		}
		fill(a, aPeer, 100, 1000)
		fill(a, aPeer, 110, firstWindow)
		fill(b, bPeer, 50, firstWindow)
		before := b.NumStreams()
		fill(b, bPeer, 33, firstWindow)
		if n := b.NumStreams(); n != before+33 {
			t.Errorf("the smaller Conn has %d streams of %d left", n, before+33)
		}
		small := 0
		a.mu.Lock()
		for _, s := range a.streams {
			if s.arrived.size == 1000 {
				small++
			}
		}
		a.mu.Unlock()
		if small != 100 || pool.Held() > 6<<20+maxPayload {
			t.Errorf("%d small streams of 100 are left, %d bytes are held", small, pool.Held())
		}
	})
}

func TestPoolCountsWhatDeadConnsHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := NewPool(4 << 20)
		var held []*Stream
		for range 10 {
			a, b := bounded(t, Config{Pool: pool})
			for range 100 {
				s, r := joined(t, a, b)
				go s.Write(make([]byte, firstWindow))
				held = append(held, r)
				synctest.Wait()
			}
			a.Close()
			b.Wait()
		}
		total := 0
		for _, r := range held {
			total += r.arrived.size
		}
		if total != pool.Held() || total > 4<<20+10*poolShare {
			t.Errorf("%d bytes are held, and %d counted", total, pool.Held())
		}
		for _, r := range held {
			r.Close()
		}
		if pool.Held() != 0 || len(pool.conns) > 0 {
			t.Errorf("%d bytes and %d Conns are left", pool.Held(), len(pool.conns))
		}
	})
}

func TestPoolForgetsWhatNobodyAccepts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := NewPool(1 << 20)
		a, b := bounded(t, Config{Pool: pool})
		for range 2 {
			s, err := a.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			s.Write(make([]byte, 100))
		}
		synctest.Wait()
		if pool.Held() != 200 {
			t.Errorf("%d bytes are held", pool.Held())
		}
		a.Close()
		b.Wait()
		if pool.Held() != 0 {
			t.Errorf("%d bytes are held for nobody", pool.Held())
		}
		s, err := b.Accept(t.Context())
		if err != nil || pool.Held() != 100 {
			t.Errorf("%v, %d bytes are held", err, pool.Held())
		}
		s.Close()
		if pool.Held() != 0 {
			t.Errorf("%d bytes are held still", pool.Held())
		}
	})
}

// TestPoolForgetsWhatArrivesTooLate has a Conn end in the middle of a frame for
// a stream that nobody accepts.
func TestPoolForgetsWhatArrivesTooLate(t *testing.T) {
	pool := NewPool(1 << 20)
	withPeer(t, Config{KeepAlive: -1, Pool: pool}, func(p *peer) {
		p.ignore()
		big := string(appendFrame(nil, data(0, 0, string(make([]byte, maxPayload)))))
		p.write(big[:100])
		synctest.Wait()
		closed := make(chan struct{})
		go func() {
			p.conn.Close()
			close(closed)
		}()
		synctest.Wait()
		p.write(big[100:])
		synctest.Wait()
		if pool.Held() != 0 {
			t.Errorf("%d bytes are held for nobody", pool.Held())
		}
		p.link.Close()
		<-closed
	})
}

func TestPoolStopsWindowsAtHalf(t *testing.T) {
	for name, limit := range map[string]int{"room": 1 << 30, "none": 0} {
		t.Run(name, func(t *testing.T) {
			withPeer(t, Config{KeepAlive: -1, Pool: NewPool(limit)}, func(p *peer) {
				p.ignore()
				p.send(data(0, 0, string(make([]byte, maxPayload))), data(0, maxPayload, string(make([]byte, maxPayload))))
				p.send(blocked(0, firstWindow))
				s := p.accept()
				io.ReadFull(s, make([]byte, firstWindow))
				synctest.Wait()
				p.conn.mu.Lock()
				defer p.conn.mu.Unlock()
				if grew := s.window > firstWindow; grew != (limit > 0) {
					t.Errorf("the window is %d", s.window)
				}
			})
		})
	}
}

func TestPoolGetsEverythingBack(t *testing.T) {
	pool := NewPool(64 << 10)
	for name, end := range map[string]func(conn *Conn, s *Stream){
		"read":      func(_ *Conn, s *Stream) { io.ReadFull(s, make([]byte, 100)) },
		"closed":    func(_ *Conn, s *Stream) { s.Close() },
		"reset":     func(_ *Conn, s *Stream) { s.Reset(CodeNone) },
		"Conn gone": func(conn *Conn, s *Stream) { conn.Close(); io.ReadAll(s); s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := bounded(t, Config{Pool: pool})
				s, r := joined(t, a, b)
				s.Write(make([]byte, 100))
				synctest.Wait()
				if pool.Held() != 100 {
					t.Errorf("%d bytes are held", pool.Held())
				}
				end(b, r)
				synctest.Wait()
				if pool.Held() != 0 {
					t.Errorf("%d bytes are held still", pool.Held())
				}
			})
		})
	}
}
