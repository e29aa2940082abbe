package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvertd/culvert"
)

func (c *cli) httpCommand() *cobra.Command {
	var name, takeover string
	var s serviceFlags
	var cmd *cobra.Command
	cmd = c.command("http TARGET [flags]", "Give a web service a public URL", exactly("TARGET"), func(ctx context.Context, args []string) error {
		if name == "" && cmd.Flags().Changed("name") { // an unset variable of a script, not a wish for any name
			return &usageError{"--name is empty", "pass --name NAME, or leave it out for a random name"}
		}
		tunnel, service, err := s.read(args[0], cmd.Flags().Changed)
		if err != nil {
			return err
		}
		tunnel.Name = name
		if tunnel.Takeover, err = readTakeover(takeover); err != nil {
			return err
		}
		return c.http(ctx, tunnel, service)
	})
	cmd.Long = `Give a web service a public URL, until it is stopped.

TARGET is where the service is:
  3000                   port 3000 of this machine
  host:port              a service elsewhere that this machine can reach
  http://host[:port]     the same
  https://host[:port]    a service with TLS, whose certificate is verified
  unix:/path             a socket in the file system

The URL is the only thing on stdout. A service that is not there (yet) costs its
visitors an error, and the tunnel nothing.`
	cmd.Flags().StringVar(&name, "name", "", "the `name` to be had; it stays yours (default: a random one)")
	cmd.Flags().StringVar(&takeover, "takeover", "replace", "if another culvert of yours has the name, `replace|refuse|pool`: take it, leave it (and keep it oneself), or share its visitors if both say so")
	s.add(cmd.Flags())
	c.connectionFlags(cmd)
	cmd.Flags().StringVar(&c.flags.Server, "server", "", "the node, as `host[:port]` (CULVERT_SERVER; default: the one of culvert login)")
	cmd.Flags().BoolVar(&c.json, "json", false, "events on stdout, one JSON object a line, in place of the URL")
	cmd.Flags().BoolVarP(&c.quiet, "quiet", "q", false, "nothing on stderr but why it failed")
	return cmd
}

// grace is how long visitors in flight may take to finish when we are asked to
// stop. Whoever asks twice does not wait.
const grace = 10 * time.Second

func readTakeover(text string) (culvert.Takeover, error) {
	for _, t := range []culvert.Takeover{culvert.TakeoverReplace, culvert.TakeoverRefuse, culvert.TakeoverPool} {
		if t.String() == text {
			return t, nil
		}
	}
	return 0, &usageError{fmt.Sprintf("--takeover %q is none", text), "it is one of replace, refuse and pool"}
}

// http is all of "culvert http". It goes in by the front door: whatever it can
// do, an importer of the package can do as well.
func (c *cli) http(ctx context.Context, tunnel culvert.Tunnel, service culvert.Service) error {
	agent, err := c.agent()
	if err != nil {
		return err
	}
	teller := &teller{cli: c, target: service.Target, host: tunnel.HostHeader}
	agent.OnEvent = teller.tell
	defer agent.Close()

	ln, err := agent.Listen(ctx, tunnel)
	if err == nil {
		if !c.json {
			fmt.Fprintln(c.out, ln.URL())
		}
		err = forward(ctx, agent, ln, service, teller)
	}
	if ctx.Err() != nil { // we were asked to stop
		return nil
	}
	return err
}

// forward serves ln until it ends. When ctx does, the tunnel is given up at
// once, and visitors in flight have a little more time.
func forward(ctx context.Context, agent *culvert.Agent, ln net.Listener, service culvert.Service, teller *teller) error {
	visits, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	left := make(chan struct{})
	stay := context.AfterFunc(ctx, func() {
		defer close(left)
		defer time.AfterFunc(time.Second, teller.waiting).Stop()
		ctx, cancel := context.WithTimeout(visits, grace)
		defer cancel()
		agent.Shutdown(ctx)
	})
	err := culvert.Forward(visits, ln, service)
	if !stay() {
		<-left // what Forward has passed on may still be on its way
	}
	return err
}
