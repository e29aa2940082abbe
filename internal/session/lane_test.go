package session

import (
	"context"
	"errors"
	"io"

	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
	"github.com/culvertd/culvert/internal/wire"
)

// asks dials, and asks to join with the next number. change spoils what is
// asked, if there is something to spoil.
func (p *agentPeer) asks(change func(*wire.Join)) *agentPeer {
	p.f.Helper()
	p.lane++
	m := &wire.Join{Version: 1, Session: p.welcome.Session, Lane: p.lane, Token: p.token}
	m.Proof = wire.Proof(p.welcome.Secret, m.Session, m.Lane)
	if change != nil {
		change(m)
	}
	_, q := p.f.dial()
	q.say(m)
	return q
}

// rejoins adds a lane.
func (p *agentPeer) rejoins() {
	p.f.Helper()
	q := p.asks(nil)
	q.want("a lane is taken", &wire.Joined{})
	if _, err := p.conn.Join(q.raw, p.lane); err != nil {
		p.f.Fatal(err)
	}
	p.raw = q.raw
	synctest.Wait()
}

// state is what an operator sees of the only session.
func (f *fixture) state() Info {
	f.Helper()
	all := f.Sessions()
	if len(all) != 1 {
		f.Fatalf("there are %d sessions, want one", len(all))
	}
	return all[0]
}

func (f *fixture) wantState(why string, state State, lanes int) {
	f.Helper()
	synctest.Wait()
	if i := f.state(); i.State != state || i.Lanes != lanes || i.Lost.IsZero() == (state == Resuming) {
		f.Errorf("%s: the session is %s since %v with %d lanes, want %s and %d", why, i.State, i.Lost, i.Lanes, state, lanes)
	}
}

// only is the only session.
func (f *fixture) only() *session {
	f.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range f.sessions {
		return x
	}
	f.Fatal("there is no session")
	return nil
}

// TestResume: a session lives on without its connection, and goes on over the
// next one; visitors notice nothing.
func TestResume(t *testing.T) {
	bubble(t, func(f *fixture) {
		p := f.join("ann-1", 1)
		if p.welcome.Resume != 30_000 {
			f.Errorf("the agent was told %d ms", p.welcome.Resume)
		}
		p.bind(1, "blog")
		conn, stream := f.mustVisit("blog", p)
		f.wantState("at first", Connected, 1)
		for range 3 {
			p.raw.Break()
			f.wantState("after the connection broke", Resuming, 0)
			go io.WriteString(conn, "question")
			time.Sleep(20 * time.Second)
			p.rejoins()
			f.wantState("after the next one", Connected, 1)
			got := make([]byte, 8)
			if _, err := io.ReadFull(stream, got); err != nil || string(got) != "question" {
				f.Fatalf("the agent read %q, %v", got, err)
			}
		}
		p.bind(2, "wiki") // the control stream lives on as well
		io.WriteString(stream, "answer")
		stream.Close()
		if got, err := readAll(conn); got != "answer" || err != nil {
			f.Errorf("the visitor read %q, %v", got, err)
		}
		conn.Close()
		p.goes()
		synctest.Wait()
		f.wantNobody("after a goodbye", "blog")
	})
}

// TestLost: what becomes of a session that nobody joins, and how its end is told
// from a goodbye.
func TestLost(t *testing.T) {
	for why, tt := range map[string]struct {
		resume time.Duration
		end    func(f *fixture, p *agentPeer)
		lost   bool
		most   time.Duration // until it is over
	}{
		"reset":                 {0, func(f *fixture, p *agentPeer) { p.raw.Break() }, true, 30 * time.Second},
		"silent":                {0, func(f *fixture, p *agentPeer) { p.raw.Silence() }, true, 35 * time.Second},
		"reset, kept for less":  {time.Second, func(f *fixture, p *agentPeer) { p.raw.Break() }, true, time.Second},
		"reset, and not kept":   {-1, func(f *fixture, p *agentPeer) { p.raw.Break() }, true, 0},
		"silent, and not kept":  {-1, func(f *fixture, p *agentPeer) { p.raw.Silence() }, true, 5 * time.Second},
		"a goodbye":             {0, func(f *fixture, p *agentPeer) { p.goes() }, false, 0},
		"a goodbye, not kept":   {-1, func(f *fixture, p *agentPeer) { p.goes() }, false, 0},
		"the end of the stream": {0, func(f *fixture, p *agentPeer) { p.control.CloseWrite() }, false, 0},
		"bad manners":           {0, func(f *fixture, p *agentPeer) { p.say(&wire.Drain{}) }, false, 0},
		"the operator":          {0, func(f *fixture, p *agentPeer) { f.Kick(f.state().ID) }, true, 0},
		"the token":             {0, func(f *fixture, p *agentPeer) { f.authority.revoke("ann-1"); f.DropToken("ann-1") }, false, 0},
		"the token, while lost": {0, func(f *fixture, p *agentPeer) { p.raw.Break(); f.authority.revoke("ann-1") }, false, checkTime},
	} {
		bubble(t, func(f *fixture) {
			f.Server.Resume = tt.resume
			p := f.join("ann-1", 1)
			p.bind(1, "blog")
			conn, _ := f.mustVisit("blog", p)
			x := f.only()
			start := time.Now()
			tt.end(f, p)
			_, err := readAll(conn)
			if took := time.Since(start); took > tt.most {
				f.Errorf("%s: the visitor was left alone for %v, want %v at most", why, took, tt.most)
			}
			if err == nil {
				f.Errorf("%s: what was cut looked finished", why)
			}
			synctest.Wait()
			x.mu.Lock()
			lost := x.lost
			x.mu.Unlock()
			if lost != tt.lost {
				f.Errorf("%s: lost is %v, want %v", why, lost, tt.lost)
			}
			f.wantNobody(why, "blog")
			conn.Close()
			time.Sleep(2 * time.Second) // for last words
			if p.asks(nil).read().(*wire.Refused).Code != wire.SessionUnknown {
				f.Errorf("%s: the session can be joined", why)
			}
			p.goes()
		})
	}
}

// TestSilenceIsNoticed: a path that has fallen silent, within five seconds.
func TestSilenceIsNoticed(t *testing.T) {
	bubble(t, func(f *fixture) {
		p := f.join("ann-1", 1)
		time.Sleep(time.Hour) // an idle session is no silent one
		f.wantState("idle", Connected, 1)
		p.raw.Silence()
		time.Sleep(5*time.Second + 10*time.Millisecond)
		f.wantState("silent", Resuming, 0)
		p.rejoins()
		f.wantState("back", Connected, 1)
	})
}

// TestJoinRefused: whoever cannot prove that a session is his is told nothing,
// and the session does not notice.
func TestJoinRefused(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.MaxStrangers = 3
		p := f.join("ann-1", 1)
		p.bind(1, "blog")
		other := f.join("ann-1", 2)
		f.join("ann-2", 3)
		p.rejoins()
		taken := p.lane
		for why, spoil := range map[string]func(m *wire.Join){
			"no proof":          func(m *wire.Join) { m.Proof = [32]byte{} },
			"another proof":     func(m *wire.Join) { m.Proof[31]++ },
			"another secret":    func(m *wire.Join) { m.Proof = wire.Proof(other.welcome.Secret, m.Session, m.Lane) },
			"no session":        func(m *wire.Join) { m.Session = [16]byte{} },
			"another session":   func(m *wire.Join) { m.Session = other.welcome.Session },
			"an unknown one":    func(m *wire.Join) { m.Session[0]++; m.Proof = wire.Proof(p.welcome.Secret, m.Session, m.Lane) },
			"no token":          func(m *wire.Join) { m.Token = "" },
			"an unknown token":  func(m *wire.Join) { m.Token = "eve-1" },
			"another owner's":   func(m *wire.Join) { m.Token = "bob-1" },
			"another of ann's":  func(m *wire.Join) { m.Token = "ann-2" },
			"lane zero":         func(m *wire.Join) { m.Lane = 0; m.Proof = wire.Proof(p.welcome.Secret, m.Session, 0) },
			"a lane of before":  func(m *wire.Join) { m.Lane = taken; m.Proof = wire.Proof(p.welcome.Secret, m.Session, taken) },
			"a proof of before": func(m *wire.Join) { m.Proof = wire.Proof(p.welcome.Secret, m.Session, m.Lane-1) },
		} {
			q := p.asks(spoil)
			if m := q.wantRefused(why, 0, wire.SessionUnknown); !reflect.DeepEqual(m, &wire.Refused{Code: wire.SessionUnknown}) {
				f.Errorf("%s: was told %+v", why, m)
			}
			q.wantGone(why, partTime)
		}
		q := p.asks(func(m *wire.Join) { m.Version = 0 })
		q.wantRefused("an old agent", 0, wire.VersionUnsupported)
		q.goes()
		f.authority.fail(errors.New("no quorum"))
		q = p.asks(nil)
		if m := q.wantRefused("a store in trouble", 0, wire.Internal); m.RetryAfter == 0 {
			f.Error("it was not told when to come back")
		}
		q.goes()
		f.authority.fail(nil)
		synctest.Wait()
		if len(f.strangers) != 0 {
			f.Errorf("%d strangers are left", len(f.strangers))
		}
		p.rejoins()
		f.mustVisit("blog", p)
	})
}

// TestReplay: a Join that somebody has overheard is worth nothing, whatever has
// become of it.
func TestReplay(t *testing.T) {
	bubble(t, func(f *fixture) {
		p := f.join("ann-1", 1)
		p.bind(1, "blog")
		var overheard wire.Join
		q := p.asks(func(m *wire.Join) { overheard = *m })
		synctest.Wait()
		q.raw.Break() // the answer is lost, and the agent does not know whether it was heard
		synctest.Wait()
		p.raw.Break()
		for range 3 {
			q := p.asks(func(m *wire.Join) { *m = overheard })
			p.lane--
			q.wantRefused("a replay", 0, wire.SessionUnknown)
			q.wantGone("a replay", partTime)
		}
		p.rejoins() // with the number after
		f.wantState("after a lost answer", Connected, 1)
		f.mustVisit("blog", p)
	})
}

// TestJoinsAtOnce: however they overtake each other, the session lives, and no
// number is taken twice.
func TestJoinsAtOnce(t *testing.T) {
	bubble(t, func(f *fixture) {
		p := f.join("ann-1", 1)
		p.bind(1, "blog")
		var all []*agentPeer
		for range 3 {
			all = append(all, p.asks(nil)) // without waiting for the answer
		}
		twin := p.asks(func(m *wire.Join) {
			m.Lane = 3
			m.Proof = wire.Proof(p.welcome.Secret, m.Session, 3)
		})
		p.lane--
		joined := 0
		for _, q := range append(all, twin) {
			if _, ok := q.read().(*wire.Joined); ok {
				joined++
				p.raw = q.raw
			}
			q.raw.Break()
		}
		if joined < 1 || joined > 3 {
			f.Errorf("%d lanes were taken, want one to three", joined)
		}
		synctest.Wait()
		p.rejoins()
		f.mustVisit("blog", p)
	})
}

// TestManyLanes: an agent that changes networks faster than anybody notices
// leaves the oldest lanes behind, and is not kept out.
func TestManyLanes(t *testing.T) {
	bubble(t, func(f *fixture) {
		p := f.join("ann-1", 1)
		p.bind(1, "blog")
		for range 12 {
			p.raw.Silence()
			for _, l := range p.conn.Lanes() {
				l.Leave()
			}
			p.rejoins()
			if n := f.state().Lanes; n > maxLanes {
				f.Fatalf("the session has %d lanes", n)
			}
		}
		conn, stream := f.mustVisit("blog", p)
		stream.Close()
		if _, err := readAll(conn); err != nil {
			f.Error(err)
		}
		time.Sleep(6 * time.Second)
		f.wantState("when the silent ones were noticed", Connected, 1)
	})
}

// TestHelloInPlaceOfJoin: an agent that begins anew does not wait for its old
// session, which it has given up.
func TestHelloInPlaceOfJoin(t *testing.T) {
	bubble(t, func(f *fixture) {
		old := f.join("ann-1", 1)
		old.bind(1, "blog")
		conn, _ := f.mustVisit("blog", old)
		old.raw.Break()
		f.wantState("lost", Resuming, 0)
		start := time.Now()
		p := f.join("ann-1", 1)
		p.bind(1, "blog")
		if _, err := readAll(conn); err == nil {
			f.Error("what was cut looked finished")
		}
		if took := time.Since(start); took > 0 {
			f.Errorf("it took %v", took)
		}
		time.Sleep(time.Minute)
		f.wantState("new", Connected, 1)
		f.mustVisit("blog", p)
		old.asks(nil).wantRefused("the session before", 0, wire.SessionUnknown)
		old.goes()
	})
}

// TestJoinWhileDraining: a session that has to leave may lose its connection as
// any other; nobody else is let in.
func TestJoinWhileDraining(t *testing.T) {
	bubble(t, func(f *fixture) {
		p := f.join("ann-1", 1)
		p.bind(1, "blog")
		conn, stream := f.mustVisit("blog", p)
		ctx, cancel := context.WithTimeout(f.Context(), 30*time.Second)
		defer cancel()
		done := make(chan error)
		go func() { done <- f.Shutdown(ctx) }()
		p.want("it is told", &wire.Drain{Deadline: 30_000})
		f.wantState("told", Draining, 1)
		p.raw.Break()
		f.wantState("lost", Resuming, 0)
		q := f.hello(&wire.Hello{Version: 1, Agent: [16]byte{2}, Token: "ann-1"})
		q.wantRefused("another agent", 0, wire.ShuttingDown)
		q.goes()
		p.rejoins()
		io.WriteString(stream, "finished")
		stream.Close()
		if got, err := readAll(conn); got != "finished" || err != nil {
			f.Errorf("a visitor in flight read %q, %v", got, err)
		}
		conn.Close()
		if err := <-done; err != nil {
			f.Errorf("Shutdown: %v", err)
		}
		p.wantGone("after its last visitor", time.Second)
	})
}

// TestStrangersStayStrangers: asking to join takes the place of a stranger until
// it is proved.
func TestStrangersStayStrangers(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.MaxStrangers = 4
		p := f.join("ann-1", 1)
		var silent []*memnet.Conn
		for range 4 {
			raw, _ := f.dial()
			raw.Write([]byte{byte(wire.TypeJoin), 0, 0, 90}) // and no more
			silent = append(silent, raw)
			synctest.Wait()
		}
		p.rejoins() // makes one of them leave
		synctest.Wait()
		if n := len(f.strangers); n != 3 {
			f.Errorf("there are %d strangers, want 3", n)
		}
		for _, raw := range silent {
			raw.Close()
		}
	})
}
