package mux

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/culvertd/culvert/internal/memnet"
)

// TestTurns has the writer stuck while bulk of many streams, and more small
// things than fit a batch, wait for it.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left, right := memnet.Link{Buffer: 32 << 20}.Pipe()
		gate := make(chan struct{}, 10_000)
		c := Server(stuck{right, gate}, quietly)
		left.Write([]byte(preface))
		left.Write(appendFrame(nil, frame{kind: frameSettings, data: appendSettings(nil, settings{streamCredit: 1 << 20, credit: 1 << 30, streams: 1 << 20})}))

		var wg sync.WaitGroup
		write := func(s *Stream, n int) {
			wg.Go(func() { s.Write(make([]byte, n)) })
			synctest.Wait()
		}
		begin := func() *Stream {
			s, err := c.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		const small, heavy = 2000, 64
		isHeavy := make(map[uint64]*Stream)
		for range cap(gate) {
			gate <- struct{}{}
		}
		for range heavy {
			s := begin()
			isHeavy[s.ID()] = s
			write(s, maxLevel)
		}
		wg.Wait()
		for len(gate) > 0 {
			<-gate
		}
		for _, s := range isHeavy {
			write(s, 64<<10)
		}
		for range small {
			write(begin(), 1000)
		}
		close(gate)
		wg.Wait()
		synctest.Wait()

		p := peer{t: t, link: left, conn: c}
		p.read(len(preface))
		var bulk, before int // bytes of bulk; frames of it before the last small one, once all was bulk
		for light, since := 0, 0; light < small || bulk < heavy*(maxLevel+64<<10); {
			f := p.next()
			switch {
			case len(f.data) == 0 || f.kind != frameData:
			case isHeavy[f.stream] == nil:
				light++
				before, since = before+since, 0
			default:
				if bulk += len(f.data); bulk > heavy*maxLevel {
					since++
				}
			}
		}
		// A batch and a bit were out of our hands when the small ones came.
		// Each batch after that has one turn for bulk.
		if before < 12 || before > 48 {
			t.Errorf("%d frames of bulk went before the last of %d small ones", before, small)
		}
		left.Close()
		c.Close()
	})
}
