// Command agents is many agents in one process, each with a session, a name and
// a service of its own, for the tests that need a thousand of them. It prints
// their events, and ends by a signal.
//
//	agents -server HOST -ca FILE -each 100 TOKEN-FILE...
//
// The agents of the first token are a0 to a99, and so on.
package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/culvertd/culvert"
)

var (
	server = flag.String("server", "", "the node")
	ca     = flag.String("ca", "", "file with the CA that signs its certificate")
	each   = flag.Int("each", 1, "agents for each token")
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("agents: ")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, flag.Args()); err != nil {
		log.Fatal(err)
	}
}

// run is the life of all of them.
func run(ctx context.Context, tokens []string) error {
	pem, err := os.ReadFile(*ca)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	var tell teller
	for i, file := range tokens {
		token, err := os.ReadFile(file)
		if err != nil {
			cancel(nil)
			return err
		}
		for j := range *each {
			a := &culvert.Agent{Server: *server, Token: strings.TrimSpace(string(token)), RootCAs: roots, OnEvent: tell.event}
			name := fmt.Sprintf("a%d", i**each+j)
			wg.Go(func() {
				if err := serve(ctx, a, name); err != nil {
					cancel(fmt.Errorf("%s: %w", name, err))
				}
			})
		}
	}
	<-ctx.Done()
	if cause := context.Cause(ctx); cause != ctx.Err() {
		return cause
	}
	return nil
}

// serve is the life of one.
func serve(ctx context.Context, a *culvert.Agent, name string) error {
	defer a.Close()
	ln, err := a.Listen(ctx, culvert.Tunnel{Name: name})
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { a.Close() })()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "hello from %s\n", name) })
	mux.HandleFunc("POST /upload", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		io.Copy(sum, r.Body)
		fmt.Fprintf(w, "%x", sum.Sum(nil))
	})
	if err := http.Serve(ln, mux); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// A teller prints the events of all agents, one object a line.
type teller struct{ mu sync.Mutex }

func (t *teller) event(e culvert.Event) {
	b, err := json.Marshal(e)
	if err != nil {
		log.Fatal("BUG: ", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	os.Stdout.Write(append(b, '\n'))
}
