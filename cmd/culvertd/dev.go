package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvertd/culvert"
	"github.com/culvertd/culvert/internal/admin"
	"github.com/culvertd/culvert/internal/name"
	"github.com/culvertd/culvert/internal/server"
)

// devOwner owns the tunnels of dev, and its tokens carry devNote.
const devOwner, devNote = "dev", "made by culvertd dev"

// dev is a node and an agent in one process on this machine.
type dev struct {
	cli    *cli
	listen string
	name   string
	host   string // Host header for the target
	target string // empty for the built-in page
	log    *slog.Logger
}

func (c *cli) devCommand() *cobra.Command {
	d := &dev{cli: c}
	var verbose bool
	cmd := c.command("dev [TARGET]", "Try everything on this machine: a node for *.localhost and an agent for TARGET", atMost(1), nil)
	cmd.Long = cmd.Short + `

TARGET is 3000, host:port, http://…, https://… or unix:/path. Without one, a
built-in page shows every request as a service sees it.`
	f := cmd.Flags()
	f.StringVar(&d.listen, "listen", "127.0.0.1:8443", "`address` of the node, on loopback")
	f.StringVar(&d.name, "name", "hello", "`name` of the tunnel")
	f.StringVar(&d.host, "host-header", "keep", "what the service gets as Host, as `keep|service|HOST`: the public one, that of TARGET, or one of your choice")
	f.StringVar(&c.data, "data", "", "data `directory` of the node (default in the user's cache)")
	f.BoolVarP(&verbose, "verbose", "v", false, "show the log of node and agent")
	f.BoolVar(&c.json, "json", false, "print what there is to know as JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c.began = true
		if len(args) == 1 {
			d.target = args[0]
		}
		level := "warn"
		if verbose {
			level = "debug"
		}
		var err error
		if d.log, err = c.logger(level); err != nil {
			return err
		}
		return d.run(cmd.Context())
	}
	return cmd
}

// check finds what cannot work before anything is started.
func (d *dev) check() error {
	if _, err := name.Parse(d.name); err != nil {
		return &usageError{err.Error(), "choose another with --name"}
	}
	host, port, err := net.SplitHostPort(d.listen)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return &usageError{fmt.Sprintf("--listen %s: want a loopback address and a port", d.listen),
			"for example --listen 127.0.0.1:9443; a node for others is culvertd serve"}
	}
	target := culvert.Target{}
	if d.target != "" {
		if target, err = culvert.ParseTarget(d.target); err != nil {
			return &usageError{err.Error(), "TARGET is 3000, host:port, http://…, https://… or unix:/path"}
		}
	}
	switch d.host {
	case "keep":
		d.host = ""
	case "service":
		d.host = target.Host()
	case "":
		return &usageError{"--host-header is empty", "pass keep, service or a host"}
	}
	return nil
}

// run runs node and agent until ctx ends or one of them fails.
func (d *dev) run(ctx context.Context) error {
	if err := d.check(); err != nil {
		return err
	}
	data := d.cli.data
	if data == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return &usageError{"no cache directory: " + err.Error(), "name a directory with --data"}
		}
		data = filepath.Join(cache, "culvertd", "dev")
	}
	ready := make(chan server.Ready, 1)
	node, err := server.New(server.Config{
		Domain: "localhost", Data: data, Listen: d.listen, Drain: 2 * time.Second,
		Software: "culvertd " + version(), Log: d.log,
		OnReady: func(r server.Ready) { ready <- r },
	})
	if err != nil {
		return err
	}

	// The node outlives the agent, so that the agent can say goodbye.
	nodeCtx, stopNode := context.WithCancel(context.WithoutCancel(ctx))
	agentCtx, stopAgent := context.WithCancel(ctx)
	defer stopAgent()
	var wg sync.WaitGroup
	var nodeErr error
	wg.Go(func() {
		defer stopAgent()
		nodeErr = node.Run(nodeCtx)
	})
	var agentErr error
	select {
	case r := <-ready:
		agentErr = d.serve(agentCtx, data, r)
	case <-agentCtx.Done():
	}
	stopNode()
	wg.Wait()
	if ctx.Err() != nil {
		agentErr = nil // it ended because it was asked to
	}
	return cmp.Or(nodeErr, agentErr)
}

// serve runs the agent: a tunnel to the target, or to the built-in page.
func (d *dev) serve(ctx context.Context, data string, r server.Ready) error {
	token, err := devToken(ctx, data)
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(r.CAFile)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no certificate", r.CAFile)
	}
	_, port, err := net.SplitHostPort(r.Listen.String())
	if err != nil {
		return err
	}
	agent := &culvert.Agent{
		Server: net.JoinHostPort("localhost", port), Token: token, RootCAs: roots,
		Transport: culvert.TransportTLS, Software: "culvertd dev " + version(), Log: d.log,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) { // wherever "localhost" may point to
			var dialer net.Dialer
			return dialer.DialContext(ctx, "tcp", r.Listen.String())
		},
		OnEvent: func(e culvert.Event) {
			switch {
			case d.cli.json:
			case e.Kind == culvert.EventServiceFailed:
				fmt.Fprintf(d.cli.err, "culvertd: %s\n", printable(e.Err.Error()))
			case e.Kind == culvert.EventHostUnknown:
				fmt.Fprintf(d.cli.err, "hint: %s; try --host-header service, or add it to those that the service allows\n", printable(e.Err.Error()))
			}
		},
	}
	defer agent.Close()
	short, cancel := context.WithTimeout(ctx, brief)
	defer cancel()
	ln, err := agent.Listen(short, culvert.Tunnel{Name: d.name, HostHeader: d.host})
	if err != nil {
		return err
	}
	d.tell(ln.URL(), r.CAFile)
	if d.target != "" {
		return culvert.Forward(ctx, ln, culvert.Service{Target: d.target})
	}
	page := &http.Server{Handler: http.HandlerFunc(page), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug)}
	defer context.AfterFunc(ctx, func() { page.Close() })()
	if err := page.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// devToken makes a token by the front door, and forgets those of earlier runs.
func devToken(ctx context.Context, data string) (string, error) {
	node, err := admin.Dial(data)
	if err != nil {
		return "", err
	}
	defer node.Close()
	tokens, err := node.Tokens(ctx)
	if err != nil {
		return "", err
	}
	for _, t := range tokens {
		if t.Owner == devOwner && t.Note == devNote {
			if err := node.RevokeToken(ctx, t.ID); err != nil {
				return "", err
			}
		}
	}
	made, err := node.CreateToken(ctx, admin.NewToken{Owner: devOwner, Note: devNote})
	return made.Secret, err
}

// tell says what to open, what to trust, and what to type.
func (d *dev) tell(url, caFile string) {
	line := fmt.Sprintf("curl --cacert %s %s/", quote(caFile), url)
	if d.cli.json {
		d.cli.printJSON(struct {
			Event string `json:"event"`
			URL   string `json:"url"`
			CA    string `json:"ca"`
			Curl  string `json:"curl"`
		}{"ready", url, caFile, line})
		return
	}
	to := cmp.Or(d.target, "a built-in page that shows your request")
	fmt.Fprintf(d.cli.out, `
  %s  →  %s

  CA    %s
        trust it in your browser, or go past its warning
  try   %s

  Ctrl-C ends it.

`, url, printable(to), caFile, line)
}

// quote makes s one word for a shell.
func quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/._-+,@", r))
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
