package session

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/auth"
	"github.com/culvertd/culvert/internal/router"
	"github.com/culvertd/culvert/internal/wire"
	"github.com/culvertd/culvert/mux"
)

// TestTranscript is a whole stay, word by word.
func TestTranscript(t *testing.T) {
	bubble(t, func(f *fixture) {
		p := f.join("ann-1", 1)
		p.say(&wire.Bind{Request: 1, Name: "Blog", HostHeader: "localhost:3000"})
		p.want("a name in its canonical spelling", &wire.Bound{Request: 1, Name: "blog", URL: "https://blog.node.test"})
		p.say(&wire.Bind{Request: 2})
		p.want("a random name", &wire.Bound{Request: 2, Name: "random1", URL: "https://random1.node.test"})

		route, err := f.router.Lookup("blog.node.test")
		if err != nil || route.HostHeader != "localhost:3000" {
			f.Errorf("the router has %+v, %v", route, err)
		}
		conn, stream := f.mustVisit("blog", p)
		io.WriteString(conn, "question")
		got := make([]byte, 8)
		if _, err := io.ReadFull(stream, got); err != nil || string(got) != "question" {
			f.Errorf("the agent read %q, %v", got, err)
		}
		info := f.Sessions()
		if len(info) != 1 || info[0].Owner != "ann" || info[0].TokenID != "ann-1" || info[0].Streams != 1 ||
			strings.Join(info[0].Tunnels, " ") != "blog random1" || info[0].Software != "test/1" {
			f.Errorf("the operator sees %+v", info)
		}
		io.WriteString(stream, "answer")
		stream.Close()
		if got, err := readAll(conn); got != "answer" || err != nil {
			f.Errorf("the visitor read %q, %v", got, err)
		}
		conn.Close()

		p.say(&wire.Unbind{Request: 1})
		p.say(&wire.Unbind{Request: 77}) // crossed an unbound of ours, for all we know
		p.bind(3, "wiki")                // and so the unbinds were heard
		f.wantNobody("after the unbind", "blog")
		p.conn.Close()
		synctest.Wait()
		f.wantNobody("after the stay", "wiki")
	})
}

// TestRefusals: what is asked for and not given. The session lives on.
func TestRefusals(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.MaxTunnels = 2
		f.authority.give("bobs", "bob")
		p := f.join("ann-1", 1)
		request := uint32(0)
		for _, tt := range []struct {
			bind wire.Bind
			code wire.Code
		}{
			{wire.Bind{Name: "bobs"}, wire.NameTaken},
			{wire.Bind{Name: "forbidden"}, wire.NameNotAllowed},
			{wire.Bind{Name: "two.labels"}, wire.NameInvalid},
			{wire.Bind{Name: "xn--80ak6aa92e"}, wire.NameInvalid},
		} {
			request++
			tt.bind.Request = request
			p.say(&tt.bind)
			if m := p.wantRefused(tt.bind.Name, request, tt.code); m.Reason == "" {
				f.Errorf("%q was refused without a reason", tt.bind.Name)
			}
		}
		p.bind(20, "blog")
		p.say(&wire.Bind{Request: 21, Name: "BLOG"})
		p.wantRefused("a name twice in a session", 21, wire.NameTaken)
		p.bind(22, "wiki")
		p.say(&wire.Bind{Request: 23, Name: "third"})
		p.wantRefused("more tunnels than allowed", 23, wire.TooManyTunnels)

		p.say(&wire.Unbind{Request: 22})
		f.authority.fail(errors.New("no quorum at 10.0.0.7"))
		p.say(&wire.Bind{Request: 24, Name: "third"})
		if m := p.wantRefused("a store in trouble", 24, wire.Internal); m.RetryAfter == 0 || strings.Contains(m.Reason, "10.0.0.7") {
			f.Errorf("got %+v, want a time and no internals", m)
		}
		if _, err := f.visit("blog"); err != nil {
			f.Errorf("what was given before is gone: %v", err)
		}
	})
}

// TestStrangers: what ends before it has begun, and when.
func TestStrangers(t *testing.T) {
	hello := func(change func(h *wire.Hello)) *wire.Hello {
		h := &wire.Hello{Version: 1, Agent: [16]byte{1}, Token: "ann-1"}
		change(h)
		return h
	}
	bubble(t, func(f *fixture) {
		for why, tt := range map[string]struct {
			hello *wire.Hello
			code  wire.Code
		}{
			"unknown token": {hello(func(h *wire.Hello) { h.Token = "eve-1" }), wire.Unauthorized},
			"no token":      {hello(func(h *wire.Hello) { h.Token = "" }), wire.Unauthorized},
			"no version":    {hello(func(h *wire.Hello) { h.Version = 0 }), wire.VersionUnsupported},
		} {
			p := f.hello(tt.hello)
			p.wantRefused(why, 0, tt.code)
			p.wantGone(why, partTime+time.Second)
		}
		p := f.hello(hello(func(h *wire.Hello) { h.Version = 9; h.Features = []string{"teleport"} }))
		if p.welcomed(); p.welcome.Version != 1 || len(p.welcome.Features) != 0 {
			f.Errorf("a newer agent was told %+v, want our version and no feature we do not have", p.welcome)
		}
		p.goes()
		f.hello(hello(func(h *wire.Hello) { h.Agent = [16]byte{} })).wantGone("an agent without an id", time.Second)
		f.authority.fail(errors.New("no quorum"))
		p = f.hello(hello(func(h *wire.Hello) { h.Token = "bob-1" }))
		if m := p.wantRefused("a store in trouble", 0, wire.Internal); m.RetryAfter == 0 {
			f.Error("it was not told when to come back")
		}
		p.goes()
	})
	for why, say := range map[string]func(p *agentPeer){
		"says nothing":       func(*agentPeer) {},
		"is not an agent":    func(p *agentPeer) { io.WriteString(p.raw, "GET / HTTP/1.1\r\n\r\n") },
		"says no hello":      func(p *agentPeer) { p.conn = mux.Client(p.raw, mux.Config{}) },
		"says half a hello":  func(p *agentPeer) { p.raw.Write([]byte{1, 0, 0}) },
		"says half a join":   func(p *agentPeer) { p.raw.Write([]byte{9, 0, 0, 40, 1}) },
		"says another word":  func(p *agentPeer) { p.say(&wire.Bind{Request: 1}) },
		"says too long word": func(p *agentPeer) { p.raw.Write([]byte{1, 255, 255, 255}) },
		"says a long word":   func(p *agentPeer) { p.raw.Write([]byte{1, 0, 0x10, 1}) },
		"says unknown words": func(p *agentPeer) { p.raw.Write(bytes.Repeat([]byte{0x7f, 0, 0, 0}, 100)) },
		"hangs up":           func(p *agentPeer) { p.raw.Close() },
		"breaks":             func(p *agentPeer) { p.raw.Break() },
		"opens no stream": func(p *agentPeer) {
			p.say(&wire.Hello{Version: 1, Agent: [16]byte{1}, Token: "ann-1"})
			p.read()
			p.conn = mux.Client(p.raw, mux.Config{})
		},
	} {
		bubble(t, func(f *fixture) {
			raw, p := f.dial()
			start := time.Now()
			say(p)
			io.Copy(io.Discard, raw)
			if p.conn != nil {
				<-p.conn.Done()
				p.conn.Close()
			}
			if waited := time.Since(start); waited > helloTime+time.Second {
				f.Errorf("a stranger who %s was borne for %v", why, waited)
			}
			raw.Close()
		})
	}
}

// TestManyStrangers: their number is bounded, and agents are not counted.
func TestManyStrangers(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.MaxStrangers, f.MaxSessions = 2, 2
		f.join("ann-1", 1)
		a, _ := f.dial()
		synctest.Wait() // or else b may be the older one
		b, _ := f.dial()
		synctest.Wait()
		c, _ := f.dial()
		io.Copy(io.Discard, a) // the oldest makes room
		synctest.Wait()
		if n := len(f.strangers); n != 2 {
			f.Errorf("there are %d strangers, want 2", n)
		}
		a.Close()
		b.Close()
		c.Close()
		synctest.Wait()
		f.join("ann-1", 2)
		f.hello(&wire.Hello{Version: 1, Agent: [16]byte{3}, Token: "ann-1"}).wantRefused("a full node", 0, wire.Internal)
		f.join("ann-1", 2) // back, in place of its old session
	})
}

// TestBadManners: an agent that breaks the rules ends its own stay, and no
// other.
func TestBadManners(t *testing.T) {
	for why, act := range map[string]func(p *agentPeer){
		"uses a request twice": func(p *agentPeer) { p.bind(1, "blog"); p.say(&wire.Bind{Request: 1, Name: "wiki"}) },
		"uses request 0":       func(p *agentPeer) { p.say(&wire.Bind{Name: "wiki"}) },
		"says the node's part": func(p *agentPeer) { p.say(&wire.Drain{}) },
		"says hello twice":     func(p *agentPeer) { p.say(&wire.Hello{Version: 1}) },
		"talks nonsense":       func(p *agentPeer) { io.WriteString(p.control, "\x03\xff\xff\xff") },
	} {
		bubble(t, func(f *fixture) {
			good := f.join("bob-1", 1)
			good.bind(1, "bobs")
			p := f.join("ann-1", 1)
			act(p)
			p.wantGone("an agent that "+why, 2*time.Second)
			synctest.Wait()
			f.wantNobody("an agent that "+why, "blog")
			f.mustVisit("bobs", good)
		})
	}
	bubble(t, func(f *fixture) { // streams of its own are refused, and not held against it
		p := f.join("ann-1", 1)
		for range 100 {
			stream, err := p.conn.Open(f.Context())
			if err != nil {
				f.Fatal(err)
			}
			_, err = stream.Read(make([]byte, 1))
			if e, ok := errors.AsType[*mux.StreamError](err); !ok || e.Code != mux.CodeRefused {
				f.Fatalf("its stream: %v", err)
			}
		}
		p.bind(1, "blog")
	})
}

// TestServiceErrors: what the agent says of its service, as the edge hears it.
func TestServiceErrors(t *testing.T) {
	bubble(t, func(f *fixture) {
		p := f.join("ann-1", 1)
		p.bind(1, "blog")
		for code, want := range map[mux.Code]router.Problem{
			wire.ServiceRefused: router.ServiceRefused,
			wire.ServiceReset:   router.ServiceReset,
			wire.ServiceTimeout: router.ServiceTimeout,
		} {
			conn, stream := f.mustVisit("blog", p)
			stream.Reset(code)
			_, err := conn.Read(make([]byte, 1))
			if e, ok := errors.AsType[*router.ServiceError](err); !ok || e.Problem != want {
				f.Errorf("Read: %v, want %v", err, want)
			}
			if _, err := io.Copy(conn, strings.NewReader("x")); err == nil {
				f.Error("Write into a stream that was reset")
			} else if e, ok := errors.AsType[*router.ServiceError](err); !ok || e.Problem != want {
				f.Errorf("Write: %v, want %v", err, want)
			}
			conn.Close()
		}
		conn, stream := f.mustVisit("blog", p)
		stream.Reset(wire.NoTunnel)
		if _, err := io.Copy(io.Discard, conn); !errors.Is(err, router.ErrOffline) {
			f.Errorf("no such tunnel: %v", err)
		}

		conn, stream = f.mustVisit("blog", p)
		conn.(interface{ Abort() }).Abort()
		_, err := io.ReadAll(stream)
		if e, ok := errors.AsType[*mux.StreamError](err); !ok || e.Code != wire.VisitorGone {
			f.Errorf("a visitor that breaks off: %v", err)
		}
		p.raw.Break()
		time.Sleep(31 * time.Second) // in which it might have come back
		f.wantNobody("a broken connection", "blog")
	})
}

// TestComingBack: an agent that is back before we have noticed that it was gone
// has its names at once; the late end of the old session touches nothing.
func TestComingBack(t *testing.T) {
	bubble(t, func(f *fixture) {
		old := f.join("ann-1", 1)
		old.bind(1, "blog")
		conn, _ := f.mustVisit("blog", old)
		old.raw.Silence() // the laptop sleeps; nobody hears of it

		start := time.Now()
		p := f.join("ann-1", 1)
		p.bind(1, "blog")
		if waited := time.Since(start); waited > time.Second {
			f.Errorf("it took %v to come back", waited)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
			f.Errorf("a visitor of the old session read %v, want an error", err)
		}
		if waited := time.Since(start); waited > time.Second {
			f.Errorf("the old session was ended after %v, want at once", waited)
		}
		time.Sleep(time.Hour) // it dies in every way it can
		if n := len(f.Sessions()); n != 1 {
			f.Errorf("there are %d sessions", n)
		}
		f.mustVisit("blog", p)
	})
}

// TestNotTheSameAgent: an id of somebody else's choice ends nobody's session.
func TestNotTheSameAgent(t *testing.T) {
	bubble(t, func(f *fixture) {
		p := f.join("ann-1", 1)
		p.bind(1, "blog")
		f.join("bob-1", 1)
		time.Sleep(time.Minute)
		f.mustVisit("blog", p)
	})
}

// TestTakeover: another agent of the same owner takes a name over. The older
// one is told, keeps its other names, and its streams live on.
func TestTakeover(t *testing.T) {
	bubble(t, func(f *fixture) {
		older := f.join("ann-1", 1)
		older.bind(1, "blog")
		older.bind(2, "wiki")
		conn, stream := f.mustVisit("blog", older)

		newer := f.join("ann-2", 2)
		newer.bind(1, "blog")
		m, ok := older.read().(*wire.Unbound)
		if !ok || m.Request != 1 || m.Code != wire.Replaced {
			f.Fatalf("the older agent was told %+v", m)
		}
		f.mustVisit("blog", newer)
		f.mustVisit("wiki", older)
		io.WriteString(stream, "still here")
		stream.Close()
		if got, err := readAll(conn); got != "still here" || err != nil {
			f.Errorf("a visitor in flight read %q, %v", got, err)
		}
		older.conn.Close()
		synctest.Wait()
		f.mustVisit("blog", newer)

		f.authority.give("blog", "bob") // by the operator
		heir := f.join("bob-1", 1)
		heir.bind(1, "blog")
		if m, ok := newer.read().(*wire.Unbound); !ok || m.Code != wire.NameTaken {
			f.Errorf("the owner before was told %+v", m)
		}
	})
}

// TestRevoked: with the token goes the session, and with it every stream, in
// less than two seconds, whoever notices first.
func TestRevoked(t *testing.T) {
	for why, tt := range map[string]struct {
		notice func(f *fixture)
		most   time.Duration
	}{
		"by word":         {func(f *fixture) { f.DropToken("ann-1") }, 0},
		"by itself":       {func(f *fixture) {}, checkTime},
		"by a visitor":    {func(f *fixture) { f.visit("blog") }, 0},
		"by another bind": {func(f *fixture) {}, 0},
	} {
		bubble(t, func(f *fixture) {
			p := f.join("ann-1", 1)
			p.bind(1, "blog")
			other := f.join("ann-2", 2)
			other.bind(1, "wiki")
			conn, _ := f.mustVisit("blog", p)

			start := time.Now()
			f.authority.revoke("ann-1")
			tt.notice(f)
			if why == "by another bind" {
				p.say(&wire.Bind{Request: 2, Name: "next"})
			}
			if got, err := readAll(conn); err == nil {
				f.Errorf("%s: a visitor read %q and a clean end", why, got)
			}
			if took := time.Since(start); took > tt.most {
				f.Errorf("%s: bytes flowed for %v, want %v at most", why, took, tt.most)
			}
			p.wantRefused(why, 0, wire.Revoked)
			p.wantGone(why, time.Second)
			f.wantNobody(why, "blog")
			f.mustVisit("wiki", other)
			f.hello(&wire.Hello{Version: 1, Agent: [16]byte{1}, Token: "ann-1"}).wantRefused("coming back", 0, wire.Unauthorized)
		})
	}
}

// TestKick: the operator ends a session. Its agent may come back.
func TestKick(t *testing.T) {
	bubble(t, func(f *fixture) {
		p := f.join("ann-1", 1)
		p.bind(1, "blog")
		if f.Kick("nobody") || !f.Kick(f.Sessions()[0].ID) {
			f.Error("Kick found the wrong session")
		}
		if m := p.wantRefused("kicked", 0, wire.ShuttingDown); m.Code.Final() {
			f.Error("for good")
		}
		p.wantGone("kicked", time.Second)
		f.join("ann-1", 1)
	})
}

// TestDeafAgent: an agent that does not read what it is told is hung up on, and
// holds up nobody.
func TestDeafAgent(t *testing.T) {
	bubble(t, func(f *fixture) {
		p := f.join("ann-1", 1)
		p.raw.Silence()
		for i := range uint32(1000) {
			wire.Write(p.control, &wire.Bind{Request: i + 1, Name: "a..b"})
		}
		time.Sleep(time.Minute)
		if n := len(f.Sessions()); n != 0 {
			f.Errorf("%d sessions are left", n)
		}
		p.conn.Close()
	})
}

// TestPanic: a bug that one agent finds ends that agent's session.
func TestPanic(t *testing.T) {
	bubble(t, func(f *fixture) {
		good := f.join("bob-1", 1)
		good.bind(1, "bobs")
		f.Server.Auth = panicking{f.authority}
		p := f.join("ann-1", 1)
		p.say(&wire.Bind{Request: 1, Name: "blog"})
		p.wantGone("a panic", 2*time.Second)
		f.mustVisit("bobs", good)
	})
}

type panicking struct{ *authority }

func (panicking) Claim(context.Context, auth.Grant, string) (string, error) { panic("out of cheese") }
