package session

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/culvertd/culvert"
	"github.com/culvertd/culvert/internal/memnet"
	"github.com/culvertd/culvert/internal/wire"
)

// A site is a node as the agents of this file meet it: TLS at node.test:443,
// with a server behind it that can be replaced.
type site struct {
	*fixture
	net   memnet.Net
	roots *x509.CertPool
	cert  tls.Certificate
	ln    *memnet.Listener

	cut    chan struct{}  // open while the path is silent, for new connections too; nil if it never was
	wg     sync.WaitGroup // what up has started
	echoes sync.WaitGroup // ends with the agents

	mu    sync.Mutex // guards conns
	conns []*memnet.Conn
}

func newSite(f *fixture) *site {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"node.test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		f.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		f.Fatal(err)
	}
	s := &site{fixture: f, roots: x509.NewCertPool(), cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
	s.roots.AddCert(leaf)
	s.up()
	return s
}

// up begins to listen, and down ends it, and the sessions with it.
func (s *site) up() {
	ln, err := s.net.Listen("node.test:443")
	if err != nil {
		s.Fatal(err)
	}
	s.ln = ln
	server := s.Server
	s.wg.Go(func() {
		for {
			raw, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, raw.(*memnet.Conn))
			s.mu.Unlock()
			s.wg.Go(func() {
				conn := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{s.cert}, NextProtos: []string{wire.ALPN}})
				if conn.Handshake() != nil {
					raw.Close()
					return
				}
				server.ServeAgent(context.Background(), conn)
			})
		}
	})
}

func (s *site) down() {
	s.ln.Close()
	s.Server.Close()
	s.wg.Wait()
}

// restart is a new process: nothing is left but what is stored.
func (s *site) restart() {
	s.down()
	s.Server = &Server{Auth: s.authority, Router: s.router, Domain: "node.test"}
	s.up()
}

// lose breaks every connection there is.
func (s *site) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Break()
	}
	s.conns = nil
}

// silence makes the path swallow everything for d: what there is for good, as
// nobody can know whether it comes back, and new connections until then.
func (s *site) silence(d time.Duration) {
	s.mu.Lock()
	for _, c := range s.conns {
		c.Silence()
	}
	s.conns, s.cut = nil, make(chan struct{})
	cut := s.cut
	s.mu.Unlock()
	time.AfterFunc(d, func() { close(cut) })
}

func (s *site) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	s.mu.Lock()
	cut := s.cut
	s.mu.Unlock()
	if cut != nil {
		select {
		case <-cut:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return s.net.Dial(ctx, network, addr)
}

func (s *site) agent(token string) *culvert.Agent {
	return &culvert.Agent{Server: "node.test", Token: token, RootCAs: s.roots, Dial: s.dial}
}

// echo serves ln until it ends.
func (s *site) echo(ln net.Listener) {
	s.echoes.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.echoes.Go(func() {
				io.Copy(c, c)
				c.Close()
			})
		}
	})
}

// ask sends text to label and wants it back.
func (s *site) ask(label, text string) error {
	conn, err := s.visit(label)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	conn.(interface{ CloseWrite() error }).CloseWrite()
	got, err := io.ReadAll(conn)
	if err == nil && string(got) != text {
		err = fmt.Errorf("asked %q, and got %q", text, got)
	}
	return err
}

// asks tries for a minute.
func (s *site) asks(label string) {
	s.Helper()
	var err error
	for range 600 {
		if err = s.ask(label, "are you there"); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.Errorf("%s did not come back: %v", label, err)
}

func live(t *testing.T, test func(s *site)) {
	t.Helper()
	bubble(t, func(f *fixture) {
		s := newSite(f)
		test(s)
		s.down()
		s.echoes.Wait()
	})
}

// TestAgent: both real ends, through a network that fails and a node that is
// restarted; the names stay, the random one too.
func TestAgent(t *testing.T) {
	live(t, func(s *site) {
		a := s.agent("ann-1")
		defer a.Close()
		for _, label := range []string{"blog", ""} {
			ln, err := a.Listen(s.Context(), culvert.Tunnel{Name: label})
			if err != nil {
				s.Fatal(err)
			}
			s.echo(ln)
		}
		check := func(when string) {
			s.Helper()
			s.asks("blog")
			s.asks("random1")
			if n := len(s.Sessions()); n != 1 {
				s.Errorf("%s: %d sessions", when, n)
			}
		}
		check("at first")
		s.lose()
		check("after the network broke")
		s.restart()
		check("after the node was restarted")
		s.mu.Lock()
		s.conns[0].Silence()
		s.mu.Unlock()
		time.Sleep(time.Minute)
		check("after silence")
	})
}

// TestManyVisitors: at once, over one connection, each with its own bytes.
func TestManyVisitors(t *testing.T) {
	live(t, func(s *site) {
		a := s.agent("ann-1")
		defer a.Close()
		ln, err := a.Listen(s.Context(), culvert.Tunnel{Name: "blog"})
		if err != nil {
			s.Fatal(err)
		}
		s.echo(ln)
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				text := bytes.Repeat(fmt.Appendf(nil, "%d ", i), 1000)
				if err := s.ask("blog", string(text)); err != nil {
					s.Errorf("visitor %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if len(s.conns) != 1 {
			s.Errorf("%d connections", len(s.conns))
		}
	})
}

// TestTwoAgents: of one owner, and of two, after the same name.
func TestTwoAgents(t *testing.T) {
	live(t, func(s *site) {
		older, newer, other := s.agent("ann-1"), s.agent("ann-2"), s.agent("bob-1")
		defer older.Close()
		defer newer.Close()
		defer other.Close()
		first, err := older.Listen(s.Context(), culvert.Tunnel{Name: "blog"})
		if err != nil {
			s.Fatal(err)
		}
		if _, err := other.Listen(s.Context(), culvert.Tunnel{Name: "Blog"}); !errors.Is(err, culvert.ErrNameTaken) {
			s.Errorf("another owner: %v", err)
		}
		second, err := newer.Listen(s.Context(), culvert.Tunnel{Name: "BLOG"})
		if err != nil {
			s.Fatal(err)
		}
		if second.Name() != "blog" {
			s.Errorf("the name is %q", second.Name())
		}
		s.echo(second)
		if _, err := first.Accept(); !errors.Is(err, culvert.ErrReplaced) {
			s.Errorf("the older agent: %v", err)
		}
		s.asks("blog")
	})
}

// TestAgentRevoked: it is told, and does not come again.
func TestAgentRevoked(t *testing.T) {
	live(t, func(s *site) {
		a := s.agent("ann-1")
		defer a.Close()
		ln, err := a.Listen(s.Context(), culvert.Tunnel{Name: "blog"})
		if err != nil {
			s.Fatal(err)
		}
		s.authority.revoke("ann-1")
		if _, err := ln.Accept(); !errors.Is(err, culvert.ErrRevoked) {
			s.Errorf("Accept: %v", err)
		}
		time.Sleep(time.Hour)
		if len(s.conns) != 1 {
			s.Errorf("it dialled %d times", len(s.conns))
		}
	})
}

// TestAgentDrained: visitors in flight finish, and the agent is back when the
// next process listens.
func TestAgentDrained(t *testing.T) {
	live(t, func(s *site) {
		a := s.agent("ann-1")
		defer a.Close()
		ln, err := a.Listen(s.Context(), culvert.Tunnel{Name: "blog"})
		if err != nil {
			s.Fatal(err)
		}
		s.echo(ln)
		conn, err := s.visit("blog")
		if err != nil {
			s.Fatal(err)
		}
		s.ln.Close()
		done := make(chan error)
		ctx, cancel := context.WithTimeout(s.Context(), 30*time.Second)
		defer cancel()
		go func() { done <- s.Shutdown(ctx) }()
		time.Sleep(10 * time.Second)
		text := "still here"
		io.WriteString(conn, text)
		got := make([]byte, len(text))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
			s.Errorf("a visitor in flight got %q, %v", got, err)
		}
		conn.Close()
		if err := <-done; err != nil {
			s.Errorf("Shutdown: %v", err)
		}
		s.restart()
		s.asks("blog")
	})
}

// TestFaults: while much is under way in both directions, the path breaks in
// every way that it can. All bytes arrive, once, and neither side sees an error;
// both have noticed within five seconds.
func TestFaults(t *testing.T) {
	const size = 6 << 20 // takes six seconds, without faults
	for name, fault := range map[string]func(s *site){
		"silent for 8 s": func(s *site) { s.silence(8 * time.Second) },
		"reset":          func(s *site) { s.lose() },
		"reset, and away for 20 s": func(s *site) {
			s.silence(20 * time.Second)
			s.lose()
		},
		"reset again and again": func(s *site) {
			for range 10 {
				s.lose()
				time.Sleep(700 * time.Millisecond)
			}
		},
	} {
		live(t, func(s *site) {
			s.net.Link = memnet.Link{Delay: 20 * time.Millisecond, Rate: 1 << 20}
			a := s.agent("ann-1")
			defer a.Close()
			var mu sync.Mutex // guards noticed
			var noticed time.Time
			a.OnEvent = func(e culvert.Event) {
				mu.Lock()
				defer mu.Unlock()
				switch {
				case e.Kind == culvert.EventResuming && noticed.IsZero():
					noticed = time.Now()
				case e.Kind == culvert.EventDisconnected:
					s.Errorf("%s: the session was lost: %v", name, e.Err)
				}
			}
			ln, err := a.Listen(s.Context(), culvert.Tunnel{Name: "blog"})
			if err != nil {
				s.Fatal(err)
			}
			down, up := make([]byte, size), make([]byte, size)
			rand.Read(down)
			rand.Read(up)
			var wg sync.WaitGroup
			wg.Go(func() {
				c, err := ln.Accept()
				if err != nil {
					s.Error(err)
					return
				}
				defer c.Close()
				wg.Go(func() {
					if _, err := c.Write(down); err != nil {
						s.Errorf("%s: the service wrote: %v", name, err)
					}
					c.(interface{ CloseWrite() error }).CloseWrite()
				})
				if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, up) {
					s.Errorf("%s: the service read %d bytes, %v", name, len(got), err)
				}
			})
			conn, err := s.visit("blog")
			if err != nil {
				s.Fatal(err)
			}
			defer conn.Close()
			wg.Go(func() {
				if _, err := conn.Write(up); err != nil {
					s.Errorf("%s: the visitor wrote: %v", name, err)
				}
				conn.(interface{ CloseWrite() error }).CloseWrite()
			})
			wg.Go(func() {
				if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, down) {
					s.Errorf("%s: the visitor read %d bytes, %v", name, len(got), err)
				}
			})
			time.Sleep(2 * time.Second)
			x, began := s.only(), time.Now()
			wg.Go(func() { fault(s) })
			for !x.isAdrift() && time.Since(began) < 10*time.Second {
				time.Sleep(10 * time.Millisecond)
			}
			if took := time.Since(began); took > 5*time.Second {
				s.Errorf("%s: the node noticed after %v", name, took)
			}
			wg.Wait()
			mu.Lock()
			defer mu.Unlock()
			if took := noticed.Sub(began); noticed.IsZero() || took > 5*time.Second {
				s.Errorf("%s: the agent noticed after %v", name, took)
			}
		})
	}
}

// isAdrift reports whether the session is, or has been, without a lane.
func (x *session) isAdrift() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return !x.adrift.IsZero() || x.number > 1 // one lane more may be for bulk
}
