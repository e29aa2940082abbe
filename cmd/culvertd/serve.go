package main

import (
	"cmp"
	"context"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/culvertd/culvert/internal/server"
)

func (c *cli) serveCommand() *cobra.Command {
	var flags settings
	var file, level string
	cmd := c.command("serve --domain DOMAIN [flags]", "Run a node", atMost(0), nil)
	f := cmd.Flags()
	flags.add(f)
	f.StringVar(&file, "config", "", "YAML `file` with the same names as these flags, which stand above it")
	c.dataFlag(cmd)
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
		return c.serve(cmd.Context(), cfg, func() (server.Config, error) { return c.serveConfig(flags, file, cmd.Flags()) })
	}
	return cmd
}

// add makes flags of all settings but data, which other commands have as well.
func (s *settings) add(f *pflag.FlagSet) {
	preset := defaults()
	f.StringVar(&s.domain, "domain", "", "the node's own `host`; tunnels are names under it")
	f.StringVar(&s.listen, "listen", preset.listen, "`address` for visitors and agents")
	f.StringVar(&s.http, "http", preset.http, "`address` that only redirects to https; empty for none")
	f.StringVar(&s.tls, "tls", preset.tls, "certificates: internal (a CA of our own, under DATA/ca), files, or off (plain HTTP behind a front end)")
	f.StringVar(&s.cert, "cert", "", "certificate chain in a PEM `file`, for --tls files")
	f.StringVar(&s.key, "key", "", "its key in a PEM `file`")
	f.StringSliceVar(&s.trustedProxy, "trusted-proxy", nil, "`CIDR` of the front end whose X-Forwarded headers are believed, for --tls off")
	f.DurationVar(&s.drain, "drain", preset.drain, "how long visitors in flight may take when the node stops; 0 for no time at all")
	f.DurationVar(&s.resume, "resume", preset.resume, "how long a session that has lost its connection is kept for its agent, with its streams; 0 for not at all")
	f.DurationVar(&s.hold, "hold", preset.hold, "how long visitors wait for an agent that is expected back, in place of a 503 at once; 0 for not at all")
	f.IntVar(&s.holdMax, "hold-max", preset.holdMax, "how many `visitors` of a name may wait so; 0 for none")
	f.DurationVar(&s.headTimeout, "head-timeout", preset.headTimeout, "how long a visitor may take for the head of a request")
	f.DurationVar(&s.serviceTimeout, "service-timeout", preset.serviceTimeout, "how long a service may take until its answer begins, unless its agent says otherwise; 0 for no limit")
	f.DurationVar(&s.silence, "silence", preset.silence, "how long visitor and service may both be silent in the middle of a request, unless the agent says otherwise; 0 for no limit")
	f.DurationVar(&s.idleTimeout, "idle-timeout", preset.idleTimeout, "how long a visitor's connection may wait for its next request; 0 for no limit")
	f.IntVar(&s.minRate, "min-rate", preset.minRate, "`bytes` per second that a visitor has to send or take, so as not to be cut off after 25s; 0 for none")
	f.DurationVar(&s.hsts, "hsts", preset.hsts, "tell browsers to come by https only for that long, as in 8760h, in place of what services say; 0 for not at all")
	f.IntVar(&s.maxVisitors, "max-visitors", preset.maxVisitors, "how many `connections` of visitors there may be")
}

// serveConfig lays the flags that were given over the file, and the file over
// the defaults.
func (c *cli) serveConfig(flags settings, file string, given *pflag.FlagSet) (server.Config, error) {
	s := defaults()
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
			*into = *over[name].(*[]string)
		case *time.Duration:
			*into = *over[name].(*time.Duration)
		case *int:
			*into = *over[name].(*int)
		}
	}
	s.data = cmp.Or(s.data, c.defaultData())
	if server.TLS(s.tls) == server.TLSOff && s.http == ":80" && !given.Changed("http") {
		s.http = "" // the front end has that port
	}
	return s.config()
}

// serve runs a node until ctx ends, it fails, or another has taken its place.
// Again reads its settings anew.
func (c *cli) serve(ctx context.Context, cfg server.Config, again func() (server.Config, error)) error {
	ended := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(ended)
	s := &service{cli: c, log: cfg.Log, again: again, ended: ended, wg: &wg}
	before, err := s.inherit(ctx, &cfg)
	if err != nil {
		return err
	}
	cfg.Software = "culvertd " + version()
	cfg.Reload, cfg.Upgrade = s.reload, s.upgrade
	cfg.OnReady = func(r server.Ready) {
		if r.CAFile != "" {
			cfg.Log.Info("trust this CA on agents and visitors", "file", r.CAFile)
		}
		if !r.Tokens {
			cfg.Log.Warn("no token, no tunnel: nobody is admitted until there is one",
				"hint", "culvertd token create --owner NAME --data "+cfg.Data)
		}
		wg.Go(func() { s.begin(ctx, before) })
	}
	if before != nil {
		defer before.Close()
	}
	s.cfg = cfg
	if s.node, err = server.New(cfg); err != nil {
		return err
	}
	wg.Go(func() { s.obey(ctx) })
	wg.Go(func() {
		select {
		case <-c.again:
			s.node.Close()
		case <-ended:
		}
	})
	defer context.AfterFunc(ctx, func() { s.notify("STOPPING=1", "STATUS=waiting for visitors") })()
	return s.node.Run(ctx)
}

// logger writes to stderr.
func (c *cli) logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil || strings.ContainsAny(level, "+-") {
		return nil, &usageError{"unknown log level " + level, "it is one of debug, info, warn, error"}
	}
	opts := &slog.HandlerOptions{Level: l}
	var h slog.Handler = slog.NewTextHandler(c.err, opts)
	if c.json {
		h = slog.NewJSONHandler(c.err, opts)
	}
	// What the standard library logs by itself, strangers can cause.
	log.SetFlags(0)
	log.SetOutput(slog.NewLogLogger(h, slog.LevelDebug).Writer())
	return slog.New(h), nil
}
