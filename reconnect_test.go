package culvert

import (
	"context"
	"crypto/tls"
	"errors"
	"math"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/netwatch"
	"github.com/culvertd/culvert/internal/wire"
	"github.com/culvertd/culvert/mux"
)

// TestBackoff holds the law: the first wait is at most 250 ms, each later one
// at most twice as long as the one before may have been, none longer than 30 s;
// and each is a random part of that (full jitter), down to next to nothing.
func TestBackoff(t *testing.T) {
	const rounds = 2000
	for failure, most := range []time.Duration{
		250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second,
		8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second, 30 * time.Second,
	} {
		waits := make([]time.Duration, rounds)
		for i := range waits {
			waits[i] = (&backoff{failures: failure}).next(0, 0, maxWait)
		}
		slices.Sort(waits)
		if waits[0] < 0 || waits[rounds-1] > most {
			t.Errorf("after %d failures: %v to %v, want 0 to %v", failure, waits[0], waits[rounds-1], most)
		}
		for i, w := range waits { // uniform: a Kolmogorov-Smirnov distance of 0.05 is chance in one of 10^4
			if d := float64(i)/rounds - float64(w)/float64(most); d > 0.05 || d < -0.05 {
				t.Errorf("after %d failures: %d of %d waits are up to %v of %v, which is not uniform", failure, i, rounds, w, most)
				break
			}
		}
	}
	if w := (&backoff{failures: 1 << 40}).next(0, 0, maxWait); w > maxWait {
		t.Errorf("after years of failures: %v", w)
	}
	for range 100 {
		if w := (&backoff{}).next(0, time.Minute, maxWait); w < time.Minute || w > time.Minute+firstWait {
			t.Errorf("with a wish of a minute: %v", w)
		}
		if w := (&backoff{}).next(0, 1000*time.Hour, maxWait); w > longestWish+firstWait {
			t.Errorf("with an absurd wish: %v", w)
		}
		b := backoff{failures: 9}
		if w := b.next(stable, 0, maxWait); w > firstWait {
			t.Errorf("after a stable session: %v", w)
		}
	}
}

// TestHerd: 200 agents of a node that is away for ten minutes. They do not come
// as one, and they are all back soon after it is.
func TestHerd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const agents = 200
		type dial struct {
			agent int
			at    time.Duration
		}
		var mu sync.Mutex // guards the variables below
		var dials []dial
		begun, up := time.Now(), false
		back := map[int]time.Duration{}
		for i := range agents {
			a := &Agent{Server: "node.test", Token: "cvt_test", watch: func(ctx context.Context, _ func(netwatch.News)) { <-ctx.Done() }}
			a.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				at := time.Since(begun)
				dials = append(dials, dial{i, at})
				if _, ok := back[i]; !ok && up {
					back[i] = at
				}
				return nil, errors.New("connection refused")
			}
			defer a.Close()
			listening(t.Context(), a, Tunnel{})
		}
		time.Sleep(10 * time.Minute)
		mu.Lock()
		up = true
		last := map[int]time.Duration{}
		var waits []float64 // of those who have failed often, as parts of the longest
		second := map[int]int{}
		for _, d := range dials {
			if before, ok := last[d.agent]; ok && before > 5*time.Minute {
				waits = append(waits, float64(d.at-before)/float64(maxWait))
			}
			last[d.agent] = d.at
			second[int(d.at/time.Second)]++
		}
		mu.Unlock()
		slices.Sort(waits)
		far := 0.0 // Kolmogorov-Smirnov; beyond 1.95/√n it is chance in one of 1000, and waits of the end of a window are cut
		for i, w := range waits {
			far = max(far, math.Abs(float64(i)/float64(len(waits))-w))
		}
		if most := 1.95/math.Sqrt(float64(len(waits))) + 0.05; far > most {
			t.Errorf("the distance of %d waits from uniform is %.3f, want %.3f at most", len(waits), far, most)
		}
		for s, n := range second {
			if s > 120 && n > 40 { // 13 is the mean
				t.Errorf("%d agents came in second %d", n, s)
			}
		}

		time.Sleep(maxWait)
		mu.Lock()
		defer mu.Unlock()
		if len(back) < agents*95/100 {
			t.Errorf("%d of %d were back in %v", len(back), agents, maxWait)
		}
	})
}

// TestComingBack: a node that is away is dialled after waits within the law,
// for as long as it takes, and found when it is back.
func TestComingBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		a := n.agent()
		defer a.Close()
		listen := listening(t.Context(), a, Tunnel{Name: "blog"})
		p := n.welcome()
		p.read()
		p.bound(1, "blog")
		if _, err := listen.wait(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(stable)

		n.ln.Close()
		gone := time.Now()
		p.raw.Break()
		time.Sleep(10 * time.Minute)
		attempts := n.dialled()[1:]
		most := firstWait
		for i, at := range attempts {
			before := gone
			if i > 0 {
				before = attempts[i-1]
			}
			if wait := at.Sub(before); wait > most {
				t.Errorf("attempt %d came %v after the one before, want at most %v", i, wait, most)
			}
			most = min(2*most, maxWait)
		}
		if n := len(attempts); n < 20 || n > 200 {
			t.Errorf("%d attempts in 10 minutes", n)
		}

		n.listen()
		defer n.ln.Close()
		back := time.Now()
		n.welcome().want("the name is kept", &wire.Bind{Request: 1, Name: "blog"})
		if waited := time.Since(back); waited > maxWait {
			t.Errorf("it took %v to come back, want at most %v", waited, maxWait)
		}
	})
}

// TestNobodyAnswers: while the road to the node is silent, as after a power cut
// somewhere on it, the agent is never far from its next attempt, and back soon
// after the road is. A node that refuses is left in peace.
func TestNobodyAnswers(t *testing.T) {
	for _, refused := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			var dials []time.Time
			a := &Agent{Server: "node.test", Token: "cvt_test", watch: func(ctx context.Context, _ func(netwatch.News)) { <-ctx.Done() }}
			a.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
				dials = append(dials, time.Now())
				if refused {
					return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
				}
				time.Sleep(6 * time.Second)
				return nil, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
			}
			listening(t.Context(), a, Tunnel{})
			time.Sleep(time.Hour)
			a.Close() // from here on the attempts are ours to look at
			longest := time.Duration(0)
			for i, at := range dials[1:] {
				longest = max(longest, at.Sub(dials[i]))
			}
			if !refused && longest > 6*time.Second+unheardWait {
				t.Errorf("%v from one attempt to the next; want %v at most between two", longest, unheardWait)
			}
			if refused && longest < maxWait/2 {
				t.Errorf("a node that refuses is asked again after %v at most", longest)
			}
		})
	}
}

// TestRetryUnlessPermanent: what a node or the network may do to an agent that
// only makes it come again.
func TestRetryUnlessPermanent(t *testing.T) {
	for name, trouble := range map[string]func(p *peer){
		"hangs up":               func(p *peer) { p.hangUp() },
		"network breaks":         func(p *peer) { p.raw.Break() },
		"garbage":                func(p *peer) { p.tls.Write([]byte("SSH-2.0-OpenSSH_9.2\r\n")) },
		"silence":                func(p *peer) {},
		"internal error":         func(p *peer) { p.say(&wire.Refused{Code: wire.Internal}) },
		"shutting down":          func(p *peer) { p.say(&wire.Refused{Code: wire.ShuttingDown}) },
		"a code of the future":   func(p *peer) { p.say(&wire.Refused{Code: 999}) },
		"a word out of place":    func(p *peer) { p.say(&wire.Drain{}) },
		"welcome, and break":     func(p *peer) { p.say(&wire.Welcome{Version: 1}); p.raw.Break() },
		"welcome, and garbage":   func(p *peer) { p.say(&wire.Welcome{Version: 1}); p.control.Write([]byte{5, 255, 255, 255}) },
		"welcome, and internal":  func(p *peer) { p.say(&wire.Welcome{Version: 1}); p.say(&wire.Refused{Code: wire.Internal}) },
		"welcome, and nonsense":  func(p *peer) { p.say(&wire.Welcome{Version: 1}); p.say(&wire.Welcome{Version: 1}) },
		"welcome, and a goodbye": func(p *peer) { p.say(&wire.Welcome{Version: 1}); p.control.CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				n := newNode(t)
				defer n.ln.Close()
				a := n.agent()
				defer a.Close()
				listen := listening(t.Context(), a, Tunnel{Name: "blog"})
				for range 3 {
					p := n.next()
					p.read()
					trouble(p)
					p.wantGone("it starts anew", connectTime+time.Second)
				}
				p := n.welcome()
				p.read()
				p.bound(1, "blog")
				if _, err := listen.wait(); err != nil {
					t.Errorf("after %s: %v", name, err)
				}
			})
		})
	}
}

// TestRetryAfter: a node that says when to come back is not asked before, and
// not by everybody at once after.
func TestRetryAfter(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		defer n.ln.Close()
		a := n.agent()
		defer a.Close()
		listen := listening(t.Context(), a, Tunnel{Name: "blog"})
		p := n.next()
		p.read()
		p.say(&wire.Refused{Code: wire.ShuttingDown, RetryAfter: 20_000})
		p = n.welcome()
		if at := n.dialled(); at[1].Sub(at[0]) < 20*time.Second || at[1].Sub(at[0]) > 21*time.Second {
			t.Errorf("it came back after %v, want 20 s and a little", at[1].Sub(at[0]))
		}
		p.read()
		p.bound(1, "blog")
		listen.wait()
	})
}

// TestDrain: an agent that is told to leave begins the next session first. Its
// visitors finish in the old one, which still takes new ones meanwhile.
func TestDrain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		defer n.ln.Close()
		a := n.agent()
		var d diary
		a.OnEvent = d.note
		defer a.Close()
		listen := listening(t.Context(), a, Tunnel{Name: "blog"})
		p := n.welcome()
		p.read()
		p.bound(1, "blog")
		ln, err := listen.wait()
		if err != nil {
			t.Fatal(err)
		}
		stream := p.visit(head(wire.Visit{Request: 1}))
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}

		told := time.Now()
		p.say(&wire.Drain{Deadline: 20_000, RetryAfter: 1000})
		next := n.welcome()
		if waited := time.Since(told); waited < time.Second || waited > time.Second+firstWait {
			t.Errorf("it came after %v, want the second that the node wished for, and a little", waited)
		}
		next.want("the name is kept", &wire.Bind{Request: 1, Name: "blog"})
		late := p.visit(head(wire.Visit{Request: 1}) + "late")
		if c, err := ln.Accept(); err != nil {
			t.Errorf("a visitor by the old session: %v", err)
		} else {
			c.Close()
		}
		late.Close()
		next.bound(1, "blog")
		next.visit(head(wire.Visit{Request: 1}))
		if _, err := ln.Accept(); err != nil {
			t.Errorf("a visitor by the new session: %v", err)
		}
		time.Sleep(10 * time.Second)
		if _, err := conn.Write([]byte("still here")); err != nil {
			t.Errorf("a visitor in flight was cut: %v", err)
		}
		conn.Close()
		stream.Close()
		p.wantGone("the old session is left after its last visitor", idleTime+time.Second)
		if e, ok := errors.AsType[*mux.ConnError](p.conn.Err()); !ok || !e.Remote || e.Code != mux.CodeNone {
			t.Errorf("the old session ended with %v, want a goodbye", p.conn.Err())
		}
		want := []EventKind{EventConnecting, EventConnected, EventReady, EventDraining, EventConnecting, EventConnected, EventReady}
		if got := d.kinds(); !slices.Equal(got, want) {
			t.Errorf("events were %v, want %v", got, want)
		}
	})
}

// TestDrainEnds: visitors who do not finish, and nodes who do not hang up, hold
// an agent for so long and no longer; and so do nodes that only ever drain.
func TestDrainEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		defer n.ln.Close()
		a := n.agent()
		defer a.Close()
		listen := listening(t.Context(), a, Tunnel{Name: "blog"})
		var peers []*peer
		var ln *Listener
		for i := range maxDraining + 3 {
			p := n.welcome()
			p.read()
			p.bound(1, "blog")
			if i == 0 {
				ln, _ = listen.wait()
			}
			p.visit(head(wire.Visit{Request: 1}))
			if _, err := ln.Accept(); err != nil {
				t.Fatal(err)
			}
			p.say(&wire.Drain{Deadline: 3_600_000})
			peers = append(peers, p)
		}
		last := n.welcome()
		last.read()
		last.bound(1, "blog")
		synctest.Wait()
		living := 0
		for i, p := range peers {
			select {
			case <-p.conn.Done():
				if i >= 3 {
					t.Errorf("session %d has ended before older ones", i)
				}
			default:
				living++
			}
		}
		if living != maxDraining {
			t.Errorf("%d sessions drain, want %d", living, maxDraining)
		}
		for _, p := range peers {
			p.wantGone("visitors do not finish", longestStay+messageTime+time.Second)
		}
	})
}

// TestDrainAlone: a node that is told to stop, and has no successor yet, is
// dialled until it has one; its own end is no news.
func TestDrainAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		a := n.agent()
		defer a.Close()
		listen := listening(t.Context(), a, Tunnel{Name: "blog"})
		p := n.welcome()
		p.read()
		p.bound(1, "blog")
		if _, err := listen.wait(); err != nil {
			t.Fatal(err)
		}
		n.ln.Close()
		p.say(&wire.Drain{Deadline: 30_000})
		p.hangUp()
		time.Sleep(20 * time.Second)
		n.listen()
		defer n.ln.Close()
		n.welcome().want("the name is kept", &wire.Bind{Request: 1, Name: "blog"})
	})
}

// TestAgentShutdown: tunnels are given up at once, visitors in flight finish.
func TestAgentShutdown(t *testing.T) {
	for _, finishes := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			n := newNode(t)
			defer n.ln.Close()
			a := n.agent()
			defer a.Close()
			listen := listening(t.Context(), a, Tunnel{Name: "blog"})
			p := n.welcome()
			p.read()
			p.bound(1, "blog")
			ln, err := listen.wait()
			if err != nil {
				t.Fatal(err)
			}
			stream := p.visit(head(wire.Visit{Request: 1}))
			conn, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			start := time.Now()
			done := async(func() (struct{}, error) { return struct{}{}, a.Shutdown(ctx) })
			p.want("the tunnel is given up at once", &wire.Unbind{Request: 1})
			if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Accept: %v", err)
			}
			want := 10 * time.Second
			if finishes {
				time.Sleep(5 * time.Second)
				conn.Write([]byte("finished"))
				conn.Close()
				stream.Close()
				want = 5*time.Second + pollTime
			}
			if _, err := done.wait(); (err == nil) != finishes {
				t.Errorf("Shutdown: %v", err)
			}
			if took := time.Since(start); took > want+time.Second {
				t.Errorf("Shutdown took %v, want %v", took, want)
			}
			p.wantGone("it leaves", time.Second)
		})
	}
	if err := new(Agent).Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown of an agent that never began: %v", err)
	}
}

// TestGivingUp: whoever gives up waiting learns what for.
func TestGivingUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		n.ln.Close()
		a := n.agent()
		defer a.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := a.Listen(ctx, Tunnel{})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "node.test") {
			t.Errorf("Listen: %v, want the deadline and what the dial said", err)
		}
		if err := a.Connect(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Connect: %v", err)
		}
	})
}

// TestCloseWhileConnecting: an agent closed while it waits ends the waiting.
func TestCloseWhileConnecting(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		defer n.ln.Close()
		a := n.agent()
		listen := listening(t.Context(), a, Tunnel{})
		n.next() // and never answers
		a.Close()
		if _, err := listen.wait(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Listen: %v", err)
		}
		a.Close()
		if err := new(Agent).Close(); err != nil {
			t.Errorf("Close of an agent that never began: %v", err)
		}
	})
}

// TestWrongCertificate: whoever has never had a session is told at once that
// the node is not the one it should be; later it is a reason to try again.
func TestWrongCertificate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		defer func() { n.ln.Close() }() // whichever it is then
		for name, change := range map[string]func(a *Agent){
			"unknown authority": func(a *Agent) { a.RootCAs = newIdentity(t, "node.test").roots },
			"another host": func(a *Agent) {
				a.Server = "other.test"
				a.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
					return n.dial(ctx, network, "node.test:443")
				}
			},
		} {
			a := n.agent()
			change(a)
			before := len(n.dialled())
			_, err := a.Listen(t.Context(), Tunnel{})
			if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
				t.Errorf("%s: %v", name, err)
			}
			if tried := len(n.dialled()) - before; tried != 1 {
				t.Errorf("%s: tried %d times", name, tried)
			}
			a.Close()
		}

		a := n.agent()
		defer a.Close()
		listen := listening(t.Context(), a, Tunnel{Name: "blog"})
		p := n.welcome()
		p.read()
		p.bound(1, "blog")
		ln, err := listen.wait()
		if err != nil {
			t.Fatal(err)
		}
		good := n.id
		n.ln.Close()
		n.id = newIdentity(t, "node.test") // a captive portal
		n.listen()
		p.raw.Break()
		time.Sleep(time.Minute)
		n.ln.Close()
		n.id = good
		n.listen()
		n.welcome().want("and again", &wire.Bind{Request: 1, Name: "blog"})
		ln.Close()
	})
}

func TestExpiredCertificateIsRetried(t *testing.T) {
	bubble(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2101, 1, 1, 0, 0, 0, 0, time.UTC)))
		n := newNode(t)
		defer n.ln.Close()
		a := n.agent()
		defer a.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := a.Listen(ctx, Tunnel{})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "expired") {
			t.Errorf("got %v, want to have waited for a minute", err)
		}
		if len(n.dialled()) < 3 {
			t.Errorf("tried %d times", len(n.dialled()))
		}
	})
}

// TestRoad: twice unheard, the other transport has its turn; refusals and a
// network that is down prove nothing.
func TestRoad(t *testing.T) {
	lost := errors.New("EOF")
	var r road
	for i, step := range []struct {
		err  error
		want Transport
	}{
		{lost, TransportAuto},
		{&unreachableError{lost}, TransportAuto},
		{refused("", wire.ShuttingDown, "", 0), TransportAuto},
		{&statusError{status: "502"}, TransportAuto},
		{lost, TransportWebSocket},
		{lost, TransportWebSocket},
		{lost, TransportAuto},
		{lost, TransportAuto},
		{lost, TransportWebSocket},
		{nil, TransportWebSocket}, // it works, and is remembered
		{lost, TransportWebSocket},
		{nil, TransportWebSocket},
		{lost, TransportWebSocket},
	} {
		if step.err == nil {
			r.worked()
		} else {
			r.failed(step.err)
		}
		if got := r.choose(); got != step.want {
			t.Fatalf("step %d (%v): %v, want %v", i, step.err, got, step.want)
		}
	}
	fixed := road{fixed: TransportTLS}
	for range 5 {
		fixed.failed(lost)
	}
	if fixed.choose() != TransportTLS {
		t.Error("a fixed transport was not kept")
	}
}
