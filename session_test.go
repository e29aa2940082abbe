package culvert

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/culvertd/culvert/internal/wire"
)

// TestTranscript is a whole session, word by word.
func TestTranscript(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		defer n.ln.Close()
		a := n.agent()
		a.Software = "test/1"
		defer a.Close()
		listen := listening(t.Context(), a, Tunnel{Name: "blog", HostHeader: "localhost", Proto: HTTP2, ServiceTimeout: time.Hour, Silence: -1})

		p := n.next()
		hello, ok := p.read().(*wire.Hello)
		if !ok || hello.Version != 1 || hello.Token != "cvt_test" || hello.Agent == [16]byte{} || hello.Software != "test/1" {
			t.Fatalf("got %+v, want a hello", hello)
		}
		p.wantQuiet("nothing before a welcome", time.Second)
		p.say(&wire.Welcome{Version: 1, Session: [16]byte{0xab}, Domain: "node.test"})
		p.want("the tunnel is asked for", &wire.Bind{
			Request: 1, Name: "blog", HostHeader: "localhost", HTTP: wire.HTTP2, ServiceTimeout: 3_600_000, Silence: wire.Forever,
		})
		p.bound(1, "blog")
		ln, err := listen.wait()
		if err != nil {
			t.Fatal(err)
		}
		if ln.URL() != "https://blog.node.test" || ln.Name() != "blog" || ln.Addr().String() != ln.URL() {
			t.Errorf("got %q, %q, %q", ln.URL(), ln.Name(), ln.Addr())
		}

		visitor := netip.MustParseAddrPort("192.0.2.7:1234")
		stream := p.visit(head(wire.Visit{Request: 1, ID: "v1", Remote: visitor}) + "GET /")
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if conn.RemoteAddr().String() != visitor.String() || conn.(*Conn).VisitID() != "v1" {
			t.Errorf("the visitor is %v, %q", conn.RemoteAddr(), conn.(*Conn).VisitID())
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != "GET /" {
			t.Errorf("read %q, %v", got, err)
		}
		io.WriteString(conn, "200")
		conn.Close()
		if answer, err := io.ReadAll(stream); err != nil || string(answer) != "200" {
			t.Errorf("the visitor got %q, %v", answer, err)
		}
		stream.Close()

		second := listening(t.Context(), a, Tunnel{})
		p.want("a second tunnel in the same session", &wire.Bind{Request: 2})
		p.bound(2, "brave-otter")
		if ln2, err := second.wait(); err != nil || ln2.Name() != "brave-otter" {
			t.Fatalf("got %v, want the random name", err)
		}

		ln.Close()
		p.want("a closed listener gives its tunnel up", &wire.Unbind{Request: 1})
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept after Close: %v", err)
		}
		wantReset(t, "a stream that crossed the unbind", p.visit(head(wire.Visit{Request: 1})), wire.NoTunnel)
		a.Close()
		p.wantGone("Close ends the session", time.Second)
		if _, err := a.Listen(t.Context(), Tunnel{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Listen after Close: %v", err)
		}
	})
}

// TestNamesAreKept: an agent that comes back asks for the names that it had,
// also for those that it had not chosen.
func TestNamesAreKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		defer n.ln.Close()
		a := n.agent()
		defer a.Close()

		listen := listening(t.Context(), a, Tunnel{})
		p := n.welcome()
		p.want("any name will do", &wire.Bind{Request: 1})
		p.bound(1, "brave-otter")
		ln, err := listen.wait()
		if err != nil {
			t.Fatal(err)
		}
		accept := async(ln.Accept)

		p.raw.Break() // the network goes away
		p = n.welcome()
		p.want("from now on it is this one", &wire.Bind{Request: 1, Name: "brave-otter"})
		p.bound(1, "brave-otter")
		p.visit(head(wire.Visit{Request: 1}))
		if _, err := accept.wait(); err != nil {
			t.Errorf("Accept did not live through it: %v", err)
		}
	})
}

// TestRefusals: what a node says no to for good, and how a program sees it.
func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		code wire.Code
		want error
	}{
		{wire.NameTaken, ErrNameTaken},
		{wire.NameInvalid, ErrNameInvalid},
		{wire.NameNotAllowed, ErrNameNotAllowed},
		{wire.TooManyTunnels, ErrTooManyTunnels},
		{wire.OptionInvalid, ErrOptionInvalid},
		{wire.NameHeld, ErrNameHeld},
	} {
		bubble(t, func(t *testing.T) {
			n := newNode(t)
			defer n.ln.Close()
			a := n.agent()
			defer a.Close()
			listen := listening(t.Context(), a, Tunnel{Name: "blog"})
			p := n.welcome()
			p.want("", &wire.Bind{Request: 1, Name: "blog"})
			p.say(&wire.Refused{Request: 1, Code: tt.code, Reason: "because"})

			_, err := listen.wait()
			e, ok := errors.AsType[*RefusedError](err)
			if !ok || !errors.Is(err, tt.want) || e.Code != tt.code.String() || !e.Final || e.Name != "blog" {
				t.Errorf("%v: got %#v", tt.code, err)
			}
			p.wantQuiet("the agent does not ask again", time.Hour)

			again := listening(t.Context(), a, Tunnel{Name: "wiki"})
			p.want("the session lives on", &wire.Bind{Request: 2, Name: "wiki"})
			p.bound(2, "wiki")
			if _, err := again.wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTakeover: the node is told the policy, each time; and an agent that fights
// with another asks again when it is told to, and says so.
func TestTakeover(t *testing.T) {
	for policy, want := range map[Takeover]wire.Takeover{
		TakeoverReplace: wire.TakeoverReplace, TakeoverRefuse: wire.TakeoverRefuse, TakeoverPool: wire.TakeoverPool,
	} {
		bubble(t, func(t *testing.T) {
			n := newNode(t)
			defer n.ln.Close()
			a := n.agent()
			events := make(chan Event, 16)
			a.OnEvent = func(e Event) {
				if e.Kind == EventRefused {
					events <- e
				}
			}
			defer a.Close()
			listen := listening(t.Context(), a, Tunnel{Name: "blog", Takeover: policy})
			p := n.welcome()
			p.want("", &wire.Bind{Request: 1, Name: "blog", Takeover: want})
			start := time.Now()
			p.say(&wire.Refused{Request: 1, Code: wire.NameInUse, Reason: "because", RetryAfter: 7000})
			p.want("the agent asks again", &wire.Bind{Request: 2, Name: "blog", Takeover: want})
			if waited := time.Since(start); waited < 7*time.Second || waited > 15*time.Second {
				t.Errorf("it asked again after %v; want 7s or a little more", waited)
			}
			if e := <-events; !errors.Is(e.Err, ErrNameInUse) || e.Name != "blog" || e.Retry < 7*time.Second {
				t.Errorf("the event was %+v", e)
			}
			p.bound(2, "blog")
			if _, err := listen.wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSessionRefused: a token that is not good is told at once, and the node is
// not asked again.
func TestSessionRefused(t *testing.T) {
	for code, want := range map[wire.Code]error{
		wire.Unauthorized:       ErrUnauthorized,
		wire.VersionUnsupported: ErrVersion,
	} {
		bubble(t, func(t *testing.T) {
			n := newNode(t)
			defer n.ln.Close()
			a := n.agent()
			defer a.Close()
			listen := listening(t.Context(), a, Tunnel{Name: "blog"})
			p := n.next()
			p.read()
			p.say(&wire.Refused{Code: code})
			if _, err := listen.wait(); !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
			p.wantGone("it leaves", time.Second)
			time.Sleep(time.Hour)
			if len(n.dialled()) != 1 {
				t.Errorf("it dialled %d times", len(n.dialled()))
			}
			if _, err := a.Listen(t.Context(), Tunnel{}); !errors.Is(err, want) {
				t.Errorf("Listen on a spent agent: %v, want %v", err, want)
			}
			if err := a.Connect(t.Context()); !errors.Is(err, want) {
				t.Errorf("Connect on a spent agent: %v, want %v", err, want)
			}
		})
	}
}

// TestConfig: what cannot be meant is told before anything is dialled.
func TestConfig(t *testing.T) {
	good := func() *Agent { return &Agent{Server: "node.test", Token: "cvt_test"} }
	for _, tt := range []struct {
		field  string
		agent  *Agent
		tunnel Tunnel
	}{
		{"server", &Agent{Token: "cvt_test"}, Tunnel{}},
		{"token", &Agent{Server: "node.test"}, Tunnel{}},
		{"host header", good(), Tunnel{HostHeader: "a\r\nX: y"}},
		{"host header", good(), Tunnel{HostHeader: ":3000"}},
		{"host header", good(), Tunnel{HostHeader: strings.Repeat("a", 256)}},
		{"proto", good(), Tunnel{Proto: 3}},
		{"service timeout", good(), Tunnel{ServiceTimeout: 24*time.Hour + 1}},
		{"silence", good(), Tunnel{Silence: 1<<63 - 1}},
		{"takeover", good(), Tunnel{Takeover: -1}},
		{"takeover", good(), Tunnel{Takeover: 3}},
	} {
		tt.agent.Dial = func(context.Context, string, string) (net.Conn, error) {
			t.Error("it dialled")
			return nil, net.ErrClosed
		}
		_, err := tt.agent.Listen(t.Context(), tt.tunnel)
		if e, ok := errors.AsType[*ConfigError](err); !ok || e.Field != tt.field {
			t.Errorf("%s: %v", tt.field, err)
		}
		tt.agent.Close()
	}
}

// TestLosingAName: what was given can be taken away, for good or for a while.
func TestLosingAName(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t)
		defer n.ln.Close()
		a := n.agent()
		var d diary
		a.OnEvent = d.note
		defer a.Close()
		listen := listening(t.Context(), a, Tunnel{Name: "blog"})
		p := n.welcome()
		p.want("", &wire.Bind{Request: 1, Name: "blog"})
		p.bound(1, "blog")
		ln, err := listen.wait()
		if err != nil {
			t.Fatal(err)
		}

		p.say(&wire.Unbound{Request: 1, Code: wire.Internal})
		p.want("a node in trouble is asked again", &wire.Bind{Request: 2, Name: "blog"})
		start := time.Now()
		p.say(&wire.Refused{Request: 2, Code: wire.Internal, RetryAfter: 3000})
		p.want("but not sooner than it wishes", &wire.Bind{Request: 3, Name: "blog"})
		if waited := time.Since(start); waited < 3*time.Second || waited > 4*time.Second {
			t.Errorf("it asked again after %v, want 3 s and some jitter", waited)
		}
		p.bound(3, "blog")
		p.say(&wire.Unbound{Request: 3, Code: wire.Replaced})
		if _, err := ln.Accept(); !errors.Is(err, ErrReplaced) {
			t.Errorf("Accept: %v, want ErrReplaced", err)
		}
		p.wantQuiet("two agents do not fight over a name", time.Hour)
		if len(d.of(EventEnded)) != 1 || len(d.of(EventRefused)) != 2 || len(d.of(EventReady)) != 2 {
			t.Errorf("events were %v", d.kinds())
		}
	})
}

// TestHostileNode: what a node may not do, and what it costs.
func TestHostileNode(t *testing.T) {
	for name, m := range map[string]wire.Message{
		"another name":       &wire.Bound{Request: 1, Name: "phish", URL: "https://phish.node.test"},
		"no name":            &wire.Bound{Request: 1, URL: "https://blog.node.test"},
		"a script for a URL": &wire.Bound{Request: 1, Name: "blog", URL: "javascript:alert(1)"},
		"a URL with a user":  &wire.Bound{Request: 1, Name: "blog", URL: "https://bank.test@node.test"},
		"the agent's words":  &wire.Hello{Version: 1},
	} {
		bubble(t, func(t *testing.T) {
			n := newNode(t)
			defer n.ln.Close()
			a := n.agent()
			defer a.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			listen := listening(ctx, a, Tunnel{Name: "blog"})
			p := n.welcome()
			p.read()
			p.say(m)
			p.wantGone(name, time.Second)
			if _, err := listen.wait(); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: Listen returned %v", name, err)
			}
		})
	}
}

// TestHostileStreams: streams that say nothing, or nonsense, or that nobody has
// time for, are reset; the session does not suffer.
func TestHostileStreams(t *testing.T) {
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

		wantReset(t, "no such request", p.visit(head(wire.Visit{Request: 99})), wire.NoTunnel)
		wantReset(t, "not a visit", p.visit(string(wire.Append(nil, &wire.Bind{Request: 1}))), wire.NoTunnel)
		wantReset(t, "not our protocol", p.visit("GET / HTTP/1.1\r\n\r\n"), wire.NoTunnel)
		start := time.Now()
		wantReset(t, "silence", p.visit(""), wire.NoTunnel)
		if waited := time.Since(start); waited != messageTime {
			t.Errorf("silence was borne for %v, want %v", waited, messageTime)
		}
		start = time.Now()
		wantReset(t, "nobody accepts", p.visit(head(wire.Visit{Request: 1})), wire.ServiceTimeout)
		if waited := time.Since(start); waited != offerTime {
			t.Errorf("the visitor waited for %v, want %v", waited, offerTime)
		}

		stream := p.visit(head(wire.Visit{Request: 1}) + "hello")
		if _, err := ln.Accept(); err != nil {
			t.Errorf("after all that: %v", err)
		}
		stream.Close()
	})
}

// TestBrokenIsNotEnded: when the connection goes, a visitor's bytes end with an
// error, and never as if they were complete.
func TestBrokenIsNotEnded(t *testing.T) {
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
		p.visit(head(wire.Visit{Request: 1}) + "half")
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		p.raw.Break()
		if got, err := io.ReadAll(conn); err == nil {
			t.Errorf("read %q and a clean end", got)
		}
	})
}
