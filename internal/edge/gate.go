package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"
)

// agentProtocol is the ALPN name of an agent. An agent speaks TLS 1.3.
const agentProtocol = "culvert/1"

// partingHandshake is how long a handshake may take that was under way when the
// listener was closed.
const partingHandshake = 2 * time.Second

// A gate is one listener being served.
type gate struct {
	edge      *Edge
	ln        net.Listener
	log       *slog.Logger
	tls       *tls.Config // nil: plain HTTP behind a front end
	greetings places      // handshakes under way
	door      *door
	redirect  bool

	ctx context.Context // of the agents: ends with Close
	cut context.CancelFunc

	stopOnce sync.Once
	stopped  chan struct{} // closed when no more connections are taken

	wg sync.WaitGroup // connections in greet, agents among them, and the door
}

func newGate(ctx context.Context, e *Edge, domain string, ln net.Listener) *gate {
	g := &gate{
		edge:      e,
		ln:        ln,
		log:       e.logger(),
		greetings: places{max: e.maxHandshakes()},
		stopped:   make(chan struct{}),
	}
	g.ctx, g.cut = context.WithCancel(ctx)
	g.door = newDoor(g.ctx, e, domain, g.serveAgent)
	if e.GetCertificate != nil {
		g.tls = tlsConfig(e.GetCertificate, e.Agents != nil)
	}
	return g
}

// run serves until the gate is stopped or its listener fails, and returns when
// everything it started has ended.
func (g *gate) run() error {
	g.wg.Go(g.door.run)
	err := g.accept()
	if err != nil {
		g.Close() // a node that hears nobody any more should not look alive
	}
	g.wg.Wait()
	g.cut()
	return err
}

// Leave stops taking connections, and lets visitors go. Who has been taken is
// somebody's, and is served: a handshake is ended, if it ends soon.
func (g *gate) Leave() {
	g.stop()
	g.greetings.each(func(c net.Conn) { c.SetDeadline(time.Now().Add(partingHandshake)) })
	g.door.leave()
}

// Settle waits until no request can come any more.
func (g *gate) Settle(ctx context.Context) error { return g.door.askers.wait(ctx) }

// Shutdown stops taking connections, and drains those of visitors.
func (g *gate) Shutdown(ctx context.Context) error {
	g.Leave()
	err := g.door.Shutdown(ctx)
	g.greetings.close()
	return err
}

// Close ends visitors and agents now.
func (g *gate) Close() error {
	g.stop()
	g.greetings.close()
	g.cut()
	return g.door.Close()
}

func (g *gate) stop() {
	g.stopOnce.Do(func() {
		close(g.stopped)
		g.ln.Close()
	})
}

// accept does nothing but accept: whatever can wait for a stranger happens in
// a goroutine of its own.
func (g *gate) accept() error {
	pause := time.Duration(0)
	for {
		c, err := g.ln.Accept()
		if err == nil {
			pause = 0
			a := g.door.asker() // before Shutdown can take us for empty
			g.wg.Go(func() { g.greet(c, a) })
			continue
		}
		select {
		case <-g.stopped:
			return nil
		default:
		}
		if !passing(err) {
			return fmt.Errorf("accept: %w", err)
		}
		if pause == 0 {
			g.log.Warn("connection not accepted", "err", err)
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		select {
		case <-g.stopped:
			return nil
		case <-time.After(pause):
		}
	}
}

// passing reports whether accepting may work again later: the visitor left
// before we looked, or we are short of what other connections will give back.
func passing(err error) bool {
	return slices.ContainsFunc([]error{
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EINTR,
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
	}, func(e error) bool { return errors.Is(err, e) })
}

// greet finds out what a stranger wants. It owns c until it has handed it to
// the door or to the agents.
func (g *gate) greet(c net.Conn, a *asker) {
	defer g.contain(c)
	if g.tls == nil {
		defer a.done()
		g.door.serveH1(c, c, a)
		return
	}
	theirs := false // a has been handed over
	defer func() {
		if !theirs {
			a.done()
		}
	}()
	place := g.greetings.enter(c)
	if place == nil {
		return
	}
	// The deadline is on the socket, so it counts for a stranger who sends a
	// byte now and then as well as for one who sends none.
	c.SetDeadline(time.Now().Add(g.edge.handshakeTimeout()))
	select {
	case <-g.stopped: // and has perhaps told all the others
		c.SetDeadline(time.Now().Add(partingHandshake))
	default:
	}
	conn := tls.Server(c, g.tls)
	defer place.leave()
	err := conn.Handshake()
	if !place.leave() {
		return // made room for somebody else
	}
	if err != nil {
		g.log.Debug("handshake ended", "peer", c.RemoteAddr(), "err", err)
		explain(err)
		c.Close()
		return
	}
	c.SetDeadline(time.Time{})
	switch state := conn.ConnectionState(); state.NegotiatedProtocol {
	case agentProtocol:
		a.done()
		g.serveAgent(conn)
	case "h2":
		theirs = true
		g.door.takeH2(c, conn, a)
	default:
		g.door.serveH1(c, conn, a)
	}
}

// serveAgent serves an agent until it leaves. It closes c. Whoever calls it is
// waited for by run: greet is, and so is a handler of the door.
func (g *gate) serveAgent(c net.Conn) {
	select {
	case <-g.stopped:
		c.Close() // the agent will find another node, or this one later
		return
	default:
	}
	g.edge.Agents.ServeAgent(g.ctx, c)
}

// contain keeps a panic from becoming everybody's: it ends one connection.
func (g *gate) contain(c net.Conn) {
	if p := recover(); p != nil {
		c.Close()
		g.log.Error("connection panicked", "peer", c.RemoteAddr(), "err", fmt.Sprint(p), "stack", string(debug.Stack()))
	}
}

// explain tells somebody who spoke HTTP to a TLS port what went wrong. The
// answer is a constant; nothing that was said is repeated.
func explain(err error) {
	e, ok := errors.AsType[tls.RecordHeaderError](err)
	if !ok || e.Conn == nil {
		return
	}
	switch string(e.RecordHeader[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		io.WriteString(e.Conn, "HTTP/1.0 400 Bad Request\r\n"+
			"Content-Type: text/plain\r\nCulvert-Error: bad_request\r\nConnection: close\r\n\r\n"+
			"This port speaks HTTPS; say https:// instead of http://.\n")
	}
}

// tlsConfig gives visitors TLS 1.2 or 1.3 and agents TLS 1.3. What an agent
// may say is decided by what its hello offers, before anything is agreed on,
// and its config shares no session tickets with that of visitors.
func tlsConfig(getCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error), agents bool) *tls.Config {
	visitor := &tls.Config{
		MinVersion: tls.VersionTLS12,
		// TLS 1.2 with forward secrecy and AEAD only: what HTTP/2 allows
		// (RFC 9113, section 9.2.2 and appendix A). TLS 1.3 has no others.
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: getCertificate,
		// Answers are written in one go, and small records would make several.
		DynamicRecordSizingDisabled: true,
	}
	if !agents {
		return visitor
	}
	agent := &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{agentProtocol},
		GetCertificate:              getCertificate,
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true, // a stream of frames is never short for long
	}
	visitor.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(hello.SupportedProtos, agentProtocol) {
			return agent, nil
		}
		return nil, nil
	}
	return visitor
}
