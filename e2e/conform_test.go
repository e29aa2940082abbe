package e2e

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// What make conformance runs: each of its tests keeps a score, and tells it in
// one line, also when it fails.

// A score counts the checks of one test that passed.
type score struct {
	mu     sync.Mutex // guards the fields below
	passed int
	total  int
}

// newScore keeps the score of what, which is that many checks, and reports it
// when t has ended. Checks that were not made have not passed.
func newScore(t *testing.T, what string, checks int) *score {
	s := new(score)
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		report(t, "%-28s %d/%d", what, s.passed, max(checks, s.total))
	})
	return s
}

// run is t.Run, counted.
func (s *score) run(t *testing.T, name string, check func(t *testing.T)) (passed bool) {
	return t.Run(name, func(t *testing.T) {
		t.Cleanup(func() { s.add(!t.Failed()) })
		check(t)
	})
}

func (s *score) add(passed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total++
	if passed {
		s.passed++
	}
}

// An entrance is a node with one tunnel, and how visitors reach it.
type entrance struct {
	*node
	agent *agent
	host  string // of the tunnel
}

// enter opens a tunnel called name, for visitors who come by TLS.
func enter(t *testing.T, name, target string, flags ...string) *entrance {
	t.Helper()
	n := startNode(t)
	a, _ := n.startAgent(n.token("ada"), target, append([]string{"--name", name}, flags...)...)
	return &entrance{n, a, name + ".localhost"}
}

// enterPlain does the same on a node behind a front end. Visitors here come as
// the front end would, by plain HTTP; the agent comes through one.
func enterPlain(t *testing.T, name, target string, flags ...string) *entrance {
	t.Helper()
	n := startNode(t, "--tls", "off", "--trusted-proxy", "127.0.0.1/32", "--http", "")
	front, ca := startFrontEnd(t, n.addr)
	a := n.runAgent(n.token("ada"), target, append([]string{
		"--name", name, "--server", "localhost:" + port(front), "--ca", ca,
	}, flags...)...)
	a.url()
	return &entrance{n, a, name + ".localhost"}
}

// dial returns a connection to the edge, with all the time that its test has.
// It speaks proto (an ALPN name) for sure, unless the node speaks plain HTTP.
func (e *entrance) dial(proto string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(e.t.Context(), patience)
	defer cancel()
	var c net.Conn
	var err error
	if e.roots == nil {
		c, err = new(net.Dialer).DialContext(ctx, "tcp", e.addr)
	} else {
		c, err = (&tls.Dialer{Config: &tls.Config{
			RootCAs: e.roots, ServerName: e.host, NextProtos: []string{proto},
		}}).DialContext(ctx, "tcp", e.addr)
	}
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(patience))
}

// startFrontEnd runs what ends TLS for *.localhost and passes all bytes on to
// addr. It returns its address, and the file of the CA to trust.
func startFrontEnd(t *testing.T, addr string) (front, ca string) {
	t.Helper()
	ca, cert, key, _ := makeCertificate(t, "localhost", "*.localhost")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	front = freeAddr(t)
	ln, err := tls.Listen("tcp", front, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	serveConns(t, ln, func(c net.Conn) {
		to, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		var wg sync.WaitGroup
		wg.Go(func() { io.Copy(to, c); to.Close() })
		wg.Go(func() { io.Copy(c, to); c.Close() })
		wg.Wait()
	})
	return front, ca
}

// serveConns calls serve for each connection that ln accepts, each in a
// goroutine of its own, and closes it afterwards. When the test ends, it
// closes them all and waits.
func serveConns(t testing.TB, ln net.Listener, serve func(net.Conn)) {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex            // guards the field below
		conns = map[net.Conn]bool{} // nil when the test has ended
	)
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if conns == nil {
				c.Close()
			} else {
				conns[c] = true
			}
			mu.Unlock()
			wg.Go(func() {
				serve(c)
				c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		conns = nil
		mu.Unlock()
		wg.Wait()
	})
}
