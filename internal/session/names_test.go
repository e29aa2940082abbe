package session

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/router"
	"github.com/culvertd/culvert/internal/wire"
)

// bindAs asks for blog with a policy.
func (p *agentPeer) bindAs(request uint32, how wire.Takeover) {
	p.f.Helper()
	p.say(&wire.Bind{Request: request, Name: "blog", Takeover: how})
}

// wantBound waits for a yes.
func (p *agentPeer) wantBound(why string, request uint32) {
	p.f.Helper()
	p.want(why, &wire.Bound{Request: request, Name: "blog", URL: "https://blog.node.test"})
}

// wantReplaced waits for the end of a tunnel.
func (p *agentPeer) wantReplaced(why string, request uint32) {
	p.f.Helper()
	if m, ok := p.read().(*wire.Unbound); !ok || m.Request != request || m.Code != wire.Replaced || m.Reason == "" {
		p.f.Fatalf("%s: the node said %+v, want replaced", why, m)
	}
}

// wantSilence checks that the node has nothing to say.
func (p *agentPeer) wantSilence(why string) {
	p.f.Helper()
	p.control.SetReadDeadline(time.Now().Add(time.Second))
	if m, err := wire.Read(p.control); err == nil {
		p.f.Fatalf("%s: the node said %T%+v, want silence", why, m, m)
	}
}

// session is the one of that agent on the node.
func (p *agentPeer) session(id byte) *session {
	for _, x := range p.f.latest() {
		if x.agent.id == [16]byte{id} {
			return x
		}
	}
	p.f.Fatal("no such session")
	return nil
}

// TestPolicies: what each says that comes against each that is there, a living
// agent of the same owner.
func TestPolicies(t *testing.T) {
	const (
		replaced = iota // the holder is told
		shared
		refused // the newcomer is, for good
	)
	for _, tt := range []struct {
		holder, newcomer wire.Takeover
		want             int
	}{
		{wire.TakeoverReplace, wire.TakeoverReplace, replaced},
		{wire.TakeoverReplace, wire.TakeoverRefuse, refused},
		{wire.TakeoverReplace, wire.TakeoverPool, refused},
		{wire.TakeoverRefuse, wire.TakeoverReplace, refused},
		{wire.TakeoverRefuse, wire.TakeoverRefuse, refused},
		{wire.TakeoverRefuse, wire.TakeoverPool, refused},
		{wire.TakeoverPool, wire.TakeoverReplace, refused},
		{wire.TakeoverPool, wire.TakeoverRefuse, refused},
		{wire.TakeoverPool, wire.TakeoverPool, shared},
	} {
		bubble(t, func(f *fixture) {
			a, b := f.join("ann-1", 1), f.join("ann-2", 2)
			a.bindAs(1, tt.holder)
			a.wantBound("the first", 1)
			b.bindAs(1, tt.newcomer)
			switch tt.want {
			case replaced:
				b.wantBound("the newcomer", 1)
				a.wantReplaced("the holder", 1)
				f.mustVisit("blog", b)
			case shared:
				b.wantBound("the newcomer", 1)
				a.wantSilence("the holder")
				for range 2 {
					f.visit("blog")
					f.visit("blog")
					a.accept()
					b.accept()
				}
			case refused:
				if m := b.wantRefused("the newcomer", 1, wire.NameHeld); m.Reason == "" || m.RetryAfter != 0 || !m.Code.Final() {
					f.Errorf("%v against %v: got %+v; want a reason, for good", tt.newcomer, tt.holder, m)
				}
				a.wantSilence("the holder")
				f.mustVisit("blog", a)
			}

			// The same agent has what it had, whatever it says now.
			again := f.join("ann-1", 1)
			if tt.want != shared {
				again.bindAs(1, tt.holder)
				if tt.want == replaced {
					again.wantRefused("the holder, back too soon", 1, wire.NameInUse)
					return
				}
				again.wantBound("the holder, back", 1)
				f.mustVisit("blog", again)
				return
			}
			again.bindAs(1, wire.TakeoverPool)
			again.wantBound("a member, back", 1)
			f.visit("blog")
			f.visit("blog")
			again.accept()
			b.accept()
		})
	}
}

// TestFight: two agents that take a name from each other get one swap in ten
// seconds, are told to ask again, and the operator hears of it, once for each.
func TestFight(t *testing.T) {
	bubble(t, func(f *fixture) {
		var log lockedBuffer
		f.Log = slog.New(slog.NewTextHandler(&log, nil))
		fighters := [2]*agentPeer{f.join("ann-1", 1), f.join("ann-2", 2)}
		fighters[0].bindAs(1, wire.TakeoverReplace)
		fighters[0].wantBound("the first", 1)
		start, request := time.Now(), uint32(1)
		for round := range 4 {
			attacker, holder := fighters[(round+1)%2], fighters[round%2]
			for asked := 0; ; asked++ {
				request++
				attacker.bindAs(request, wire.TakeoverReplace)
				m, ok := attacker.read().(*wire.Refused)
				if !ok { // bound
					break
				}
				if m.Code != wire.NameInUse || m.Code.Final() || m.Reason == "" || m.RetryAfter == 0 || m.RetryAfter > 10_000 {
					f.Fatalf("got %+v; want name_in_use, and when to ask again", m)
				}
				if asked > 5 {
					f.Fatal("it asked when it was told to, and was refused again")
				}
				f.mustVisit("blog", holder)
				time.Sleep(time.Duration(m.RetryAfter) * time.Millisecond / 3) // impatient
				if asked > 2 {
					time.Sleep(time.Duration(m.RetryAfter) * time.Millisecond)
				}
			}
			if _, ok := holder.read().(*wire.Unbound); !ok {
				f.Fatal("the holder was not told")
			}
			if took := time.Since(start); took < time.Duration(round)*swapTime {
				f.Errorf("%d swaps in %v", round+1, took)
			}
		}
		if n := strings.Count(log.String(), "two agents fought for a name"); n != 3 {
			f.Errorf("the log says so %d times, want 3: once for each swap that was asked for too soon\n%s", n, &log)
		}
	})
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestNoFight: what looks like a swap and is none.
func TestNoFight(t *testing.T) {
	bubble(t, func(f *fixture) { // an agent that comes back, over and over
		for range uint32(5) {
			p := f.join("ann-1", 1)
			p.bindAs(1, wire.TakeoverRefuse)
			p.wantBound("back", 1)
			f.mustVisit("blog", p)
		}
	})
	bubble(t, func(f *fixture) { // one that said goodbye, and one that was lost
		for i := range byte(6) {
			p := f.join("ann-1", i+1)
			p.bindAs(1, wire.TakeoverReplace)
			p.wantBound("after the other", 1)
			if i%2 == 0 {
				p.say(&wire.Unbind{Request: 1})
			} else {
				p.raw.Break()
			}
			synctest.Wait()
		}
	})
	bubble(t, func(f *fixture) { // one whose session has no connection for longer than a second
		for _, how := range []wire.Takeover{wire.TakeoverReplace, wire.TakeoverRefuse, wire.TakeoverPool} {
			a, b := f.join("ann-1", 1), f.join("ann-2", 2)
			a.bindAs(1, wire.TakeoverRefuse)
			a.wantBound("the first", 1)
			a.session(1).strand(true)
			time.Sleep(aliveTime)
			b.bindAs(1, how)
			b.wantRefused("for a second it is taken for alive", 1, wire.NameHeld)
			time.Sleep(time.Nanosecond)
			start := time.Now()
			b.bindAs(2, how)
			b.wantBound("then it is as good as gone", 2)
			if took := time.Since(start); took > time.Second {
				f.Errorf("it took %v", took)
			}
			f.mustVisit("blog", b)
			a.session(1).strand(false) // and the old session is here again
			a.wantReplaced("who was away", 1)
			f.mustVisit("blog", b)
			b.say(&wire.Unbind{Request: 2})
			synctest.Wait()
		}
	})
}

// TestNobodyReplacesHimself: an agent that has a name in two sessions, because it
// makes one before it leaves the other, is not told to end.
func TestNobodyReplacesHimself(t *testing.T) {
	bubble(t, func(f *fixture) {
		p := f.join("ann-1", 1)
		for i, by := range []agent{{"ann", [16]byte{1}}, {"ann", [16]byte{2}}} {
			request := uint32(i + 1)
			p.bindAs(request, wire.TakeoverReplace)
			p.wantBound("bind", request)
			x := p.session(1)
			x.mu.Lock()
			t := x.tunnels[request]
			x.mu.Unlock()
			again := &tunnel{session: &session{server: x.server, agent: by}, name: t.name, host: t.host}
			losers, refused := x.server.take(again, router.Options{})
			if len(losers) != 1 || losers[0] != t || refused != nil {
				f.Fatalf("%v: got %v, %+v; want the name", by, losers, refused)
			}
			if swap := !x.server.tunnels[t.name].swapped.IsZero(); swap != (request == 2) {
				f.Errorf("request %d: a swap is %v", request, swap)
			}
			x.replaced(t, by)
			x.server.release(again, false)
			if request == 1 {
				p.wantSilence("its own doing")
			} else {
				p.wantReplaced("another's", request)
			}
		}
	})
}

// TestPoolIsBounded: the number of agents that share a name.
func TestPoolIsBounded(t *testing.T) {
	bubble(t, func(f *fixture) {
		for i := range byte(maxPool) {
			p := f.join("ann-1", i+1)
			p.bindAs(1, wire.TakeoverPool)
			p.wantBound("a member", 1)
		}
		p := f.join("ann-1", 200)
		p.bindAs(1, wire.TakeoverPool)
		p.wantRefused("one more", 1, wire.TooManyTunnels)
		p = f.join("ann-1", 7)
		p.bindAs(1, wire.TakeoverPool)
		p.wantBound("a member that is back", 1)
	})
}

// TestHolds: whose visitors are held when a session ends, and whose are not.
func TestHolds(t *testing.T) {
	for why, tt := range map[string]struct {
		end  func(f *fixture, p *agentPeer)
		held bool
	}{
		"its connection breaks":        {func(f *fixture, p *agentPeer) { p.raw.Break() }, true},
		"it breaks the rules":          {func(f *fixture, p *agentPeer) { io.WriteString(p.control, "\x03\xff\xff\xff") }, false},
		"it was kicked":                {func(f *fixture, p *agentPeer) { f.Kick(f.Sessions()[0].ID) }, true},
		"it comes back":                {func(f *fixture, p *agentPeer) { f.join("ann-1", 1) }, true},
		"it leaves a node that drains": {func(f *fixture, p *agentPeer) { p.session(1).drain(time.Second); p.session(1).settle() }, true},
		"it leaves when it was asked to": {func(f *fixture, p *agentPeer) {
			f.mustVisit("blog", p)
			p.session(1).drain(time.Second)
			p.conn.Close()
		}, true},
		"its connection is away":          {func(f *fixture, p *agentPeer) { p.session(1).strand(true) }, true},
		"it unbinds":                      {func(f *fixture, p *agentPeer) { p.say(&wire.Unbind{Request: 1}) }, false},
		"it closes in good order":         {func(f *fixture, p *agentPeer) { p.conn.Close() }, false},
		"its token is revoked":            {func(f *fixture, p *agentPeer) { f.DropToken("ann-1") }, false},
		"its connection was away, and is": {func(f *fixture, p *agentPeer) { p.session(1).strand(true); p.session(1).strand(false) }, false},
	} {
		bubble(t, func(f *fixture) {
			f.router.Owned = func(string) bool { return true }
			p := f.join("ann-1", 1)
			p.bind(1, "blog")
			tt.end(f, p)
			synctest.Wait()
			start := time.Now()
			_, err := f.router.Await(f.Context(), "blog.node.test", new(router.Wait))
			held := time.Since(start) > 0
			if held != tt.held || err != nil && !errors.Is(err, router.ErrOffline) {
				f.Errorf("%s: visitors waited %v, and got %v; held should be %v", why, time.Since(start), err, tt.held)
			}
		})
	}
}

// TestLostVisitors: what the edge hears of a stream whose session ends under
// it. The service's own end is another.
func TestLostVisitors(t *testing.T) {
	for why, end := range map[string]func(f *fixture, p *agentPeer){
		"broken":  func(f *fixture, p *agentPeer) { p.raw.Break() },
		"silent":  func(f *fixture, p *agentPeer) { p.raw.Silence() },
		"closed":  func(f *fixture, p *agentPeer) { p.conn.Close() },
		"kicked":  func(f *fixture, p *agentPeer) { f.Kick(f.Sessions()[0].ID) },
		"revoked": func(f *fixture, p *agentPeer) { f.DropToken("ann-1") },
	} {
		bubble(t, func(f *fixture) {
			p := f.join("ann-1", 1)
			p.bind(1, "blog")
			conn, _ := f.mustVisit("blog", p)
			end(f, p)
			if why == "silent" {
				p.conn.Close() // nothing of it arrives
			}
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, router.ErrLost) {
				f.Errorf("%s: Read: %v, want %v", why, err, router.ErrLost)
			}
			if _, err := conn.Write([]byte("x")); !errors.Is(err, router.ErrLost) {
				f.Errorf("%s: Write: %v, want %v", why, err, router.ErrLost)
			}
		})
	}
	bubble(t, func(f *fixture) {
		p := f.join("ann-1", 1)
		p.bind(1, "blog")
		conn, stream := f.mustVisit("blog", p)
		stream.Close()
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			f.Errorf("a stream that has ended: %v, want EOF", err)
		}
		conn, _ = f.mustVisit("blog", p)
		conn.(interface{ Abort() }).Abort()
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, router.ErrLost) {
			f.Errorf("a stream that we cut: %v", err)
		}
		conn, _ = f.mustVisit("blog", p)
		conn.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, router.ErrLost) {
			f.Errorf("a stream without an answer: %v", err)
		}
	})
}

// strand takes the session's connection for lost, or not any more.
func (x *session) strand(lost bool) {
	x.mu.Lock()
	x.adrift = time.Time{}
	if lost {
		x.adrift = time.Now()
	}
	x.mu.Unlock()
	x.reach()
}
