package mux

import (
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
)

// TestRoomIsAskedFor: who can keep little, or less than usual, has the peer
// acknowledge what it has, and does not wait until it says something else.
func TestRoomIsAskedFor(t *testing.T) {
	for name, cfg := range map[string]Config{
		"little":         {Keep: 1},
		"a few batches":  {Keep: 64 << 10},
		"no memory left": {Keep: 8 << 20, Pool: NewPool(1)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg.KeepAlive = -1
				r := &road{t: t, link: memnet.Link{Delay: 5 * time.Millisecond}}
				r.begin(cfg)
				s, _ := r.ends[0].Open(t.Context())
				p, _ := r.ends[1].Accept(t.Context())
				hurry := time.AfterFunc(5*time.Second, func() { p.Reset(0) })
				var wg sync.WaitGroup
				for _, s := range []*Stream{s, p} {
					s.conn.mu.Lock()
					s.window = 4 << 20 // as it becomes for bulk
					s.conn.offerCreditLocked(s)
					s.conn.mu.Unlock()
					wg.Go(func() {
						for range 200 {
							s.Write(make([]byte, 5000))
						}
						s.CloseWrite()
					})
					wg.Go(func() {
						if n, err := io.Copy(io.Discard, s); n != 1e6 || err != nil {
							t.Errorf("%d bytes arrived: %v", n, err)
						}
					})
				}
				wg.Wait()
				hurry.Stop()
				r.close()
			})
		})
	}
}

// TestRoomOnOtherLanes: when the peer has settled a lane, there is room again for
// whoever waits, on whichever lane.
func TestRoomOnOtherLanes(t *testing.T) {
	withPeer(t, keepQuietly, func(p *peer) {
		p.send(data(0, 0, ""))
		s := p.accept()
		main, side := p.beside(7), p.beside(8)
		p.conn.mu.Lock()
		first := p.conn.all[0]
		first.kept[0].b = append(make([]byte, 0, keepQuietly.keep()), first.kept[0].b...)
		p.conn.keptLocked(cap(first.kept[0].b))
		s.weight.add(maxLevel) // bulk
		s.takeLaneLocked(p.conn.all[2])
		p.conn.mu.Unlock()
		p.link.Break()
		synctest.Wait()
		go s.Write([]byte("bulk"))
		side.wantQuiet("there is no room")
		main.send(leave(0, first.sent))
		side.want("there is", data(0, 0, "bulk"))
	})
}

// TestBuffersAreFilled: what is kept of batches that are small is not many large
// buffers that are almost empty.
func TestBuffersAreFilled(t *testing.T) {
	for size, most := range map[int]int{1: smallBatch, 2 * smallBatch: 20 * smallBatch * 5 / 4} {
		withPeer(t, keepQuietly, func(p *peer) {
			p.send(data(0, 0, ""), number(frameCredit, 1<<30), streamCredit(0, 1<<30))
			s := p.accept()
			p.conn.mu.Lock()
			before := p.conn.kept
			p.conn.mu.Unlock()
			for range 10 {
				p.conn.mu.Lock()
				p.conn.main.out = &batch{b: make([]byte, 0, 2*maxRoom)} // as bulk leaves them
				p.conn.mu.Unlock()
				s.Write(make([]byte, size))
				synctest.Wait()
			}
			if kept := int(p.conn.kept - before); kept > most {
				t.Errorf("%d bytes are kept of %d that were sent", kept, s.sent)
			}
		})
	}
}
