// Package server is one node: it builds the rooms, connects them, runs them and
// stops them. It decides nothing itself.
//
// New checks a Config, Run does everything else and returns when all that it
// started has ended. When Run's ctx ends the node stops taking, tells its
// agents, waits for the visitors in flight and cuts what is left; Close cuts
// at once. Meanwhile Reload changes settings, and HandOver has another process
// take its place. The package reads no flags, files of settings or environment,
// and starts no processes.
//
//	server.go     the rooms, running and stopping them
//	config.go     settings
//	reload.go       and which of them may change meanwhile
//	handover.go   how another node takes over
//	data.go       the data directory
package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/culvertd/culvert/internal/admin"
	"github.com/culvertd/culvert/internal/auth"
	"github.com/culvertd/culvert/internal/certs"
	"github.com/culvertd/culvert/internal/edge"
	"github.com/culvertd/culvert/internal/name"
	"github.com/culvertd/culvert/internal/router"
	"github.com/culvertd/culvert/internal/session"
	"github.com/culvertd/culvert/internal/store"
	"github.com/culvertd/culvert/mux"
)

// maxUnread is how many bytes of all agents together may wait for visitors to
// read them.
const maxUnread = 512 << 20

// Node is one culvertd.
type Node struct {
	cfg    Config
	log    *slog.Logger
	cut    context.Context // ended by Close; a lifetime, not an argument
	doCut  context.CancelFunc
	handed chan struct{} // closed when a successor has taken over

	stopping chan struct{}  // closed when the node is
	taking   sync.WaitGroup // the store back

	mu        sync.Mutex // guards the fields below
	called    bool
	latest    Config         // cfg, and what was reloaded since
	running   *rooms         // nil when it does not serve, or not any more
	handover  *handoverUnder // nil when none is under way
	successor Successor      // who has taken over
}

// New checks cfg. It starts and opens nothing.
func New(cfg Config) (*Node, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg.Domain, _ = name.Host(cfg.Domain)
	n := &Node{cfg: cfg, latest: cfg, log: cmp.Or(cfg.Log, slog.New(slog.DiscardHandler)), handed: make(chan struct{}), stopping: make(chan struct{})}
	n.cut, n.doCut = context.WithCancel(context.Background())
	return n, nil
}

// Close cuts everything that Run does, now. Run returns soon after.
func (n *Node) Close() error {
	n.doCut()
	return nil
}

// Run serves until ctx ends and then drains, or until something that the node
// cannot do without has failed; that is the error. Run once.
func (n *Node) Run(ctx context.Context) (err error) {
	n.mu.Lock()
	again := n.called
	n.called = true
	n.mu.Unlock()
	if again {
		return errors.New("BUG: a Node runs once")
	}
	defer n.doCut()
	r := &rooms{Sockets: n.cfg.Sockets}
	defer func() {
		if err != nil {
			r.Sockets.close() // again, if they have been served
		}
	}()
	if err := ownDirectory(n.cfg.Data); err != nil {
		return err
	}
	if n.cfg.AwaitData != nil {
		if err := n.prepare(r); err != nil {
			return err
		}
		if err := n.cfg.AwaitData(ctx); err != nil {
			return err
		}
	}
	if r.store, err = store.Open(ctx, store.Config{Dir: n.cfg.Data, Log: n.log}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.store.Close()) }()
	if err := n.build(ctx, r); err != nil {
		return err
	}
	err = n.serve(ctx, r)
	admin.Forget(n.cfg.Data) // before the directory is anybody else's
	return err
}

// prepare finds certificates and opens listeners.
func (n *Node) prepare(r *rooms) (err error) {
	if r.getCertificate, err = n.certificates(r); err != nil {
		return err
	}
	if r.Public == nil {
		if r.Public, err = net.Listen("tcp", n.cfg.listen()); err != nil {
			return err
		}
	}
	if r.Redirect == nil && n.cfg.HTTP != "" {
		if r.Redirect, err = net.Listen("tcp", n.cfg.HTTP); err != nil {
			return fmt.Errorf("%w: %w", ErrRedirect, err)
		}
	}
	r.prepared = true
	return nil
}

// rooms are the parts of a node that run.
type rooms struct {
	store    *store.Store
	auth     *auth.Auth
	routes   *router.Router
	edge     *edge.Edge
	sessions *session.Server
	admin    *admin.Server

	prepared bool
	Sockets  // Redirect may be nil

	getCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error) // nil for plain HTTP
	pair           atomic.Pointer[certs.Pair]                           // for TLSFiles
	caFile         string                                               // for TLSInternal
}

// build makes the rooms and connects them.
func (n *Node) build(ctx context.Context, r *rooms) (err error) {
	tokens, err := r.store.Bucket(ctx, "tokens")
	if err != nil {
		return err
	}
	names, err := r.store.Bucket(ctx, "names")
	if err != nil {
		return err
	}
	r.auth = auth.New(tokens, names)
	if !r.prepared {
		if err := n.prepare(r); err != nil {
			return err
		}
	}
	if r.Operator == nil {
		if r.Operator, err = admin.Listen(n.cfg.Data); err != nil {
			return err
		}
	}

	suffix := "." + n.cfg.Domain
	r.routes = &router.Router{
		Owned: func(host string) bool {
			label, ok := strings.CutSuffix(host, suffix)
			return ok && r.auth.Owned(label)
		},
		Began: time.Now(), // and agents of the node before come back now
		Hold:  n.cfg.Hold, HoldMax: n.cfg.HoldMax,
	}
	r.auth.InUse = func(label string) bool { return r.routes.Holds(label + suffix) }

	port := n.publicPort(r.Public)
	r.sessions = &session.Server{
		Auth: r.auth, Router: r.routes, Domain: n.cfg.Domain, Software: n.cfg.software(), Log: n.log, Resume: n.cfg.Resume,
		PublicURL: func(label string) string { return URL(label+suffix, port) },
		Mux:       mux.Config{Pool: mux.NewPool(maxUnread)},
	}
	r.edge = &edge.Edge{
		Domain: n.cfg.Domain, GetCertificate: r.getCertificate, Visitors: r.routes, Agents: r.sessions,
		RedirectPort: port, Log: n.log, Settings: n.cfg.edge(),
	}
	r.admin = &admin.Server{Auth: r.auth, Sessions: everywhere{r.sessions, n.cfg.OnRevoke}, Log: n.log,
		Reload: n.cfg.Reload, Upgrade: n.cfg.Upgrade, Status: admin.Status{
			Domain: n.cfg.Domain, Listen: r.Public.Addr().String(), TLS: string(n.cfg.tls()),
			Software: n.cfg.software(), PID: os.Getpid(), Since: time.Now().UTC().Truncate(time.Second),
		}}
	return nil
}

// everywhere are the sessions of this node, and of another that still has some
// on its behalf.
type everywhere struct {
	*session.Server
	also func(token string) // may be nil
}

// DropToken ends the sessions of a token.
func (e everywhere) DropToken(id string) {
	e.Server.DropToken(id)
	if e.also != nil {
		e.also(id)
	}
}

// certificates finds what the edge shows; nil for plain HTTP.
func (n *Node) certificates(r *rooms) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	switch n.cfg.tls() {
	case TLSInternal:
		ca, err := certs.OpenAuthority(filepath.Join(n.cfg.Data, "ca"), n.cfg.Domain)
		if err != nil {
			return nil, authorityError(err)
		}
		r.caFile = ca.RootPath()
		return ca.GetCertificate, nil
	case TLSFiles:
		pair, err := certs.OpenPair(n.cfg.CertFile, n.cfg.KeyFile, n.log)
		if err != nil {
			return nil, n.cfg.pairError(err)
		}
		r.pair.Store(pair)
		return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return r.pair.Load().GetCertificate(hello)
		}, nil
	}
	return nil, nil
}

// authorityError tells a CA that is not the one for this node, which somebody
// has to change, from a disk that failed.
func authorityError(err error) error {
	_, path := errors.AsType[*fs.PathError](err)
	_, link := errors.AsType[*os.LinkError](err)
	_, call := errors.AsType[syscall.Errno](err)
	if path || link || call {
		return err
	}
	return &ConfigError{Field: "tls", Reason: err.Error(), Err: err}
}

// pairError says which of the two settings it was; cert if both.
func (c Config) pairError(err error) error {
	field := "cert"
	if e, ok := errors.AsType[*fs.PathError](err); ok && e.Path == c.KeyFile {
		field = "key"
	}
	return &ConfigError{Field: field, Reason: err.Error(), Err: err}
}

// serve runs the rooms until ctx ends, drains them, and waits for all.
func (n *Node) serve(ctx context.Context, r *rooms) error {
	failed := make(chan error, 3) // one for each room
	var wg sync.WaitGroup
	defer wg.Wait()
	defer n.doCut() // whatever is left goes before we wait for it
	run := func(what string, ctx context.Context, serve func(context.Context, net.Listener) error, ln net.Listener) {
		wg.Go(func() {
			err := serve(ctx, ln)
			failed <- fmt.Errorf("%s: %w", what, cmp.Or(err, errors.New("ended by itself")))
		})
	}
	run("public listener", n.cut, r.edge.Serve, r.Public)
	if r.Redirect != nil {
		run("redirect listener", n.cut, r.edge.ServeRedirect, r.Redirect)
	}
	operator, stopOperator := context.WithCancel(n.cut)
	defer stopOperator()
	run("admin socket", operator, r.admin.Serve, r.Operator)
	n.begin(r)
	n.ready(r)

	var failure error
	select {
	case failure = <-failed: // before anybody asked it to end
		if n.cut.Err() != nil {
			failure = nil // Close had, and both were there to be seen
		}
	case <-ctx.Done():
	case <-n.cut.Done():
	case <-n.handed:
	}
	drain, successor := n.finish()
	follow, unfollow := context.WithCancel(n.cut)
	defer unfollow()
	if successor != nil { // there is another one behind the same sockets
		stopOperator()
		r.store.Close() // who waits to write is told so
		wg.Go(func() { successor.Follow(follow, r.sessions.DropToken) })
	}
	n.log.Info("node stopping", "drain", drain, "handed_over", successor != nil)
	n.drain(r, drain)
	n.log.Info("node stopped")
	return failure
}

func (n *Node) ready(r *rooms) {
	ready := Ready{Listen: r.Public.Addr(), CAFile: r.caFile, Tokens: r.auth.Any()}
	if r.Redirect != nil {
		ready.HTTP = r.Redirect.Addr()
	}
	n.log.Info("node started", "domain", n.cfg.Domain, "listen", ready.Listen.String(), "tls", string(n.cfg.tls()), "data", n.cfg.Data)
	if n.cfg.OnReady != nil {
		n.cfg.OnReady(ready)
	}
}

// drain stops taking, tells every agent, and waits for visitors in flight. What
// is left when the time is up, or when Close is called, is cut.
//
// The order is what no request fails by. Listeners are closed before agents are
// told to go, so that they do not come back here. Sessions carry visitors until
// none of those who are here can ask any more; a visitor who kept his connection
// does not know yet that this was the last time.
func (n *Node) drain(r *rooms, most time.Duration) {
	ctx, cancel := context.WithTimeout(n.cut, most)
	defer cancel()
	r.edge.Leave()
	r.routes.SetHold(-1, -1) // nobody comes back to a node that leaves
	r.sessions.Drain(most)
	var wg sync.WaitGroup
	wg.Go(func() { n.note("visitors", r.edge.Shutdown(ctx)) })
	r.edge.Settle(ctx)
	n.note("agents", r.sessions.Shutdown(ctx))
	wg.Wait()
	r.sessions.Close()
	r.edge.Close()
}

// note says that some did not finish in time.
func (n *Node) note(who string, err error) {
	if err != nil {
		n.log.Warn("drain cut short", "who", who, "err", err)
	}
}

// publicPort is the port that visitors see.
func (n *Node) publicPort(ln net.Listener) int {
	if n.cfg.PublicPort != 0 {
		return n.cfg.PublicPort
	}
	if a, ok := ln.Addr().(*net.TCPAddr); ok && n.cfg.tls() != TLSOff {
		return a.Port
	}
	return 443
}

// URL is where visitors of a host find it.
func URL(host string, port int) string {
	if port == 443 {
		return "https://" + host
	}
	return fmt.Sprintf("https://%s:%d", host, port)
}
