package mux

import (
	"context"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
)

var (
	modelSeeds = flag.Int("model.seeds", 30, "how many connections TestModel lives through")
	modelSeed  = flag.Int64("model.seed", -1, "the one seed that TestModel repeats")
)

// TestModel lives through connections full of streams whose two ends write,
// read, half-close, reset, close and set deadlines at random, and holds every
// end against a model of what its reader may see: the bytes of that direction,
// in order, each once; io.EOF after all of them if the writer ended in order,
// and its code, not io.EOF, if it did not. Afterwards nothing may be left: no
// stream, no byte without its credit, no window.
//
// A seed that fails is repeated with -model.seed.
func TestModel(t *testing.T) {
	repeat(t, "TestModel", func(t *testing.T, seed int64) { liveThrough(t, seed, false) })
}

// repeat does something for as many seeds as were asked for.
func repeat(t *testing.T, name string, do func(t *testing.T, seed int64)) {
	first, last := int64(0), int64(*modelSeeds)
	if *modelSeed >= 0 {
		first, last = *modelSeed, *modelSeed+1
	}
	for seed := first; seed < last; seed++ {
		synctest.Test(t, func(t *testing.T) {
			if do(t, seed); t.Failed() { // it ends here
				t.Logf("repeat with: go test -run %s -model.seed %d", name, seed)
			}
		})
	}
}

func liveThrough(t *testing.T, seed int64, trouble bool) {
	rng := rand.New(rand.NewPCG(uint64(seed), 1))
	link := memnet.Link{Delay: time.Duration(rng.IntN(3)) * 10 * time.Millisecond}
	if rng.IntN(2) == 0 {
		link.Rate, link.Buffer = 1<<20+rng.IntN(100<<20), 16<<10+rng.IntN(256<<10)
	}
	cfg := Config{KeepAlive: -1, Budget: 1 << 20, MaxStreams: 16 + rng.IntN(64)}
	if trouble {
		cfg.KeepAlive, cfg.Timeout = 300*time.Millisecond, 500*time.Millisecond
		cfg.Keep = 1 + rng.IntN(1<<uint(10+rng.IntN(11)))
		cfg.Pool = NewPool(1 << 30)
		if seed%4 == 3 {
			cfg.Pool = NewPool(1) // half of it is always taken
		}
	}
	r := &road{t: t, link: link}
	r.begin(cfg)
	ends := r.ends

	// A stream that was reset before anybody accepted it is never seen, so
	// accepting ends with a context and not with a count.
	ctx, stop := context.WithCancel(t.Context())
	var openers, accepters sync.WaitGroup
	const streams = 50
	for side, c := range ends {
		for range streams {
			rng := rand.New(rand.NewPCG(rng.Uint64(), 2))
			openers.Go(func() {
				s, err := c.Open(ctx)
				if err != nil {
					t.Errorf("open: %v", err)
					return
				}
				live(t, s, rng)
			})
		}
		peer, seed := ends[1-side], rng.Uint64()
		accepters.Go(func() {
			for i := uint64(0); ; i++ {
				s, err := peer.Accept(ctx)
				if err != nil {
					return
				}
				rng := rand.New(rand.NewPCG(seed, i))
				accepters.Go(func() { live(t, s, rng) })
			}
		})
	}
	var troubles sync.WaitGroup
	troubled, calm := context.WithCancel(ctx)
	if trouble {
		rng := rand.New(rand.NewPCG(rng.Uint64(), 3))
		troubles.Go(func() { r.trouble(troubled, rng) })
		troubles.Go(func() { r.mend(ctx) })
	}
	stuck := time.AfterFunc(time.Hour, func() { panic("streams are stuck for an hour") })
	openers.Wait()
	stuck.Stop()
	calm()
	time.Sleep(time.Minute) // virtual: what is under way arrives
	stop()
	troubles.Wait()
	accepters.Wait()
	synctest.Wait()
	time.Sleep(time.Minute)
	synctest.Wait()
	for _, c := range ends {
		c.mu.Lock()
		if len(c.streams) > 0 || c.windows > 0 || c.received != c.consumed || !c.main.light.empty() || !c.main.heavy.empty() {
			t.Errorf("left behind: %d streams, windows of %d bytes, %d bytes of %d consumed", len(c.streams), c.windows, c.consumed, c.received)
		}
		if len(c.all) != c.living || len(c.words) > 0 || c.main.again != nil {
			t.Errorf("left behind: %d lanes, of which %d live, and %d words about others", len(c.all), c.living, len(c.words))
		}
		c.mu.Unlock()
		if err := c.Err(); err != nil {
			t.Errorf("the connection ended: %v", err)
		}
	}
	ends[rng.IntN(2)].Close()
	for _, c := range ends {
		c.Close()
	}
	time.Sleep(time.Second) // until the last conn is closed
	if p := cfg.Pool; p != nil && (p.held.Load() != 0 || p.kept.Load() != 0) {
		t.Errorf("the pool still counts %d bytes that wait and %d that are kept", p.held.Load(), p.kept.Load())
	}
}

// live is the life of one end of a stream: a writer and a reader, each of
// which ends as chance will have it.
func live(t *testing.T, s *Stream, rng *rand.Rand) {
	writer := rand.New(rand.NewPCG(rng.Uint64(), 0))
	var wg sync.WaitGroup
	wg.Go(func() { writeLife(t, s, writer) })
	if ended := readLife(t, s, rng); !ended {
		s.Close() // or two ends that have had enough would wait for each other
	}
	wg.Wait()
	s.Close()
	s.Close() // harmless
}

// appCode is what a reset of the model carries.
const appCode = 0x100

func writeLife(t *testing.T, s *Stream, rng *rand.Rand) {
	var at uint64
	for range rng.IntN(6) {
		size := rng.IntN(300)
		if rng.IntN(4) == 0 {
			size = rng.IntN(100_000)
		}
		if rng.IntN(8) == 0 {
			s.SetWriteDeadline(time.Now().Add(time.Duration(rng.IntN(100)) * time.Millisecond))
		}
		b := make([]byte, size)
		for i := range b {
			b[i] = pattern(s.id, s.conn.ours, at+uint64(i))
		}
		n, err := s.Write(b)
		at += uint64(n)
		switch {
		case err == nil && n < size:
			t.Errorf("stream %d: Write took %d of %d bytes without an error", s.id, n, size)
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.SetWriteDeadline(time.Time{}) // and on from where it stopped
		case err != nil:
			if !s.expected(err) {
				t.Errorf("stream %d: write: %v", s.id, err)
			}
			return // its direction has ended
		}
		if rng.IntN(4) == 0 {
			time.Sleep(time.Duration(rng.IntN(50)) * time.Millisecond)
		}
	}
	switch rng.IntN(8) {
	case 0:
		s.Reset(appCode + Code(s.conn.ours))
	case 1:
		s.Close()
	default:
		if err := s.CloseWrite(); err != nil && !s.expected(err) {
			t.Errorf("stream %d: CloseWrite: %v", s.id, err)
		}
	}
}

// readLife reports whether there is nothing more to be read.
func readLife(t *testing.T, s *Stream, rng *rand.Rand) (ended bool) {
	var at uint64
	b := make([]byte, 1+rng.IntN(50_000))
	patience := rng.IntN(60) // reads after which it has had enough
	for range patience {
		if rng.IntN(10) == 0 {
			s.SetReadDeadline(time.Now().Add(time.Duration(rng.IntN(20)) * time.Millisecond))
		}
		n, err := s.Read(b[:1+rng.IntN(len(b))])
		for i, got := range b[:n] {
			if want := pattern(s.id, 1-s.conn.ours, at+uint64(i)); got != want {
				t.Errorf("stream %d: byte %d is %#02x, want %#02x", s.id, at+uint64(i), got, want)
				return false
			}
		}
		at += uint64(n)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.SetReadDeadline(time.Time{})
		case err == io.EOF:
			s.conn.mu.Lock()
			known, final := s.finalKnown, s.final
			s.conn.mu.Unlock()
			if !known || final != at {
				t.Errorf("stream %d: EOF after %d bytes, the end is at %d (%v)", s.id, at, final, known)
			}
			return true
		case err != nil:
			if !s.expected(err) {
				t.Errorf("stream %d: read: %v", s.id, err)
			}
			return true
		}
		if rng.IntN(8) == 0 {
			time.Sleep(time.Duration(rng.IntN(50)) * time.Millisecond)
		}
	}
	return false
}

// expected reports whether err is one that a life may end with: the peer's or
// our own reset or close, or the end of the Conn, or of its streams, of which
// the word may come later when it was said over another lane.
func (s *Stream) expected(err error) bool {
	e, ok := errors.AsType[*StreamError](err)
	if ok {
		return e.Code == CodeNone || e.Code == appCode || e.Code == appCode+1 || e.Code == CodeRefused && s.conn.cfg.Keep > 0
	}
	return errors.Is(err, errStreamClosed) || errors.Is(err, errWriteClosed) || err == s.conn.Err()
}

// pattern is the byte at an offset of one direction of one stream.
func pattern(id, side, offset uint64) byte {
	x := (id<<1|side)*0x9e3779b97f4a7c15 + offset
	return byte(x ^ x>>13 ^ x>>29)
}
