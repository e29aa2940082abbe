package mux

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
)

// TestCloseTakesASecondAtMost closes beside peers that do not do their part.
func TestCloseTakesASecondAtMost(t *testing.T) {
	for name, more := range map[string]func(p *peer){
		"reads and does not close":        func(p *peer) { p.ignore() },
		"neither reads nor closes":        func(p *peer) { fillUp(p) },
		"goes on sending":                 func(p *peer) { p.ignore(); go keepSending(p) },
		"sends and does not read":         func(p *peer) { fillUp(p); go keepSending(p) },
		"sends what is against all rules": func(p *peer) { p.ignore(); go p.link.Write([]byte{0x0d, 0, 0}) },
	} {
		t.Run(name, func(t *testing.T) {
			withPeer(t, quietly, func(p *peer) {
				more(p)
				synctest.Wait()
				began := time.Now()
				p.conn.Close()
				if took := time.Since(began); took > time.Second {
					t.Errorf("Close took %v", took)
				}
				p.link.Close()
				time.Sleep(time.Second) // until keepSending has noticed
			})
		})
	}
}

// fillUp has the Conn write more than the road takes.
func fillUp(p *peer) {
	p.send(number(frameCredit, 1<<30), number(frameStreams, 1<<20))
	s, err := p.conn.Open(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	p.send(streamCredit(1, 1<<30))
	go s.Write(make([]byte, 1<<20))
	synctest.Wait()
}

// keepSending opens streams until the road ends.
func keepSending(p *peer) {
	for i := uint64(0); ; i++ {
		if _, err := p.link.Write(appendFrame(nil, data(2*i, 0, "x"))); err != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func TestNothingIsTakenAfterClose(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.ignore()
		p.send(data(0, 0, "a"))
		s := p.accept()
		closed := make(chan struct{})
		go func() {
			p.conn.Close()
			close(closed)
		}()
		synctest.Wait()
		p.send(data(0, 1, "b"), data(2, 0, "c"))
		big := appendFrame(nil, data(4, 0, string(make([]byte, maxPayload))))
		p.write(string(big[:100]))
		synctest.Wait()
		p.write(string(big[100:]))
		synctest.Wait()
		if got, err := io.ReadAll(s); string(got) != "a" || !errors.Is(err, ErrClosed) {
			t.Errorf("read %q and %v", got, err)
		}
		if n := p.conn.NumStreams(); n != 1 {
			t.Errorf("there are %d streams", n)
		}
		p.link.Close()
		<-closed
	})
}

// failing is a conn whose Write fails once the road is broken, whose Read does
// not notice, and whose Close takes its time, as TLS's may.
type failing struct {
	net.Conn
	broken chan struct{}
	slow   time.Duration
}

func (f failing) Write(p []byte) (int, error) {
	select {
	case <-f.broken:
		return 0, memnet.ErrBroken
	default:
		return f.Conn.Write(p)
	}
}

func (f failing) Close() error {
	time.Sleep(f.slow)
	return f.Conn.Close()
}

func TestLostConnEndsAtOnce(t *testing.T) {
	for _, slow := range []time.Duration{0, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			left, right := memnet.Pipe()
			broken := make(chan struct{})
			c := Server(failing{right, broken, slow}, quietly)
			go io.Copy(io.Discard, left)
			left.Write([]byte(preface))
			left.Write(appendFrame(nil, frame{kind: frameSettings}))
			left.Write(appendFrame(nil, data(0, 0, "hello")))
			s, err := c.Accept(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			close(broken)
			s.Write([]byte("anybody?"))
			<-c.Done()
			synctest.Wait()
			s.Read(make([]byte, 5)) // what has arrived waits for nobody
			s.Close()
			if took := time.Since(began); took > 0 {
				t.Errorf("reading it took %v", took)
			}
			c.Wait()
			if took := time.Since(began); took > slow {
				t.Errorf("the Conn ended after %v", took)
			}
			left.Close()
			time.Sleep(2 * time.Minute) // until the cut has come through as well
		})
	}
}

// hanging is a conn like TLS's whose Close waits for whoever is writing, around
// a socket whose Close does not.
type hanging struct {
	net.Conn
	socket net.Conn
	freed  chan struct{}
}

func (h hanging) NetConn() net.Conn { return closing{h.socket, h.freed} }

func (h hanging) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	if n > 0 && p[n-1] == '!' { // answered in the middle of a Read, which nobody takes
		<-h.freed
		return 0, net.ErrClosed
	}
	return n, err
}

func (h hanging) Close() error {
	<-h.freed
	return nil
}

type closing struct {
	net.Conn
	freed chan struct{}
}

func (c closing) Close() error {
	close(c.freed)
	return c.Conn.Close()
}

func TestCloseGoesBelowTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left, right := memnet.Pipe()
		c := Server(hanging{right, right, make(chan struct{})}, quietly)
		go io.Copy(io.Discard, left)
		left.Write([]byte(preface))
		left.Write(appendFrame(nil, frame{kind: frameSettings}))
		synctest.Wait()
		left.Write([]byte("!"))
		synctest.Wait()
		began := time.Now()
		c.Close()
		if took := time.Since(began); took > time.Second {
			t.Errorf("Close took %v", took)
		}
		left.Close()
	})
}
