package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvertd/culvert/internal/admin"
	"github.com/culvertd/culvert/internal/server"
)

// A next is a successor in this process: another node over copies of the same
// sockets. It fails where a test wants it to.
type next struct {
	t     *testing.T
	node  *server.Node
	ended chan error
	data  chan struct{} // it wants the directory
	free  chan struct{}
	ready chan struct{}
	main  chan struct{}

	failAt  string
	aborted bool
	revoked chan string
}

var errNext = errors.New("no luck")

// copyOf is a listener of its own on the same socket.
func copyOf(t *testing.T, ln net.Listener) net.Listener {
	t.Helper()
	if ln == nil {
		return nil
	}
	f, err := ln.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (n *node) successor(failAt string) *next {
	return &next{
		t: n.t, failAt: failAt, ended: make(chan error, 1), data: make(chan struct{}), free: make(chan struct{}),
		ready: make(chan struct{}), main: make(chan struct{}), revoked: make(chan string, 1),
	}
}

// start is what HandOver calls.
func (x *next) start(data string) func(server.Sockets) (server.Successor, error) {
	return func(s server.Sockets) (server.Successor, error) {
		if x.failAt == "start" {
			return nil, errNext
		}
		made, err := server.New(server.Config{
			Domain: "tunnel.test", Data: data, Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0",
			Sockets:   server.Sockets{Public: copyOf(x.t, s.Public), Redirect: copyOf(x.t, s.Redirect), Operator: copyOf(x.t, s.Operator)},
			AwaitData: func(context.Context) error { close(x.data); <-x.free; return nil },
			OnReady:   func(server.Ready) { close(x.ready) },
		})
		if err != nil {
			return nil, err
		}
		x.node = made
		go func() { x.ended <- made.Run(context.Background()) }()
		return x, nil
	}
}

func (x *next) AwaitData(ctx context.Context) error {
	if x.failAt == "data" {
		return errNext
	}
	<-x.data
	return nil
}

func (x *next) GiveData() error { close(x.free); return nil }

func (x *next) AwaitReady(ctx context.Context) error {
	switch x.failAt {
	case "ready":
		<-x.ready
		return errNext
	case "never":
		<-ctx.Done()
		return context.Cause(ctx)
	}
	<-x.ready
	return nil
}

func (x *next) Main() { close(x.main) }

func (x *next) Follow(ctx context.Context, revoked func(string)) {
	select {
	case id := <-x.revoked:
		revoked(id)
		<-ctx.Done()
	case <-ctx.Done():
	}
}

func (x *next) Abort() {
	x.aborted = true
	select {
	case <-x.free:
	default:
		close(x.free)
		time.Sleep(0)
	}
	x.node.Close()
	<-x.ended
}

// TestHandOver: the new node has sockets, tokens and names, the old one answers
// those who are there, and the admin socket is never gone.
func TestHandOver(t *testing.T) {
	n := start(t, t.TempDir(), nil)
	ann := n.token("ann")
	finish := make(chan bool)
	ln, err := n.serve(ann.Secret, "blog", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-finish
		}
		hello(w, r)
	})
	if err != nil {
		t.Fatal(err)
	}
	slow := make(chan string, 1)
	v := n.visitor()
	go func() {
		resp, err := v.Get(ln.URL() + "/slow")
		if err != nil {
			slow <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		slow <- string(b)
	}()
	for len(must(n.admin.Sessions(t.Context()))) == 0 || must(n.admin.Sessions(t.Context()))[0].Streams == 0 {
		time.Sleep(time.Millisecond)
	}
	x := n.successor("")
	h, err := n.node.HandOver(t.Context(), x.start(n.data))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("took %v, store away for %v", h.Took, h.Away)
	<-x.main
	if _, err := n.node.HandOver(t.Context(), x.start(n.data)); !errors.Is(err, server.ErrNotRunning) {
		t.Errorf("handed over twice: %v", err)
	}
	if _, err := n.node.Reload(server.Config{}); err == nil {
		t.Error("a node that has gone was reloaded")
	}
	tokens, err := n.admin.Tokens(t.Context())
	if err != nil || len(tokens) != 1 {
		t.Errorf("the new node knows %v, %v", tokens, err)
	}
	close(finish)
	if got := <-slow; !strings.HasPrefix(got, "hello blog.tunnel.test") {
		t.Errorf("the visitor who was inside got %q", got)
	}
	if err := <-n.ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	close(n.ended)
	if status, _ := get(t, n.visitor(), "https://nobody.tunnel.test"); status != 404 {
		t.Errorf("the new node answers %d", status)
	}
	if _, err := os.Stat(filepath.Join(n.data, "admin.sock")); err != nil {
		t.Errorf("the old node has taken the admin socket away: %v", err)
	}
	x.node.Close()
	if err := <-x.ended; err != nil {
		t.Errorf("Run of the new node: %v", err)
	}
	if _, err := os.Stat(filepath.Join(n.data, "admin.sock")); err == nil {
		t.Error("the new node has left the admin socket behind")
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestHandOverFails: wherever it fails, the node goes on as if nothing had
// happened: with its sessions, and with its store.
func TestHandOverFails(t *testing.T) {
	for _, at := range []string{"start", "data", "ready", "never"} {
		t.Run(at, func(t *testing.T) {
			n := start(t, t.TempDir(), nil)
			ln, err := n.serve(n.token("ann").Secret, "blog", hello)
			if err != nil {
				t.Fatal(err)
			}
			x := n.successor(at)
			ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errNext)
			defer cancel()
			if _, err := n.node.HandOver(ctx, x.start(n.data)); !errors.Is(err, errNext) {
				t.Errorf("got %v", err)
			}
			if x.aborted == (at == "start") {
				t.Error("the successor was not ended")
			}
			if status, _ := get(t, n.visitor(), ln.URL()); status != 200 {
				t.Errorf("a visitor gets %d", status)
			}
			n.admin.Close() // kept connections are no news
			n.token("bob")
			if names := must(n.admin.Names(t.Context())); len(names) != 1 {
				t.Errorf("names: %v", names)
			}
			if len(must(n.admin.Sessions(t.Context()))) != 1 {
				t.Error("the session has gone")
			}
		})
	}
}

// TestHandOverOnce: there is one at a time, and none is left when the node stops.
func TestHandOverOnce(t *testing.T) {
	n := start(t, t.TempDir(), nil)
	x := n.successor("never")
	failed := make(chan error)
	go func() {
		_, err := n.node.HandOver(context.Background(), x.start(n.data))
		failed <- err
	}()
	<-x.free // the store is away
	if _, err := n.node.HandOver(t.Context(), n.successor("").start(n.data)); !errors.Is(err, server.ErrHandingOver) {
		t.Errorf("two at a time: %v", err)
	}
	n.stop()
	if err := <-failed; !errors.Is(err, server.ErrNotRunning) {
		t.Errorf("the node stopped meanwhile: %v", err)
	}
	if err := <-n.ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	close(n.ended)
}

// TestRevokeAfterHandOver: a token that is revoked at the new node ends its
// sessions at the old one as well.
func TestRevokeAfterHandOver(t *testing.T) {
	n := start(t, t.TempDir(), nil)
	ann := n.token("ann")
	ln, err := n.serve(ann.Secret, "blog", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	v := n.visitor()
	go func() {
		resp, err := v.Get(ln.URL())
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == 200 {
				err = nil
			} else {
				err = fmt.Errorf("%s", resp.Status)
			}
		}
		failed <- err
	}()
	for len(must(n.admin.Sessions(t.Context()))) == 0 || must(n.admin.Sessions(t.Context()))[0].Streams == 0 {
		time.Sleep(time.Millisecond)
	}
	x := n.successor("")
	if _, err := n.node.HandOver(t.Context(), x.start(n.data)); err != nil {
		t.Fatal(err)
	}
	x.revoked <- ann.Token.ID
	select {
	case err := <-failed:
		if err == nil {
			t.Error("the visitor of a revoked token got an answer")
		}
	case <-time.After(10 * time.Second):
		t.Error("the session of a revoked token lives on")
	}
	x.node.Close()
	<-x.ended
}

// TestAdminDuringHandOver: what wants to write while the store is away waits,
// and is done by whoever is the node then.
func TestAdminDuringHandOver(t *testing.T) {
	for _, at := range []string{"", "never"} {
		t.Run(at, func(t *testing.T) {
			n := start(t, t.TempDir(), nil)
			x := n.successor(at)
			made := make(chan error, 1)
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			go func() {
				<-x.free
				_, err := n.admin.CreateToken(context.Background(), admin.NewToken{Owner: "bob"})
				made <- err
			}()
			if _, err := n.node.HandOver(ctx, x.start(n.data)); (err == nil) != (at == "") {
				t.Errorf("HandOver: %v", err)
			}
			if err := <-made; err != nil {
				t.Errorf("a token made meanwhile: %v", err)
			}
			if got := len(must(n.admin.Tokens(t.Context()))); got != 1 {
				t.Errorf("%d tokens; want the one that was made", got)
			}
			if at == "" {
				x.node.Close()
				<-x.ended
			}
		})
	}
}

func TestReload(t *testing.T) {
	n := start(t, t.TempDir(), func(cfg *server.Config) { cfg.Log = slog.New(slog.DiscardHandler) })
	ln, err := n.serve(n.token("ann").Secret, "blog", hello)
	if err != nil {
		t.Fatal(err)
	}
	base := server.Config{Domain: "Tunnel.Test", Data: n.data, Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0"}
	hsts := func() string {
		resp, err := n.visitor().Get(ln.URL())
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.Header.Get("Strict-Transport-Security")
	}
	cfg := base
	cfg.HSTS, cfg.Drain = time.Hour, time.Second
	if changed, err := n.node.Reload(cfg); err != nil || fmt.Sprint(changed) != "[drain hsts]" {
		t.Errorf("changed %v, %v", changed, err)
	}
	if changed, err := n.node.Reload(cfg); err != nil || len(changed) != 0 {
		t.Errorf("the same again: changed %v, %v", changed, err)
	}
	for name, bad := range map[string]func(*server.Config){
		"listen, tls cannot": func(c *server.Config) {
			c.Listen, c.TLS, c.HTTP, c.TrustedProxies = ":1", "files", "127.0.0.1:0", nil
			c.CertFile, c.KeyFile = "a", "b"
		},
		"domain cannot": func(c *server.Config) { c.Domain = "other.test" },
		"hsts:":         func(c *server.Config) { c.HSTS = time.Millisecond },
		"head-timeout:": func(c *server.Config) { c.HeadTimeout = -1 },
	} {
		c := base
		bad(&c)
		if _, err := n.node.Reload(c); err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
		if got := hsts(); got != "max-age=3600" {
			t.Errorf("%s: something was applied: HSTS %q", name, got)
		}
	}
	if _, err := n.node.Reload(base); err != nil || hsts() != "" {
		t.Errorf("back: %v, HSTS %q", err, hsts())
	}
}
