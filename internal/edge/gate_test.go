package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// agents is an AgentServer that hands every conn to the test.
type agents chan agentStay

type agentStay struct {
	ctx  context.Context
	conn net.Conn
	done chan struct{} // closed by the test when the agent may go
}

func (a agents) ServeAgent(ctx context.Context, c net.Conn) {
	defer c.Close()
	s := agentStay{ctx, c, make(chan struct{})}
	a <- s
	select {
	case <-s.done:
	case <-ctx.Done():
	}
}

// TestStrangersAreHungUpOn: garbage, silence, half handshakes and bytes that
// drip cost a place among the handshakes for ten seconds at most, and nobody
// else anything.
func TestStrangersAreHungUpOn(t *testing.T) {
	half := firstFlight(t)
	drip := func(b []byte) func(net.Conn) {
		return func(c net.Conn) {
			for i := range b {
				if _, err := c.Write(b[i : i+1]); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}
	}
	for name, test := range map[string]struct {
		behave func(net.Conn)
		after  time.Duration
	}{
		"silent":            {func(net.Conn) {}, 10 * time.Second},
		"half a hello":      {func(c net.Conn) { c.Write(half[:len(half)/2]) }, 10 * time.Second},
		"hello and no more": {func(c net.Conn) { c.Write(half) }, 10 * time.Second},
		"drips a hello":     {drip(half), 10 * time.Second},
		"drips records":     {drip([]byte(strings.Repeat("\x16\x03\x01\x00\x01\x01", 100))), 10 * time.Second},
		"speaks SSH":        {func(c net.Conn) { io.WriteString(c, "SSH-2.0-OpenSSH_9.9\r\n") }, 0},
		"garbage":           {func(c net.Conn) { io.WriteString(c, strings.Repeat("\xff", 1000)) }, 0},
		"record too long":   {func(c net.Conn) { io.WriteString(c, "\x16\x03\x01\xff\xff\x01") }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {}))
				c, err := w.step.dial("192.0.2.66:6666")
				if err != nil {
					t.Fatal(err)
				}
				var wg sync.WaitGroup
				wg.Go(func() { test.behave(c) })
				start := time.Now()
				if res, _ := get(t, w.visitor(false), "https://"+blog); res.StatusCode != 200 || time.Since(start) > 0 {
					t.Errorf("meanwhile a visitor got %d after %v", res.StatusCode, time.Since(start))
				}
				io.Copy(io.Discard, c)
				if got := time.Since(start); got != test.after {
					t.Errorf("hung up after %v; want %v", got, test.after)
				}
				c.Close()
				wg.Wait()
			})
		})
	}
}

// firstFlight is what a visitor says first.
func firstFlight(t *testing.T) []byte {
	ours, theirs := net.Pipe()
	defer ours.Close()
	go tls.Client(theirs, &tls.Config{ServerName: blog}).Handshake()
	b := make([]byte, 16<<10)
	n, err := ours.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// TestSlowHeads: a handshake buys no more than the time for a head.
func TestSlowHeads(t *testing.T) {
	for name, said := range map[string]string{
		"nothing": "", "half a line": "GET / HT", "half a head": "GET / HTTP/1.1\r\nHost: " + blog + "\r\nX: ",
	} {
		for _, plain := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, plain %v", name, plain), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, func(e *Edge) {
						if plain {
							e.GetCertificate = nil
						}
					})
					v := w.raw(blog)
					start := time.Now()
					io.WriteString(v, said)
					io.Copy(io.Discard, v)
					if got := time.Since(start); got < 9*time.Second || got > 11*time.Second {
						t.Errorf("hung up after %v; want about 10 s", got)
					}
				})
			})
		}
	}
}

// TestHandshakesAreBounded: the one who has most of them loses his oldest.
func TestHandshakesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(e *Edge) { e.MaxHandshakes = 8 })
		w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {}))
		dial := func(from string) net.Conn {
			c, err := w.step.dial(from)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			synctest.Wait()
			return c
		}
		gone := func(c net.Conn) bool {
			c.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, err := c.Read(make([]byte, 1))
			return err == io.EOF
		}
		slow := dial("198.51.100.1:1") // an honest visitor on a slow line
		var flood []net.Conn
		for i := range 30 {
			flood = append(flood, dial(fmt.Sprintf("[2001:db8::%x]:%d", i+1, i+1))) // one /64
		}
		if gone(slow) {
			t.Error("the flood of another took the place of a slow visitor")
		}
		for i, c := range flood {
			if want := i < len(flood)-7; gone(c) != want {
				t.Errorf("connection %d of the flood: gone %v; want %v", i, !want, want)
			}
		}
		if res, _ := get(t, w.visitor(false), "https://"+blog); res.StatusCode != 200 {
			t.Errorf("visitor got %d in the flood", res.StatusCode)
		}
	})
}

// TestVisitorsAreBounded: when there is one more than there is room for, it is
// somebody with many connections who loses one, and the oldest.
func TestVisitorsAreBounded(t *testing.T) {
	w := newWorld(t, func(e *Edge) { e.MaxVisitors = 3 })
	w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {}))
	ask := func(v *rawVisitor) {
		t.Helper()
		v.send("GET / HTTP/1.1\nHost: %s\n\n", blog)
		if res := v.answer("GET"); res.StatusCode != 200 {
			t.Fatalf("got %d", res.StatusCode)
		}
	}
	come := func(from string) *rawVisitor {
		w.from = from
		v := w.raw(blog)
		ask(v)
		return v
	}
	modest := come("192.0.2.1:1")
	first, second := come("192.0.2.2:1"), come("192.0.2.2:2")
	third := come("192.0.2.2:3")
	if _, err := first.Read(make([]byte, 1)); err == nil {
		t.Error("the oldest of the one with most stayed")
	}
	for _, v := range []*rawVisitor{modest, second, third} {
		ask(v)
	}
}

func TestALPN(t *testing.T) {
	stays := make(agents, 1)
	w := newWorld(t, func(e *Edge) { e.Agents = stays })
	bare := newWorld(t, nil)
	for name, test := range map[string]struct {
		world  *world
		offers []string
		max    uint16
		host   string
		want   string // what was agreed on, or in the error
		agent  bool
	}{
		"none":                  {w, nil, 0, blog, "", false},
		"h1":                    {w, []string{"http/1.1"}, 0, blog, "http/1.1", false},
		"h2":                    {w, []string{"h2", "http/1.1"}, 0, blog, "h2", false},
		"h2 last":               {w, []string{"http/1.1", "h2"}, 0, blog, "h2", false},
		"TLS 1.2":               {w, []string{"h2"}, tls.VersionTLS12, blog, "h2", false},
		"TLS 1.1":               {w, []string{"h2"}, tls.VersionTLS11, blog, "protocol version", false},
		"unknown":               {w, []string{"spdy/3"}, 0, blog, "no application protocol", false},
		"agent":                 {w, []string{"culvert/1"}, 0, domain, "culvert/1", true},
		"agent of other name":   {w, []string{"culvert/1"}, 0, blog, "culvert/1", true},
		"agent and h2":          {w, []string{"h2", "culvert/1"}, 0, domain, "culvert/1", true},
		"agent with TLS 1.2":    {w, []string{"culvert/1"}, tls.VersionTLS12, domain, "protocol version", false},
		"agent where none are":  {bare, []string{"culvert/1"}, 0, domain, "no application protocol", false},
		"name of somebody else": {w, []string{"h2"}, 0, "example.org", "unrecognized name", false},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := test.world.step.dial("192.0.2.9:99")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			tc := tls.Client(c, &tls.Config{
				RootCAs: test.world.roots, ServerName: test.host, NextProtos: test.offers,
				MinVersion: tls.VersionTLS10, MaxVersion: test.max,
			})
			err = tc.Handshake()
			got := tc.ConnectionState().NegotiatedProtocol
			if err != nil {
				if got = err.Error(); test.want == "" || !strings.Contains(got, test.want) {
					t.Errorf("got %v want %q", err, test.want)
				}
			} else if got != test.want {
				t.Errorf("got %q want %q", got, test.want)
			}
			if test.agent && err == nil {
				s := within(t, "agent", stays)
				if s.conn.RemoteAddr().String() != "192.0.2.9:99" {
					t.Errorf("agent comes from %v", s.conn.RemoteAddr())
				}
				go io.WriteString(tc, "hello")
				hello := make([]byte, 5)
				if _, err := io.ReadFull(s.conn, hello); err != nil || string(hello) != "hello" {
					t.Errorf("node read %q, %v", hello, err)
				}
				close(s.done)
			}
		})
	}
}

// TestAgentHasNoDeadline: an agent stays longer than a handshake may take.
func TestAgentHasNoDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stays := make(agents, 1)
		w := newWorld(t, func(e *Edge) { e.Agents = stays })
		c, err := w.step.dial(w.from)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		tc := tls.Client(c, &tls.Config{RootCAs: w.roots, ServerName: domain, NextProtos: []string{"culvert/1"}})
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		s := <-stays
		go func() {
			time.Sleep(time.Hour)
			io.WriteString(tc, "still here")
		}()
		b := make([]byte, 10)
		if _, err := io.ReadFull(s.conn, b); err != nil {
			t.Errorf("after an hour: %v", err)
		}
	})
}

// TestHelloInPieces: a ClientHello may come in any number of segments.
func TestHelloInPieces(t *testing.T) {
	w := newWorld(t, nil)
	w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {}))
	c, err := w.step.dial(w.from)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tc := tls.Client(bytewise{c}, &tls.Config{RootCAs: w.roots, ServerName: blog})
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(tc, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", blog)
	if b, _ := io.ReadAll(tc); !strings.HasPrefix(string(b), "HTTP/1.1 200 OK") {
		t.Errorf("got %q", b)
	}
}

type bytewise struct{ net.Conn }

func (c bytewise) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func TestHTTPWhereHTTPSIsSpoken(t *testing.T) {
	w := newWorld(t, nil)
	c, err := w.step.dial(w.from)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET /<script> HTTP/1.1\r\nHost: <script>\r\n\r\n")
	b, _ := io.ReadAll(c)
	if got := string(b); !strings.HasPrefix(got, "HTTP/1.0 400 ") || !strings.Contains(got, "https://") || strings.Contains(got, "script") {
		t.Errorf("got %q", got)
	}
}

// TestAccept: what passes is waited for; what does not ends Serve, and with it
// everything else.
func TestAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stays := make(agents, 1)
		step := newDoorstep()
		w := newWorld(t, func(e *Edge) { e.Agents = stays })
		e := &Edge{Domain: domain, GetCertificate: w.edge.GetCertificate, Visitors: w.routes, Agents: stays}
		served := make(chan error, 1)
		go func() { served <- e.Serve(t.Context(), step) }()

		start := time.Now()
		for range 12 {
			step.errs <- &net.OpError{Op: "accept", Err: syscall.EMFILE}
		}
		if waited := time.Since(start); waited < 2*time.Second || waited > 6*time.Second {
			t.Errorf("12 failures took %v; want pauses that grow to 1 s", waited)
		}
		c, err := step.dial("192.0.2.1:1")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		tc := tls.Client(c, &tls.Config{RootCAs: w.roots, ServerName: domain, NextProtos: []string{"culvert/1"}})
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		s := <-stays

		broken := errors.New("the socket is gone")
		step.errs <- broken
		if err := <-served; !errors.Is(err, broken) {
			t.Errorf("got %v want %v", err, broken)
		}
		if s.ctx.Err() == nil {
			t.Error("Serve has returned and an agent lives on")
		}
	})
}

func TestServeNeedsItsParts(t *testing.T) {
	for name, e := range map[string]*Edge{
		"no domain":   {Visitors: &mover{}},
		"bad domain":  {Domain: "a..b", Visitors: &mover{}},
		"no visitors": {Domain: domain},
	} {
		step := newDoorstep()
		if err := e.Serve(t.Context(), step); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := step.Accept(); err == nil {
			t.Errorf("%s: the listener was left open", name)
		}
	}
}

// TestPanicsAreContained: a bug costs one connection.
func TestPanicsAreContained(t *testing.T) {
	var calls atomic.Int32
	w := newWorld(t, nil)
	get := w.edge.GetCertificate
	step := newDoorstep()
	e := &Edge{Domain: domain, Visitors: w.routes, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if calls.Add(1) == 1 {
			panic("BUG: of a test")
		}
		return get(h)
	}}
	served := make(chan error, 1)
	go func() { served <- e.Serve(context.Background(), step) }()
	for i := range 2 {
		c, err := step.dial(w.from)
		if err != nil {
			t.Fatal(err)
		}
		err = tls.Client(c, &tls.Config{RootCAs: w.roots, ServerName: blog}).Handshake()
		if (err == nil) != (i == 1) {
			t.Errorf("handshake %d: got %v", i, err)
		}
		c.Close()
	}
	e.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
