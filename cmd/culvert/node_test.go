package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"time"

	"github.com/culvertd/culvert/internal/wire"
	"github.com/culvertd/culvert/mux"
)

// A node is a small one for scripts, at localhost, with its own CA. It takes
// the token cvt_good, and takes the name "lost" away as soon as a visitor came;
// "taken", "held", "forbidden", "bad..name" and "old" are refused.
type node struct {
	ln   net.Listener
	cert tls.Certificate
	wg   sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	change  chan struct{}
	holders map[string]holder
	conns   []*mux.Conn
}

type holder struct {
	conn    *mux.Conn
	control *mux.Stream
	request uint32
	asked   wire.Bind
}

func startNode(caFile string) (*node, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &node{
		ln: ln, cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		change: make(chan struct{}), holders: map[string]holder{},
	}
	n.wg.Go(n.accept)
	return n, nil
}

func (n *node) addr() string {
	_, port, _ := net.SplitHostPort(n.ln.Addr().String())
	return "localhost:" + port
}

func (n *node) close() {
	n.ln.Close()
	n.mu.Lock()
	conns := n.conns
	n.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	n.wg.Wait()
}

func (n *node) accept() {
	for {
		raw, err := n.ln.Accept()
		if err != nil {
			return
		}
		n.wg.Go(func() {
			defer raw.Close()
			secure := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{n.cert}, NextProtos: []string{wire.ALPN}})
			if secure.Handshake() != nil {
				return
			}
			m, err := wire.ReadFirst(secure)
			hello, ok := m.(*wire.Hello)
			if err != nil || !ok {
				return
			}
			if hello.Token != "cvt_good" {
				wire.Write(secure, &wire.Refused{Code: wire.Unauthorized})
				io.Copy(io.Discard, secure)
				return
			}
			wire.Write(secure, &wire.Welcome{Version: 1, Session: [16]byte{1}, Domain: "node.test"})
			conn := mux.Server(secure, mux.Config{})
			defer conn.Close()
			n.mu.Lock()
			n.conns = append(n.conns, conn)
			n.mu.Unlock()
			n.serve(conn)
		})
	}
}

func (n *node) serve(conn *mux.Conn) {
	control, err := conn.Accept(context.Background())
	if err != nil {
		return
	}
	for {
		m, err := wire.Read(control)
		if err != nil {
			return
		}
		switch m := m.(type) {
		case *wire.Bind:
			n.bind(conn, control, m)
		}
	}
}

func (n *node) bind(conn *mux.Conn, control *mux.Stream, m *wire.Bind) {
	code := map[string]wire.Code{"taken": wire.NameTaken, "held": wire.NameHeld, "old": wire.OptionInvalid, "forbidden": wire.NameNotAllowed, "bad..name": wire.NameInvalid}[m.Name]
	if code != 0 {
		wire.Write(control, &wire.Refused{Request: m.Request, Code: code, Reason: "the reason"})
		return
	}
	if m.Name == "" {
		m.Name = "random"
	}
	wire.Write(control, &wire.Bound{Request: m.Request, Name: m.Name, URL: "https://" + m.Name + ".node.test", Epoch: 1})
	n.mu.Lock()
	defer n.mu.Unlock()
	n.holders[m.Name] = holder{conn, control, m.Request, *m}
	close(n.change)
	n.change = make(chan struct{})
}

func (n *node) waitBound(name string) error {
	late := time.After(20 * time.Second)
	for {
		n.mu.Lock()
		_, ok := n.holders[name]
		change := n.change
		n.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-change:
		case <-late:
			return fmt.Errorf("nobody came to hold %q", name)
		}
	}
}

func (n *node) visit(name string) string {
	n.mu.Lock()
	h, ok := n.holders[name]
	n.mu.Unlock()
	if !ok {
		return "nobody holds it"
	}
	stream, err := h.conn.Open(context.Background())
	if err != nil {
		return err.Error()
	}
	defer stream.Close()
	stream.Write(wire.Append(nil, &wire.Visit{Request: h.request, ID: "v1"}))
	io.WriteString(stream, "GET / HTTP/1.0\r\nHost: node.test\r\n\r\n")
	answer, err := io.ReadAll(stream)
	if name == "lost" {
		wire.Write(h.control, &wire.Unbound{Request: h.request, Code: wire.Replaced})
	}
	if err != nil {
		return err.Error()
	}
	return string(answer)
}
