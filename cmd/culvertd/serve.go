package main

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/culvertd/culvert/internal/server"
)

const defaultDrain = 30 * time.Second

func (c *cli) serveCommand() *cobra.Command {
	var flags settings
	var file, level string
	cmd := c.command("serve --domain DOMAIN [flags]", "Run a node", atMost(0), nil)
	f := cmd.Flags()
	f.StringVar(&flags.domain, "domain", "", "the node's own `host`; tunnels are names under it")
	f.StringVar(&file, "config", "", "YAML `file` with the same names as these flags, which stand above it")
	f.StringVar(&flags.listen, "listen", ":443", "`address` for visitors and agents")
	f.StringVar(&flags.http, "http", ":80", "`address` that only redirects to https; empty for none")
	c.dataFlag(cmd)
	f.StringVar(&flags.tls, "tls", "internal", "certificates: internal (a CA of our own, under DATA/ca), files, or off (plain HTTP behind a front end)")
	f.StringVar(&flags.cert, "cert", "", "certificate chain in a PEM `file`, for --tls files")
	f.StringVar(&flags.key, "key", "", "its key in a PEM `file`")
	f.StringSliceVar(&flags.trustedProxy, "trusted-proxy", nil, "`CIDR` of the front end whose X-Forwarded headers are believed, for --tls off")
	f.DurationVar(&flags.drain, "drain", defaultDrain, "how long visitors in flight may take when the node stops; 0 for no time at all")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	f.BoolVar(&c.json, "json", false, "write the log as JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c.began = true
		flags.data = c.data
		cfg, err := c.serveConfig(flags, file, cmd.Flags())
		if err != nil {
			return err
		}
		if cfg.Log, err = c.logger(level); err != nil {
			return err
		}
		return c.serve(cmd.Context(), cfg)
	}
	return cmd
}

// serveConfig lays the flags that were given over the file, and the file over
// the defaults.
func (c *cli) serveConfig(flags settings, file string, given *pflag.FlagSet) (server.Config, error) {
	s := settings{listen: ":443", http: ":80", drain: defaultDrain}
	if file != "" {
		if err := s.load(file); err != nil {
			return server.Config{}, err
		}
	}
	over := flags.fields()
	for name, into := range s.fields() {
		if !given.Changed(name) {
			continue
		}
		switch into := into.(type) {
		case *string:
			*into = *over[name].(*string)
		case *[]string:
			*into = flags.trustedProxy
		default:
			s.drain = flags.drain
		}
	}
	s.data = cmp.Or(s.data, c.defaultData())
	if server.TLS(s.tls) == server.TLSOff && s.http == ":80" && !given.Changed("http") {
		s.http = "" // the front end has that port
	}
	return s.config()
}

// serve runs a node until ctx ends or it fails.
func (c *cli) serve(ctx context.Context, cfg server.Config) error {
	cfg.Software = "culvertd " + version()
	cfg.OnReady = func(r server.Ready) {
		if r.CAFile != "" {
			cfg.Log.Info("trust this CA on agents and visitors", "file", r.CAFile)
		}
		if !r.Tokens {
			cfg.Log.Warn("no token, no tunnel: nobody is admitted until there is one",
				"hint", "culvertd token create --owner NAME --data "+cfg.Data)
		}
		c.notify("READY=1")
	}
	node, err := server.New(cfg)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { c.notify("STOPPING=1") })()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-c.again:
			node.Close()
		case <-ended:
		}
	}()
	return node.Run(ctx)
}

// notify tells systemd, if it asked to be told (sd_notify(3)).
func (c *cli) notify(state string) {
	path := c.env("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if rest, ok := strings.CutPrefix(path, "@"); ok {
		path = "\x00" + rest
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return // it will notice
	}
	defer conn.Close()
	conn.Write([]byte(state))
}

// logger writes to stderr.
func (c *cli) logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil || strings.ContainsAny(level, "+-") {
		return nil, &usageError{"unknown log level " + level, "it is one of debug, info, warn, error"}
	}
	opts := &slog.HandlerOptions{Level: l}
	if c.json {
		return slog.New(slog.NewJSONHandler(c.err, opts)), nil
	}
	return slog.New(slog.NewTextHandler(c.err, opts)), nil
}
