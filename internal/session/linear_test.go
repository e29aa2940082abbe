package session

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/auth"
	"github.com/culvertd/culvert/internal/memnet"
	"github.com/culvertd/culvert/internal/router"
)

var (
	linearSeeds = flag.Int("linear.seeds", 150, "how many histories TestLinear writes")
	linearSeed  = flag.Int64("linear.seed", -1, "the one seed that TestLinear repeats")
)

// TestLinear: names behave as if everything that happens to them happened in
// some order, one thing at a time. Agents of two owners bind names, let go of
// them, take them from each other, say goodbye, are cut off, fall silent, and
// come back in the same session or in another one, in time or too late, while
// visitors look the names up and ask who answers; whatever takes time takes some
// more. porcupine then looks
// for an order in which a [register] would have given the same answers, each
// somewhere between its question and itself.
//
// A seed that failed is repeated with -linear.seed. It decides who does what,
// and how long everything takes, but not in which order goroutines run that
// wake up at the same moment, so that it may take a few tries.
func TestLinear(t *testing.T) {
	first, last := int64(0), int64(*linearSeeds)
	if *linearSeed >= 0 {
		first, last = *linearSeed, *linearSeed+1
	}
	seed := first
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat with: go test -run TestLinear ./internal/session -linear.seed %d", seed)
		}
	})
	for ; seed < last; seed++ {
		var h *history
		bubble(t, func(f *fixture) { h = writeHistory(f, uint64(seed)) })
		if h.check(t); t.Failed() {
			return
		}
	}
}

var linearNames = []string{"blog", "wiki"}

// slow is an authority that takes some time, and then some.
type slow struct {
	Authority
	mu  sync.Mutex // guards rng
	rng *rand.Rand
}

// pause lets some time pass, or, mostly, only others run.
func (s *slow) pause() {
	s.mu.Lock()
	d := time.Duration(s.rng.IntN(100)) * time.Millisecond
	if s.rng.IntN(3) > 0 {
		d = 0
	}
	s.mu.Unlock()
	time.Sleep(d)
}

func (s *slow) Claim(ctx context.Context, g auth.Grant, name string) (string, error) {
	s.pause()
	defer s.pause()
	return s.Authority.Claim(ctx, g, name)
}

// A world is the node of a history, and those who use it.
type world struct {
	*fixture
	*history
	sessions atomic.Int64
	mu       sync.Mutex // guards present
	present  []*guest   // that may still be there
}

// writeHistory lives through a few seconds of a node.
func writeHistory(f *fixture, seed uint64) *history {
	s := &slow{Authority: f.authority, rng: rand.New(rand.NewPCG(seed, 1))}
	f.Server.Auth = s
	f.Server.swapTime = time.Nanosecond
	f.Server.Resume = time.Duration(s.rng.IntN(1000)-200) * time.Millisecond // in a fifth of the worlds no session outlives its lanes
	f.PublicURL = func(name string) string { s.pause(); return "https://" + name + ".node.test" }
	w := &world{fixture: f, history: new(history)}

	var everybody sync.WaitGroup
	for i, token := range []string{"ann-1", "ann-2", "bob-1"} {
		rng := rand.New(rand.NewPCG(seed, 2+uint64(i)))
		everybody.Go(func() { w.live(token, byte(1+i), rng) })
	}
	for i := range 3 {
		rng := rand.New(rand.NewPCG(seed, 10+uint64(i)))
		everybody.Go(func() {
			for range 10 {
				time.Sleep(time.Duration(rng.IntN(150)) * time.Millisecond)
				w.ask(linearNames[rng.IntN(len(linearNames))], rng.IntN(3) > 0)
			}
		})
	}
	everybody.Wait()
	time.Sleep(5 * time.Minute) // the silent are missed, and the slow arrive
	synctest.Wait()

	for _, name := range linearNames {
		w.ask(name, true)
	}
	for _, g := range w.present {
		if g.left() {
			continue
		}
		for name, request := range g.holds() {
			w.add(w.now(), input{verb: believe, name: name, stay: stay{g.number, request}}, output{})
		}
	}
	for _, g := range w.present {
		g.doom()
		g.conn.Close()
		<-g.served
		g.running.Wait()
	}
	return w.history
}

// ask is a visitor's: it looks the name up, and then asks who answers, from the
// stay that was found if it has to be the same, or from whichever is current.
func (w *world) ask(name string, same bool) {
	host := name + ".node.test"
	call := w.now()
	route, err := w.router.Lookup(host)
	switch {
	case errors.Is(err, router.ErrOffline): // somebody has it, and is away
		return
	case err != nil && !errors.Is(err, router.ErrNoTunnel):
		w.Errorf("lookup %s: %v", name, err)
	}
	w.add(call, input{verb: lookup, name: name}, output{epoch: route.Epoch})

	epoch := route.Epoch
	if !same {
		epoch = 0
	}
	call = w.now()
	conn, err := w.router.Open(w.Context(), router.Visit{Host: host, Epoch: epoch, ID: "v1", Remote: visitorAddr})
	until := w.now()
	switch {
	case errors.Is(err, router.ErrNoTunnel):
		w.addUntil(call, until, input{verb: lookup, name: name}, output{})
		return
	case err != nil:
		return // moved, or leaving: to ask again is no news
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	var who stay
	if _, err := fmt.Fscanln(conn, &who.session, &who.request); err == nil {
		w.addUntil(call, until, input{verb: open, name: name, epoch: epoch}, output{stay: who})
	}
}

// live is the life of one run of an agent.
func (w *world) live(token string, id byte, rng *rand.Rand) {
	var g *guest
	for range 12 {
		time.Sleep(time.Duration(rng.IntN(150)) * time.Millisecond)
		if g == nil || g.left() {
			g = w.enter(g, token, id, rng)
			continue
		}
		held := g.holds()
		name := linearNames[rng.IntN(len(linearNames))]
		switch request, ok := held[name]; {
		case rng.IntN(4) == 0:
			g = g.trouble(id, rng)
		case ok:
			g.unbind(name, request)
		default:
			g.bind(name, time.Duration(rng.IntN(300))*time.Millisecond)
		}
	}
}

// dial is a conn to the node, which calls done when it has done with it.
func (w *world) dial(rng *rand.Rand, done func()) *memnet.Conn {
	link := memnet.Link{Delay: time.Duration(rng.IntN(30)) * time.Millisecond}
	ours, theirs := link.Pipe()
	w.serving.Go(func() {
		w.ServeAgent(context.Background(), theirs)
		done()
	})
	return ours
}
