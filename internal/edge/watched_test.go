package edge

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/h1"
	"github.com/culvertd/culvert/internal/memnet"
	"github.com/culvertd/culvert/internal/router"
)

// slowToOpen is a service whose streams take a while to open.
type slowToOpen struct {
	*service
	wait time.Duration
}

func (s slowToOpen) Open(ctx context.Context, v router.Visit) (net.Conn, error) {
	time.Sleep(s.wait)
	return s.service.Open(ctx, v)
}

// TestBodyStaysWhileTheVisitorIsWatched: he is read from when his request
// lasts. What he says next went over the body that was still to be sent, and
// the service got one request in the place of the other.
func TestBodyStaysWhileTheVisitorIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		seen := make(chan string, 2)
		s := newService(func(rw http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			seen <- r.Method + " " + r.URL.Path + " " + string(b)
		})
		w.bind(blog, s)
		w.routes.Add(blog, slowToOpen{s, 5 * time.Second}, router.Options{})
		v := w.raw(blog)
		v.send("POST / HTTP/1.1\nHost: %s\nContent-Length: 10\n\n0123456789", blog)
		time.Sleep(2 * time.Second)
		v.send("GET /next HTTP/1.1\nHost: %s\n\n", blog)
		for _, want := range []string{"POST / 0123456789", "GET /next "} {
			read(t, v.answer("GET"))
			if got := <-seen; got != want {
				t.Errorf("the service got %q want %q", got, want)
			}
		}
	})
}

// TestHalfClosedVisitor: who ends his direction of TLS has asked all that he
// has to ask. He was taken for one who has left. But when he has, the service
// hears of it.
func TestHalfClosedVisitor(t *testing.T) {
	for _, leaves := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			ended := make(chan error, 1)
			w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
				select {
				case <-time.After(3 * time.Second):
					io.WriteString(rw, "ok")
				case <-r.Context().Done():
				}
				ended <- r.Context().Err()
			}))
			v := w.raw(blog)
			v.send("GET / HTTP/1.1\nHost: %s\n\n", blog)
			v.Conn.(interface{ CloseWrite() error }).CloseWrite()
			if !leaves {
				if res := v.answer("GET"); read(t, res) != "ok" {
					t.Errorf("half-closed: got %d", res.StatusCode)
				}
				if err := <-ended; err != nil {
					t.Errorf("half-closed: the service was told %v", err)
				}
				return
			}
			time.Sleep(1200 * time.Millisecond)
			start := time.Now()
			v.socket.Close()
			if err, took := <-ended, time.Since(start); err == nil || took > time.Second {
				t.Errorf("closed: the service was told %v after %v; want a word within 1 s", err, took)
			}
		})
	}
}

// lateToTake is a socket that takes each write a while later.
type lateToTake struct {
	*addressed
	by time.Duration
}

func (c lateToTake) Write(p []byte) (int, error) {
	time.Sleep(c.by)
	return c.addressed.Write(p)
}

// TestAgentWhoIsWatched: an agent whose handshake lasts is watched like any
// visitor, and the byte that was read to find out whether he is still there
// belongs to him.
func TestAgentWhoIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stays := make(agents, 1)
		w := newWorld(t, func(e *Edge) { e.GetCertificate, e.Agents = nil, stays })
		ours, theirs := memnet.Pipe()
		defer ours.Close()
		from := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(w.from))
		w.step.conns <- lateToTake{&addressed{Conn: theirs, remote: from}, 5 * time.Second}
		v := &rawVisitor{t: t, Conn: ours, socket: ours}
		v.send("GET /connect HTTP/1.1\nHost: %s\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n"+
			"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\nSec-WebSocket-Protocol: culvert.1\n\n", domain)
		for _, b := range []byte{0x82, 0x84, 0, 0, 0, 0, 'a', 'b', 'c', 'd'} { // a message of four bytes
			time.Sleep(time.Second)
			v.Write([]byte{b})
		}
		s := <-stays
		got := make([]byte, 4)
		if _, err := io.ReadFull(s.conn, got); err != nil || string(got) != "abcd" {
			t.Errorf("the agent's server got %q, %v", got, err)
		}
		close(s.done)
	})
}

// TestDrowsyIsNobodyWhoPeeks: the edge leaves in the moment in which it stops
// looking whether a visitor is there. One interruption replaced the other, and
// the visit went on when the visitor said something, or never.
func TestDrowsyIsNobodyWhoPeeks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := memnet.Pipe()
		defer ours.Close()
		c := &h1Visitor{conn: theirs, raw: theirs}
		c.reader = h1.NewReader(readerFunc(c.read))
		c.interrupt(errPeeked)
		c.interrupt(errDrowsy) // and nobody had time to notice the first
		peeked := make(chan error, 1)
		go func() { peeked <- c.reader.Peek() }()
		synctest.Wait()
		select {
		case err := <-peeked:
			if !errors.Is(err, errPeeked) {
				t.Errorf("Peek: %v; want errPeeked", err)
			}
		default:
			t.Error("Peek goes on")
		}
	})
}

// TestWatchmanIsLate: what he found out about a request of HTTP/2 he may say
// when that is over, and its connection the standard library's again, which
// panics when it is touched.
func TestWatchmanIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		found := make(chan *h2Visitor, 1)
		w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
			m := w.door().watchman
			m.mu.Lock()
			defer m.mu.Unlock()
			for watch := range m.watches {
				if c, ok := watch.owner.(*h2Visitor); ok {
					found <- c
				}
			}
		}))
		get(t, w.visitor(true), "https://"+blog)
		synctest.Wait() // until the handler has returned
		c := <-found
		c.watch.writing.Store(true)
		defer func() {
			if p := recover(); p != nil {
				t.Errorf("panic: %v", p)
			}
		}()
		for what := lateDrowsy; what <= lateClosed; what++ {
			c.late(what, c.watch.turn.Load())
		}
	})
}

// door is that of the only listener.
func (w *world) door() *door {
	w.edge.mu.Lock()
	defer w.edge.mu.Unlock()
	for p := range w.edge.parts {
		return p.(*gate).door
	}
	panic("no listener")
}
