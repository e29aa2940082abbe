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
		if pool.Held() < limit {
			t.Errorf("%d bytes are held, while there is room for %d", pool.Held(), limit)
		}
		if reset == 0 {
			t.Error("nobody was reset")
		}

		a, b := bounded(t, Config{Pool: pool})
		s, r := joined(t, a, b)
		got := make(chan int64)
		go func() {
			n, _ := io.Copy(io.Discard, r)
			got <- n
		}()
		s.Write(make([]byte, 4<<20))
		s.CloseWrite()
		if n := <-got; n != 4<<20 {
			t.Errorf("somebody who reads got %d bytes of %d", n, 4<<20)
		}
	})
}

func TestPoolStopsWindowsAtHalf(t *testing.T) {
	for name, limit := range map[string]int{"room": 1 << 30, "none": 0} {
		t.Run(name, func(t *testing.T) {
			withPeer(t, Config{KeepAlive: -1, Pool: NewPool(limit)}, func(p *peer) {
				p.ignore()
				if limit == 0 {
					p.conn.pool.add(1)
				}
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
