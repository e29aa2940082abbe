package mux_test

import (
	"context"
	"io"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
	"github.com/culvertd/culvert/mux"
)

// inUse returns what the heap holds that somebody still needs. Stacks come on
// top, 4 KiB for each goroutine, or more under the race detector.
func inUse() int {
	for range 3 { // pools give up what they hold in two
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

func TestIdleSessionIsSmall(t *testing.T) {
	const sessions = 100
	var conns []*mux.Conn
	warm := func(n int) {
		for range n {
			l, r := tlsPair(t)
			c, s := mux.Client(l, mux.Config{}), mux.Server(r, mux.Config{})
			conns = append(conns, c, s)
			if _, err := c.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	warm(5)
	goroutines, before := runtime.NumGoroutine(), inUse()
	warm(sessions)
	per := (inUse() - before) / sessions
	if each := runtime.NumGoroutine() - goroutines; each != 4*sessions {
		t.Errorf("%d goroutines for %d sessions, want four each", each, sessions)
	}
	if per > 24<<10 {
		t.Errorf("both ends of an idle session hold %d bytes with TLS, at most 24 KiB beside the stacks", per)
	}
	t.Logf("an idle session: %d bytes, both ends, with TLS", per)
	for _, c := range conns {
		go c.Close()
	}
	for _, c := range conns {
		c.Wait()
	}
}

func TestIdleStreamIsSmall(t *testing.T) {
	c, s := pair(t, memnet.Link{}, mux.Config{}, mux.Config{})
	streams := make([]*mux.Stream, 0, 5000)
	use := func(n int) {
		for range n {
			a, b := open(t, c, s)
			if _, err := a.Write([]byte("ask")); err != nil {
				t.Fatal(err)
			}
			io.ReadFull(b, make([]byte, 3))
			streams = append(streams, a, b)
		}
	}
	use(500)
	goroutines, before := runtime.NumGoroutine(), inUse()
	use(2000)
	per := (inUse() - before) / 2000
	if more := runtime.NumGoroutine() - goroutines; more > 0 {
		t.Errorf("%d goroutines more for 2,000 streams", more)
	}
	if per > 2<<10 {
		t.Errorf("both ends of an idle stream hold %d bytes, at most 2 KiB", per)
	}
	t.Logf("an idle stream: %d bytes, both ends", per)
	runtime.KeepAlive(streams)
}

// TestUnreadStreamsHoldLittle is 20 streams that nobody reads, on a link on
// which windows would grow for somebody who did.
func TestUnreadStreamsHoldLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := pair(t, memnet.Link{Delay: 25 * time.Millisecond, Rate: 25e6, Buffer: 128 << 10}, mux.Config{}, mux.Config{})
		rate := func() int64 {
			out, in := open(t, c, s)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			context.AfterFunc(ctx, func() { out.Reset(0) })
			go io.Copy(out, zeros{})
			n, _ := io.Copy(io.Discard, in)
			return n
		}
		alone := rate()
		time.Sleep(time.Second) // until the link is empty
		before := inUse()
		for range 20 {
			out, _ := open(t, c, s)
			go io.Copy(out, zeros{})
		}
		time.Sleep(5 * time.Second)
		if n := inUse() - before; n > 6e6 {
			t.Errorf("20 streams that nobody reads hold %d bytes, at most 6 MB", n)
		} else {
			t.Logf("20 streams that nobody reads hold %d bytes", n)
		}
		if beside := rate(); beside*10 < alone*9 {
			t.Errorf("a stream moved %d bytes alone and %d beside them", alone, beside)
		}
		c.Close()
		s.Close()
	})
}
