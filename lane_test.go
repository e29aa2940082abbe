package culvert

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/netwatch"
	"github.com/culvertd/culvert/internal/wire"
	"github.com/culvertd/culvert/mux"
)

// resumable begins a session with a tunnel "blog" that the node keeps for 30
// seconds without a connection.
func (n *node) resumable(a *Agent) (*peer, *Listener) {
	n.t.Helper()
	listen := listening(n.t.Context(), a, Tunnel{Name: "blog"})
	p := n.next()
	p.read()
	p.say(&wire.Welcome{Version: 1, Session: [16]byte{1}, Domain: "node.test", Secret: secret, Resume: 30_000})
	p.want("", &wire.Bind{Request: 1, Name: "blog"})
	p.bound(1, "blog")
	ln, err := listen.wait()
	if err != nil {
		n.t.Fatal(err)
	}
	return p, ln
}

// asked waits for the next connection, on which the agent has to ask for a lane
// with that number.
func (n *node) asked(number uint64) *peer {
	n.t.Helper()
	q := n.next()
	want := wire.Join{Version: 1, Session: [16]byte{1}, Lane: number, Token: "cvt_test", Proof: wire.Proof(secret, [16]byte{1}, number)}
	q.want("a lane is asked for", &want)
	return q
}

// rejoin takes the next connection as that lane of p.
func (n *node) rejoin(p *peer, number uint64) {
	n.t.Helper()
	q := n.asked(number)
	q.say(&wire.Joined{})
	if _, err := p.conn.Join(q.tls, number); err != nil {
		n.t.Fatal(err)
	}
	p.raw, p.tls = q.raw, q.tls
	time.Sleep(n.net.Link.Delay)
	synctest.Wait() // the agent has heard it
}

// TestResume: a connection that is lost is replaced within a quarter of a
// second, and nobody who uses the session notices.
func TestResume(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		defer n.ln.Close()
		a := n.agent()
		var d diary
		a.OnEvent = d.note
		defer a.Close()
		p, ln := n.resumable(a)
		accept := async(ln.Accept)
		stream := p.visit(head(wire.Visit{Request: 1}) + "question")
		conn, err := accept.wait()
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 8)
		for i := range uint64(3) {
			time.Sleep(stable)
			lost := time.Now()
			p.raw.Break()
			n.rejoin(p, i+1)
			if took := time.Since(lost); took > firstWait {
				t.Errorf("it was back after %v, want %v at most", took, firstWait)
			}
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != "question" {
				t.Fatalf("read %q, %v", got, err)
			}
			io.WriteString(stream, "question")
		}
		second := listening(t.Context(), a, Tunnel{Name: "wiki"})
		p.want("the control stream is the same", &wire.Bind{Request: 2, Name: "wiki"})
		p.bound(2, "wiki")
		if _, err := second.wait(); err != nil {
			t.Error(err)
		}
		want := []EventKind{EventConnecting, EventConnected, EventReady}
		for range 3 {
			want = append(want, EventResuming, EventResumed)
		}
		if got := d.kinds(); !slices.Equal(got, append(want, EventReady)) {
			t.Errorf("events were %v", got)
		}
		if e := d.of(EventResumed)[0]; e.Session == "" || e.Took > firstWait || e.Transport != TransportTLS {
			t.Errorf("got %+v", e)
		}
		if e := d.of(EventResuming)[0]; e.Err == nil || e.Retry > firstWait {
			t.Errorf("got %+v", e)
		}
		conn.Close()
		stream.Close()
	})
}

// TestResetAgainAndAgain: a road on which no connection lasts does not cost the
// session, however long that goes on.
func TestResetAgainAndAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		defer n.ln.Close()
		a := n.agent()
		defer a.Close()
		p, _ := n.resumable(a)
		const longest = 30 * time.Second / 8
		for i := range uint64(60) {
			time.Sleep(2 * time.Second)
			lost := time.Now()
			p.raw.Break()
			n.rejoin(p, i+1)
			if took := time.Since(lost); took > longest+time.Second {
				t.Fatalf("connection %d came after %v, want %v at most", i+1, took, longest)
			}
		}
	})
}

// TestLostAnswer: a number is used once, whether the node has heard it or not.
func TestLostAnswer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		defer n.ln.Close()
		a := n.agent()
		defer a.Close()
		p, _ := n.resumable(a)
		p.raw.Break()
		n.asked(1).raw.Break()
		n.asked(2).raw.Silence()
		q := n.asked(3)
		q.say(&wire.Drain{}) // out of place
		q.wantGone("nonsense", time.Second)
		n.rejoin(p, 4)
	})
}

// TestSessionUnknown: a node that does not know the session is told hello at
// once; one that is in trouble is asked again when it wishes.
func TestSessionUnknown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		defer n.ln.Close()
		a := n.agent()
		defer a.Close()
		p, _ := n.resumable(a)
		p.raw.Break()
		q := n.asked(1)
		told := time.Now()
		q.say(&wire.Refused{Code: wire.Internal, RetryAfter: 3000})
		q = n.asked(2)
		if waited := time.Since(told); waited < 3*time.Second || waited > 4*time.Second {
			t.Errorf("it asked again after %v, want 3 s and a little", waited)
		}
		told = time.Now()
		q.say(&wire.Refused{Code: wire.SessionUnknown})
		n.welcome().want("the name is kept", &wire.Bind{Request: 1, Name: "blog"})
		if waited := time.Since(told); waited != 0 {
			t.Errorf("it said hello after %v, want at once", waited)
		}
	})
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		defer n.ln.Close()
		a := n.agent()
		defer a.Close()
		p, ln := n.resumable(a)
		p.raw.Break()
		n.asked(1).say(&wire.Refused{Code: wire.VersionUnsupported})
		if _, err := ln.Accept(); !errors.Is(err, ErrVersion) {
			t.Errorf("refused for good: Accept returned %v", err)
		}
	})
}

// TestTooLate: when the time for it is over, the streams break visibly, and the
// agent begins anew as soon as the node is there.
func TestTooLate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		a := n.agent()
		defer a.Close()
		p, ln := n.resumable(a)
		accept := async(ln.Accept)
		p.visit(head(wire.Visit{Request: 1}) + "half")
		conn, err := accept.wait()
		if err != nil {
			t.Fatal(err)
		}
		n.ln.Close()
		p.raw.Break()
		start := time.Now()
		if got, err := io.ReadAll(conn); err == nil {
			t.Errorf("read %q and a clean end", got)
		}
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("the stream broke after %v", took)
		}
		time.Sleep(5 * time.Minute)
		n.listen()
		defer n.ln.Close()
		back := time.Now()
		n.welcome().want("the name is kept", &wire.Bind{Request: 1, Name: "blog"})
		if waited := time.Since(back); waited > maxWait {
			t.Errorf("it took %v to come back", waited)
		}
		p.conn.Close()
	})
}

// TestSilenceIsNoticed: a path that has fallen silent, within five seconds.
func TestSilenceIsNoticed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		defer n.ln.Close()
		a := n.agent()
		var d diary
		a.OnEvent = d.note
		defer a.Close()
		p, _ := n.resumable(a)
		time.Sleep(time.Hour)
		if len(d.of(EventResuming)) > 0 {
			t.Error("an idle connection was taken for a silent one")
		}
		cut := time.Now()
		p.raw.Silence()
		n.rejoin(p, 1)
		if took := time.Since(cut); took > 5*time.Second+firstWait {
			t.Errorf("it was back after %v", took)
		}
		if e := d.of(EventResuming); len(e) != 1 || !errors.Is(e[0].Err, mux.ErrPeerSilent) {
			t.Errorf("got %+v", e)
		}
	})
}

// world is what an agent is told of the world around it.
type world struct {
	mu    sync.Mutex // guards the fields below
	tell  func(netwatch.News)
	addrs []net.Addr
}

func (w *world) watch(ctx context.Context, tell func(netwatch.News)) {
	w.mu.Lock()
	w.tell = tell
	w.mu.Unlock()
	<-ctx.Done()
}

func (w *world) says(n netwatch.News) {
	w.mu.Lock()
	tell := w.tell
	w.mu.Unlock()
	tell(n)
	synctest.Wait()
}

func (w *world) interfaces() ([]net.Addr, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.addrs, nil
}

// moves gives the machine another address, and takes its old ones.
func (w *world) moves(addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addrs = []net.Addr{&net.IPNet{IP: net.ParseIP(addr), Mask: net.CIDRMask(24, 32)}}
}

// A connAt is a conn from the address that the machine had.
type connAt struct {
	net.Conn
	local net.Addr
}

func (c connAt) LocalAddr() net.Addr { return c.local }
func (c connAt) NetConn() net.Conn   { return c.Conn }

// watched is an agent in a world of its own.
func (n *node) watched() (*Agent, *world) {
	w := &world{}
	w.moves("192.0.2.1")
	a := n.agent()
	a.watch, a.addrs = w.watch, w.interfaces
	a.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := n.dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		addrs, _ := w.interfaces()
		return connAt{conn, &net.TCPAddr{IP: addrs[0].(*net.IPNet).IP, Port: 1}}, nil
	}
	return a, w
}

// TestWoke: a machine that was asleep dials at once, beside finding out whether
// its connection still lives.
func TestWoke(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		n.net.Link.Delay = time.Millisecond
		defer n.ln.Close()
		a, w := n.watched()
		var d diary
		a.OnEvent = d.note
		defer a.Close()
		p, _ := n.resumable(a)
		time.Sleep(10*time.Minute + 100*time.Millisecond) // between two pings
		p.raw.Silence()
		woke := time.Now()
		w.says(netwatch.Woke)
		n.rejoin(p, 1)
		if took := time.Since(woke); took > 10*n.net.Link.Delay {
			t.Errorf("it dialled after %v, want at once", took)
		}
		time.Sleep(wokeTime)
		synctest.Wait()
		if lanes := p.conn.Lanes(); len(a.living()[0].conn.Lanes()) != 1 {
			t.Errorf("the lane of before lives on: %d", len(lanes))
		}
		if len(d.of(EventResuming)) > 0 || len(d.of(EventWoke)) != 1 {
			t.Errorf("events were %v", d.kinds())
		}
	})
}

// TestMoved: a connection from an address that is gone is given up at once, and
// one that is still there is only asked.
func TestMoved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		n.net.Link.Delay = time.Millisecond
		defer n.ln.Close()
		a, w := n.watched()
		var d diary
		a.OnEvent = d.note
		defer a.Close()
		p, _ := n.resumable(a)
		time.Sleep(time.Minute)
		w.says(netwatch.Moved) // a container has started, say
		time.Sleep(time.Minute)
		if dials := len(n.dialled()); dials != 1 {
			t.Errorf("it dialled %d times, and its address was there", dials)
		}

		p.raw.Silence() // as it is when an address goes
		w.moves("192.0.2.2")
		moved := time.Now()
		w.says(netwatch.Moved)
		n.rejoin(p, 1)
		if took := time.Since(moved); took > 10*n.net.Link.Delay {
			t.Errorf("it dialled after %v, want at once", took)
		}
		if len(d.of(EventNetworkChanged)) != 1 || len(d.of(EventResumed)) != 1 {
			t.Errorf("events were %v", d.kinds())
		}

		time.Sleep(stable)
		p.raw.Silence() // and a route that has gone
		moved = time.Now()
		w.says(netwatch.Moved)
		n.rejoin(p, 2)
		if took := time.Since(moved); took > movedTime+firstWait+10*n.net.Link.Delay {
			t.Errorf("it was back after %v, want %v at most", took, movedTime+firstWait)
		}
	})
}

// TestNewsCutsWaits: who waits for the next attempt makes it when something has
// changed, but not more than one a second, and not against the node's wish.
func TestNewsCutsWaits(t *testing.T) {
	for _, resumable := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			n := newNode(t)
			a, w := n.watched()
			defer a.Close()
			p, _ := n.resumable(a)
			n.ln.Close()
			p.raw.Break()
			wait := 10 * time.Second
			if !resumable { // the session has ended then
				wait = 10 * time.Minute
			}
			time.Sleep(wait)
			before := len(n.dialled())
			for range 50 { // a network that comes and goes
				w.says(netwatch.Moved)
				time.Sleep(100 * time.Millisecond)
			}
			if dials := len(n.dialled()) - before; dials < 3 || dials > 6 {
				t.Errorf("%d attempts in 5 s, want one a second", dials)
			}
			n.listen()
			defer n.ln.Close()
			back := time.Now()
			w.says(netwatch.Moved)
			q := n.next()
			if waited := time.Since(back); waited > closest {
				t.Errorf("it came after %v, want %v at most", waited, closest)
			}
			told := time.Now()
			q.read()
			q.say(&wire.Refused{Code: wire.Internal, RetryAfter: 10_000})
			time.Sleep(2 * time.Second)
			w.says(netwatch.Moved)
			n.next()
			if waited := time.Since(told); waited < 10*time.Second {
				t.Errorf("it came after %v, and was told 10 s", waited)
			}
			p.conn.Close()
		})
	}
}

// TestSecondLane: bulk gets a lane of its own; a node that gives none is not
// asked again and again.
func TestSecondLane(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		n.net.Link.Delay, n.net.Link.Rate = 20*time.Millisecond, 4<<20
		defer n.ln.Close()
		a := n.agent()
		var d diary
		a.OnEvent = d.note
		defer a.Close()
		p, ln := n.resumable(a)
		accept := async(ln.Accept)
		stream := p.visit(head(wire.Visit{Request: 1}))
		conn, err := accept.wait()
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { io.Copy(io.Discard, stream) })
		defer wg.Wait()
		wg.Go(func() {
			defer conn.Close()
			for range 80 << 20 / len(make([]byte, 1<<20)) {
				if _, err := conn.Write(make([]byte, 1<<20)); err != nil {
					t.Error(err)
					return
				}
			}
		})
		n.asked(1).say(&wire.Refused{Code: wire.SessionUnknown}) // of an upgraded node, for one
		refused := time.Now()
		n.rejoin(p, 2)
		if waited := time.Since(refused); waited < moreTime {
			t.Errorf("it asked again after %v, want %v at least", waited, moreTime)
		}
		if lanes := len(p.conn.Lanes()); lanes != 2 {
			t.Errorf("there are %d lanes, want 2", lanes)
		}
		wg.Wait()
		stream.Close()
		time.Sleep(10 * time.Second)
		if lanes := len(p.conn.Lanes()); lanes != 1 {
			t.Errorf("there are %d lanes when all is quiet, want 1", lanes)
		}
		if got := d.kinds(); !slices.Equal(got, []EventKind{EventConnecting, EventConnected, EventReady}) {
			t.Errorf("events were %v, want none of lanes", got)
		}
	})
}

// TestLaneThatDoesNotLast: a second lane that is cut as soon as it is there, by
// something on the way that allows only one, is not tried again and again.
func TestLaneThatDoesNotLast(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		n.net.Link.Delay, n.net.Link.Rate = 20*time.Millisecond, 4<<20
		defer n.ln.Close()
		a := n.agent()
		defer a.Close()
		p, ln := n.resumable(a)
		accept := async(ln.Accept)
		stream := p.visit(head(wire.Visit{Request: 1}))
		conn, err := accept.wait()
		if err != nil {
			t.Fatal(err)
		}
		go io.Copy(io.Discard, stream)
		go io.Copy(conn, endless{})
		for i := range uint64(3) {
			q := n.asked(i + 1)
			asked := time.Now()
			q.say(&wire.Joined{})
			if _, err := p.conn.Join(q.tls, i+1); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
			q.raw.Break()
			time.Sleep(moreTime - time.Second)
			if again := len(n.dialled()) - int(i) - 2; again > 0 {
				t.Errorf("it asked %d times again within %v", again, time.Since(asked))
			}
		}
		p.raw.Break()
		p.conn.Close()
	})
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// TestLostAgainAtOnce: a lane that is gone before anybody could look at it is
// one more that was lost.
func TestLostAgainAtOnce(t *testing.T) {
	for range 10 { // which of two things is looked at first is a matter of luck
		bubble(t, func(t *testing.T) {
			n := newNode(t)
			n.net.Link.Delay = time.Millisecond
			defer n.ln.Close()
			a, w := n.watched()
			defer a.Close()
			a.OnEvent = func(e Event) {
				if e.Kind == EventResuming {
					time.Sleep(time.Second) // it must return soon; a machine may have no time for us all the same
				}
			}
			p, _ := n.resumable(a)
			w.says(netwatch.Woke)
			q := n.asked(1)
			p.raw.Break()
			synctest.Wait()
			q.say(&wire.Joined{})
			if _, err := p.conn.Join(q.tls, 1); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
			q.raw.Break()
			lost := time.Now()
			n.rejoin(p, 2)
			if took := time.Since(lost); took > 3*time.Second {
				t.Errorf("it was back after %v", took)
			}
		})
	}
}

// TestCloseWhileLost: nobody waits for a node that is not there.
func TestCloseWhileLost(t *testing.T) {
	for name, end := range map[string]func(a *Agent) error{
		"Close":    (*Agent).Close,
		"Shutdown": func(a *Agent) error { return a.Shutdown(context.Background()) },
	} {
		bubble(t, func(t *testing.T) {
			n := newNode(t)
			a := n.agent()
			p, ln := n.resumable(a)
			accept := async(ln.Accept)
			p.visit(head(wire.Visit{Request: 1}))
			conn, err := accept.wait()
			if err != nil {
				t.Fatal(err)
			}
			n.ln.Close()
			p.raw.Break()
			go conn.Write(make([]byte, 64<<20)) // more than is kept
			listening(t.Context(), a, Tunnel{Name: "wiki"})
			time.Sleep(5 * time.Second)
			start := time.Now()
			if err := end(a); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("%s took %v", name, took)
			}
			p.conn.Close()
		})
	}
}

// TestAttemptOfAnotherNetwork: an attempt that began before the machine slept
// does not hold up the next one.
func TestAttemptOfAnotherNetwork(t *testing.T) {
	for _, resumable := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			n := newNode(t)
			defer n.ln.Close()
			a, w := n.watched()
			defer a.Close()
			p, _ := n.resumable(a)
			p.raw.Break()
			q := n.asked(1)
			if !resumable {
				q.say(&wire.Refused{Code: wire.SessionUnknown})
				q = n.next()
			}
			q.raw.Silence()
			time.Sleep(1500 * time.Millisecond)
			w.says(netwatch.Moved) // it may still be good
			dials := len(n.dialled())
			w.says(netwatch.Woke)
			woke := time.Now()
			n.next()
			if took := time.Since(woke); took > 0 {
				t.Errorf("it dialled after %v, want at once", took)
			}
			if more := len(n.dialled()) - dials; more != 1 {
				t.Errorf("it dialled %d times, want once", more)
			}
			p.conn.Close()
		})
	}
}
