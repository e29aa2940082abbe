package mux_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"

	"github.com/culvertd/culvert/internal/memnet"
	"github.com/culvertd/culvert/mux"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns both ends of a Conn over a link in memory, closed when the
// test ends.
func pair(t testing.TB, link memnet.Link, client, server mux.Config) (*mux.Conn, *mux.Conn) {
	t.Helper()
	a, b := link.Pipe()
	c, s := mux.Client(a, client), mux.Server(b, server)
	t.Cleanup(func() { c.Close(); s.Close() })
	return c, s
}

// open returns both ends of a new stream from one to the other.
func open(t testing.TB, from, to *mux.Conn) (*mux.Stream, *mux.Stream) {
	t.Helper()
	ours, err := from.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := to.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}

func TestStreamIsAConn(t *testing.T) {
	nettest.TestConn(t, func() (a, b net.Conn, stop func(), err error) {
		left, right := memnet.Pipe()
		c, s := mux.Client(left, mux.Config{}), mux.Server(right, mux.Config{})
		ours, theirs := open(t, s, c)
		return ours, theirs, func() { c.Close(); s.Close() }, nil
	})
}

func TestStreamIsAConnOverTCP(t *testing.T) {
	nettest.TestConn(t, func() (a, b net.Conn, stop func(), err error) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, nil, err
		}
		defer ln.Close()
		left, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			return nil, nil, nil, err
		}
		right, err := ln.Accept()
		if err != nil {
			return nil, nil, nil, err
		}
		c, s := mux.Client(left, mux.Config{}), mux.Server(right, mux.Config{})
		ours, theirs := open(t, c, s)
		return ours, theirs, func() { c.Close(); s.Close() }, nil
	})
}

func TestManyStreamsCarryWhatWasWritten(t *testing.T) {
	c, s := pair(t, memnet.Link{}, mux.Config{}, mux.Config{})
	var wg sync.WaitGroup
	defer wg.Wait()
	const streams = 50
	wg.Go(func() { // an echo
		for range streams {
			st, err := s.Accept(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			wg.Go(func() {
				defer st.Close()
				if _, err := io.Copy(st, st); err != nil {
					t.Error(err)
				}
			})
		}
	})
	for i := range streams {
		wg.Go(func() {
			st, err := c.Open(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			defer st.Close()
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			sent, got := sha256.New(), sha256.New()
			wg.Go(func() {
				for range 20 {
					b := make([]byte, rng.IntN(100_000))
					for j := range b {
						b[j] = byte(rng.Uint32())
					}
					sent.Write(b)
					if _, err := st.Write(b); err != nil {
						t.Error(err)
					}
				}
				st.CloseWrite()
			})
			if _, err := io.Copy(got, st); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
				t.Error("what came back is not what was sent")
			}
		})
	}
}

func TestHalfCloseLetsTheAnswerThrough(t *testing.T) {
	c, s := pair(t, memnet.Link{}, mux.Config{}, mux.Config{})
	ours, theirs := open(t, c, s)
	ours.Write([]byte("question"))
	ours.CloseWrite()
	if got, err := io.ReadAll(theirs); string(got) != "question" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	theirs.Write([]byte("answer"))
	theirs.Close()
	if got, err := io.ReadAll(ours); string(got) != "answer" || err != nil {
		t.Errorf("got %q, %v; want the answer after the question's end", got, err)
	}
	if _, err := ours.Write([]byte("more")); err == nil {
		t.Error("a write after CloseWrite went through")
	}
}

func TestResetReachesABlockedWriter(t *testing.T) {
	c, s := pair(t, memnet.Link{}, mux.Config{}, mux.Config{})
	ours, theirs := open(t, c, s)
	failed := make(chan error)
	go func() {
		_, err := ours.Write(make([]byte, 10<<20)) // more than any window
		failed <- err
	}()
	io.ReadFull(theirs, make([]byte, 1<<10))
	theirs.Reset(0x123)
	err := <-failed
	if e, ok := errors.AsType[*mux.StreamError](err); !ok || e.Code != 0x123 || !e.Remote {
		t.Errorf("the writer got %v, want the peer's code 0x123", err)
	}
	if _, err := ours.Read(make([]byte, 1)); !errors.As(err, new(*mux.StreamError)) {
		t.Errorf("the reader got %v, want a *StreamError", err)
	}
}

func TestCloseStopsAWriter(t *testing.T) {
	c, s := pair(t, memnet.Link{}, mux.Config{}, mux.Config{})
	ours, theirs := open(t, c, s)
	failed := make(chan error)
	go func() {
		_, err := io.Copy(ours, zeros{})
		failed <- err
	}()
	io.ReadFull(theirs, make([]byte, 1<<20))
	theirs.Close()
	if e, ok := errors.AsType[*mux.StreamError](<-failed); !ok || e.Code != mux.CodeNone || !e.Remote {
		t.Errorf("the writer got %v, want the peer's CodeNone", e)
	}
	ours.Close()
	if n := c.NumStreams(); n != 0 {
		t.Errorf("%d streams are left", n)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestBrokenConnIsNeverACleanEnd(t *testing.T) {
	for name, cut := range map[string]func(*memnet.Conn){
		"reset":  (*memnet.Conn).Break,
		"closed": func(c *memnet.Conn) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			left, right := memnet.Pipe()
			c, s := mux.Client(left, mux.Config{}), mux.Server(right, mux.Config{})
			defer c.Close()
			defer s.Close()
			ours, theirs := open(t, c, s)
			theirs.Write([]byte("half of it"))
			io.ReadFull(ours, make([]byte, 4))
			cut(right)
			rest, err := io.ReadAll(ours)
			if err == nil {
				t.Errorf("got %q and a clean end", rest)
			}
			if c.Wait() == nil {
				t.Error("the Conn ended for no reason")
			}
		})
	}
}

func TestSilentPeerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left, right := memnet.Pipe()
		cfg := mux.Config{KeepAlive: 3 * time.Second, Timeout: 2 * time.Second}
		c, s := mux.Client(left, cfg), mux.Server(right, mux.Config{})
		time.Sleep(time.Minute)
		if err := c.Err(); err != nil {
			t.Fatalf("an idle connection ended: %v", err)
		}
		start := time.Now()
		left.Silence()
		<-c.Done()
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("noticed after %v, want at most KeepAlive and Timeout", took)
		}
		if err := c.Wait(); !errors.Is(err, mux.ErrPeerSilent) {
			t.Errorf("got %v, want ErrPeerSilent", err)
		}
		s.Close()
	})
}

func TestSlowLinkIsNotSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// A megabyte of socket buffer before a link of 20 KB/s: a ping
		// stands in line for 50 seconds.
		link := memnet.Link{Delay: 50 * time.Millisecond, Rate: 20 << 10, Buffer: 1 << 20}
		cfg := mux.Config{KeepAlive: 3 * time.Second, Timeout: 2 * time.Second}
		c, s := pair(t, link, cfg, cfg)
		ours, theirs := open(t, c, s)
		go func() {
			ours.Write(make([]byte, 4<<20))
			ours.Close()
		}()
		n, err := io.Copy(io.Discard, theirs)
		if n != 4<<20 || err != nil {
			t.Errorf("got %d bytes and %v", n, err)
		}
	})
}

func TestPingMeasures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pair(t, memnet.Link{Delay: 20 * time.Millisecond}, mux.Config{}, mux.Config{})
		if rtt, err := c.Ping(t.Context()); rtt != 40*time.Millisecond || err != nil {
			t.Errorf("got %v, %v; want two delays", rtt, err)
		}
		if c.RTT() != 40*time.Millisecond {
			t.Errorf("RTT is %v", c.RTT())
		}
	})
}

func TestGoAwayLetsStreamsFinish(t *testing.T) {
	c, s := pair(t, memnet.Link{}, mux.Config{}, mux.Config{})
	ours, theirs := open(t, c, s)
	s.GoAway()
	<-c.PeerGone()
	if _, err := c.Open(t.Context()); !errors.Is(err, mux.ErrGoAway) {
		t.Errorf("Open gave %v, want ErrGoAway", err)
	}
	stopped := make(chan error)
	go func() { stopped <- s.Shutdown(t.Context()) }()
	ours.Write([]byte("still here"))
	ours.CloseWrite()
	if got, err := io.ReadAll(theirs); string(got) != "still here" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	theirs.Close()
	if err := <-stopped; err != nil {
		t.Errorf("Shutdown gave %v", err)
	}
	if err := c.Wait(); err == nil {
		t.Error("the peer's Conn lives on")
	}
}

func TestShutdownCutsWhatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := pair(t, memnet.Link{}, mux.Config{}, mux.Config{})
		open(t, c, s)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's error", err)
		}
	})
}

func TestOpenWaitsForThePeersLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := pair(t, memnet.Link{}, mux.Config{}, mux.Config{MaxStreams: 16})
		var held []*mux.Stream
		for range 16 {
			ours, theirs := open(t, c, s)
			held = append(held, ours, theirs)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Open(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("the 17th stream of 16: %v", err)
		}
		opened := make(chan error)
		go func() {
			_, err := c.Open(t.Context())
			opened <- err
		}()
		synctest.Wait()
		for _, st := range held[:8] { // a quarter of them is worth a frame
			st.Close()
		}
		if err := <-opened; err != nil {
			t.Errorf("after four had ended: %v", err)
		}
	})
}

func TestNobodyReadsNobodyElseWaits(t *testing.T) {
	c, s := pair(t, memnet.Link{}, mux.Config{}, mux.Config{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.Close()
	for range 900 {
		ours, _ := open(t, c, s)
		wg.Go(func() { io.Copy(ours, zeros{}) })
	}
	for range 100 {
		ours, theirs := open(t, c, s)
		wg.Go(func() {
			ours.Write(make([]byte, 200_000))
			ours.Close()
		})
		if n, err := io.Copy(io.Discard, theirs); n != 200_000 || err != nil {
			t.Fatalf("got %d bytes, %v, beside 900 streams that nobody reads", n, err)
		}
	}
}

// TestCloseLosesNothingThatWasSent closes a side to which more is coming than
// it reads. A socket that is closed like that resets, and takes back what it
// sent: here the answer, and the goodbye.
func TestCloseLosesNothingThatWasSent(t *testing.T) {
	for range 20 {
		left, right := tlsPair(t)
		a, b := mux.Client(left, mux.Config{}), mux.Server(right, mux.Config{})
		s, r := open(t, a, b)
		flood, _ := open(t, a, b)
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				if _, err := flood.Write(make([]byte, 16<<10)); err != nil {
					return
				}
			}
		})
		answer := make([]byte, 20<<10)
		if _, err := r.Write(answer); err != nil {
			t.Fatal(err)
		}
		r.CloseWrite()
		b.Close()
		got, err := io.ReadAll(s)
		if err != nil || len(got) != len(answer) {
			t.Errorf("%d bytes of %d arrived, then %v", len(got), len(answer), err)
		}
		e, ok := errors.AsType[*mux.ConnError](a.Wait())
		if !ok || !e.Remote {
			t.Errorf("the other side saw %v, not a goodbye", a.Err())
		}
		a.Close()
		wg.Wait()
	}
}
