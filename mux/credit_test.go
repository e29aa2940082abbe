package mux

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestWriterStopsAtItsCredit(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.send(data(0, 0, ""))
		s := p.accept()
		rest := strings.Repeat("x", floorStreamCredit)
		go s.Write([]byte(rest + "tail"))
		p.want("as much as the peer's floor allows", data(0, 0, rest))
		p.want("and that we wait", blocked(0, floorStreamCredit))
		p.wantQuiet("the rest waits for credit")
		p.send(streamCredit(0, floorStreamCredit+2))
		p.want("credit lets it go", data(0, floorStreamCredit, "ta"))
		p.want("we wait again", blocked(0, floorStreamCredit+2))
		p.send(streamCredit(0, 1)) // older than what we have: RFC 9000, section 4.1
		p.wantQuiet("credit never shrinks")
		p.send(streamCredit(0, 1<<20))
		p.want("the end", data(0, floorStreamCredit+2, "il"))
		s.CloseWrite()
		p.want("the end of our direction", dataFin(0, floorStreamCredit+4, ""))
	})
}

func TestSessionsCreditHoldsAllStreams(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		for i := range uint64(5) {
			p.send(data(2*i, 0, ""), streamCredit(2*i, 1<<20))
		}
		whole := strings.Repeat("x", floorCredit/4)
		for i := range uint64(5) {
			s := p.accept()
			go s.Write([]byte(whole))
			synctest.Wait()
			if i < 4 {
				p.want("inside the credit of all", data(2*i, 0, whole))
			}
		}
		p.wantQuiet("four streams have used it up")
		p.send(number(frameCredit, floorCredit+1))
		p.want("one byte more", data(8, 0, "x"))
		p.send(number(frameCredit, 1<<30))
		p.want("the rest", data(8, 1, whole[1:]))
	})
}

func TestReadingReturnsCredit(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.send(data(0, 0, strings.Repeat("x", firstWindow/2)))
		p.wantQuiet("nobody has read")
		s := p.accept()
		io.ReadFull(s, make([]byte, firstWindow/2))
		p.want("half a window is worth a frame", streamCredit(0, firstWindow*3/2))
	})
}

func TestWindowGrowsWhenItIsWhatHoldsUpThePeer(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.send(data(0, 0, strings.Repeat("x", firstWindow/2)), data(0, firstWindow/2, strings.Repeat("x", firstWindow/2)))
		s := p.accept()
		p.send(blocked(0, firstWindow))
		io.ReadFull(s, make([]byte, firstWindow))
		p.want("a reader that is quick gets four times the window", streamCredit(0, firstWindow+4*firstWindow))
	})
}

func TestWindowStaysWhenTheReaderHoldsUpThePeer(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.send(data(0, 0, strings.Repeat("x", firstWindow/2)), data(0, firstWindow/2, strings.Repeat("x", firstWindow/2)))
		s := p.accept()
		p.send(blocked(0, firstWindow))
		time.Sleep(time.Second)
		io.ReadFull(s, make([]byte, firstWindow))
		p.want("a reader that is slow gets the window that it had", streamCredit(0, firstWindow+firstWindow))
	})
}

func TestWindowsGrowInsideTheBudget(t *testing.T) {
	cfg := Config{KeepAlive: -1, Budget: 1 << 20, StreamWindow: 1 << 20}
	withPeer(t, cfg, func(p *peer) {
		p.ignore()
		for i := range uint64(16) {
			p.send(data(2*i, 0, strings.Repeat("x", firstWindow/2)), data(2*i, firstWindow/2, strings.Repeat("x", firstWindow/2)))
		}
		for i := range uint64(16) { // each of them could use four times its window
			p.send(blocked(2*i, firstWindow))
			io.ReadFull(p.accept(), make([]byte, firstWindow))
		}
		p.conn.mu.Lock()
		defer p.conn.mu.Unlock()
		if p.conn.windows != 1<<20 {
			t.Errorf("the windows are %d together, want all of %d", p.conn.windows, 1<<20)
		}
	})
}

func TestDiscardedBytesReturnTheirCredit(t *testing.T) {
	cfg := Config{KeepAlive: -1, Budget: 1 << 20}
	withPeer(t, cfg, func(p *peer) {
		// Each stream is closed here unread, reset there, or both; none may
		// take anything from the budget for good.
		sent := uint64(0)
		for i := range uint64(200) {
			id := 2 * i
			p.send(data(id, 0, strings.Repeat("x", 10_000)))
			sent += firstWindow
			switch i % 3 {
			case 0: // nobody ever accepts it
				p.send(reset(id, 0, firstWindow), stop(id, 0))
			case 1:
				p.accept().Close()
				p.send(reset(id, 0, firstWindow), stop(id, 0))
			case 2:
				s := p.accept()
				p.send(reset(id, 0, firstWindow), stop(id, 0))
				s.Close()
			}
		}
		credit := uint64(0)
		p.conn.GoAway()
		for f := p.next(); f.kind != frameGoAway; f = p.next() {
			if f.kind == frameCredit {
				credit = f.value
			}
		}
		if credit < sent {
			t.Errorf("the peer was left with %d of %d bytes of credit", credit, sent)
		}
	})
}

func TestCreditOfALargeWindowIsSaidInEighths(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.send(data(0, 0, ""))
		s := p.accept()
		p.conn.mu.Lock()
		s.window, s.receiveSaid = 16<<20, 16<<20
		p.conn.mu.Unlock()
		for i := range uint64(2 << 20 / maxPayload) {
			p.send(data(0, i*maxPayload, strings.Repeat("x", maxPayload)))
		}
		io.ReadFull(s, make([]byte, 2<<20-1))
		p.wantQuiet("less than an eighth was read")
		s.Read(make([]byte, 1))
		p.want("an eighth is worth a frame", streamCredit(0, 18<<20))
	})
}
