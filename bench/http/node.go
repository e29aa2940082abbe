package main

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/culvertd/culvert"
	"github.com/culvertd/culvert/internal/auth"
	"github.com/culvertd/culvert/internal/certs"
	"github.com/culvertd/culvert/internal/edge"
	"github.com/culvertd/culvert/internal/router"
	"github.com/culvertd/culvert/internal/session"
	"github.com/culvertd/culvert/internal/store"
	"github.com/culvertd/culvert/mux"
)

// node is the role of a culvertd, made of the same parts in the same way, that
// has two doors to one set of tunnels: one with TLS, for agents and visitors,
// and a plain one for visitors. When it is ready it says a token.
func node(ctx context.Context, args []string) (err error) {
	f := flag.NewFlagSet("node", flag.ContinueOnError)
	secure := f.String("tls", "", "where agents come in, and visitors with TLS")
	plain := f.String("plain", "", "where other visitors come in")
	data := f.String("data", "", "directory")
	cert := f.String("cert", "", "certificate")
	key := f.String("key", "", "its key")
	if err := f.Parse(args); err != nil {
		return err
	}

	st, err := store.Open(ctx, store.Config{Dir: *data})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	tokens, err := st.Bucket(ctx, "tokens")
	if err != nil {
		return err
	}
	names, err := st.Bucket(ctx, "names")
	if err != nil {
		return err
	}
	authority := auth.New(tokens, names)
	token, _, err := authority.Create(ctx, "bench", auth.CreateOptions{})
	if err != nil {
		return err
	}
	pair, err := certs.OpenPair(*cert, *key, nil)
	if err != nil {
		return err
	}
	routes := &router.Router{Owned: func(host string) bool {
		label, ok := strings.CutSuffix(host, "."+domain)
		return ok && authority.Owned(label)
	}}
	sessions := &session.Server{
		Auth: authority, Router: routes, Domain: domain,
		Mux: mux.Config{Pool: mux.NewPool(512 << 20)}, // as culvertd has it
	}
	defer sessions.Close()
	doors := map[string]*edge.Edge{
		*secure: {Domain: domain, GetCertificate: pair.GetCertificate, Visitors: routes, Agents: sessions},
		*plain:  {Domain: domain, Visitors: routes},
	}

	failed := make(chan error, len(doors))
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	for addr, door := range doors {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		wg.Go(func() { failed <- door.Serve(ctx, ln) })
	}
	fmt.Println("ready", token.Reveal())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// agent is the role of "culvert http", where a profile is wanted of it.
func agent(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("agent", flag.ContinueOnError)
	server := f.String("server", "", "the node")
	ca := f.String("ca", "", "whom to trust")
	name := f.String("name", "", "of the tunnel")
	target := f.String("target", "", "the service")
	if err := f.Parse(args); err != nil {
		return err
	}
	pem, err := os.ReadFile(*ca)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	a := &culvert.Agent{Server: *server, Token: os.Getenv("CULVERT_TOKEN"), RootCAs: roots}
	defer a.Close()
	ln, err := a.Listen(ctx, culvert.Tunnel{Name: *name})
	if err != nil {
		return err
	}
	fmt.Println("ready", ln.URL())
	err = culvert.Forward(ctx, ln, culvert.Service{Target: *target})
	if ctx.Err() != nil {
		return nil // we were asked to stop
	}
	return err
}
