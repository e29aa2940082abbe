package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvertd/culvert/internal/admin"
	"github.com/culvertd/culvert/internal/session"
)

// ask gives a command that speaks with the running node.
func (c *cli) ask(use, short string, args cobra.PositionalArgs, run func(ctx context.Context, node *admin.Client, args []string) error) *cobra.Command {
	cmd := c.command(use, short, args, func(ctx context.Context, args []string) error {
		ctx, cancel := context.WithTimeout(ctx, brief)
		defer cancel()
		node, err := admin.Dial(cmp.Or(c.data, c.defaultData()))
		if err != nil {
			return err
		}
		defer node.Close()
		return run(ctx, node, args)
	})
	c.dataFlag(cmd)
	return cmd
}

// needing wants a flag beside the arguments, and misses it before anybody is
// asked anything.
func needing(flag *string, missing *usageError, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := exactly(names...)(cmd, args); err != nil {
			return err
		}
		if *flag == "" {
			return missing
		}
		return nil
	}
}

// list is ask for a command that prints a table, or its rows as JSON.
func (c *cli) list(use, short string, run func(ctx context.Context, node *admin.Client) (rows any, table []string, err error)) *cobra.Command {
	cmd := c.ask(use, short, atMost(0), func(ctx context.Context, node *admin.Client, _ []string) error {
		rows, table, err := run(ctx, node)
		if err != nil {
			return err
		}
		if c.json {
			return c.printJSON(rows)
		}
		w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
		for _, line := range table {
			fmt.Fprintln(w, line)
		}
		return w.Flush()
	})
	c.jsonFlag(cmd)
	return cmd
}

func (c *cli) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.json, "json", false, "print JSON")
}

func (c *cli) printJSON(v any) error {
	e := json.NewEncoder(c.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// row is one line of a table. What agents and operators chose is made safe.
func row(columns ...string) string {
	for i := range columns {
		columns[i] = cmp.Or(printable(columns[i]), "-")
	}
	return strings.Join(columns, "\t")
}

func (c *cli) tokenCommand() *cobra.Command {
	var ask admin.NewToken
	create := c.ask("create --owner OWNER [flags]", "Make a token, and print it this once",
		needing(&ask.Owner, &usageError{"--owner is missing: say for whom the token speaks", "for example culvertd token create --owner ann"}),
		func(ctx context.Context, node *admin.Client, _ []string) error {
			made, err := node.CreateToken(ctx, ask)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(made)
			}
			_, err = fmt.Fprintln(c.out, made.Secret)
			return err
		})
	f := create.Flags()
	f.StringVar(&ask.Owner, "owner", "", "for `whom` the token speaks; names belong to owners")
	f.StringSliceVar(&ask.Names, "names", nil, "`patterns` of the names it may claim, as in blog,pi-* (default any)")
	f.DurationVar(&ask.Expires, "expires", 0, "a `duration` for which it is valid, as in 720h (default for ever)")
	f.StringVar(&ask.Note, "note", "", "a `text` for yourself")
	c.jsonFlag(create)

	list := c.list("list", "List tokens", func(ctx context.Context, node *admin.Client) (any, []string, error) {
		tokens, err := node.Tokens(ctx)
		table := []string{row("ID", "OWNER", "NAMES", "CREATED", "EXPIRES", "NOTE")}
		for _, t := range tokens {
			table = append(table, row(t.ID, t.Owner, cmp.Or(strings.Join(t.Names, ","), "any"), day(t.Created), expiry(t.Expires), t.Note))
		}
		return tokens, table, err
	})
	revoke := c.ask("revoke ID", "Forget a token, and end its sessions", exactly("ID"),
		func(ctx context.Context, node *admin.Client, args []string) error {
			return node.RevokeToken(ctx, args[0])
		})
	return group("token", "Who may have tunnels", create, list, revoke)
}

func (c *cli) nameCommand() *cobra.Command {
	list := c.list("list", "List the names that are owned", func(ctx context.Context, node *admin.Client) (any, []string, error) {
		names, err := node.Names(ctx)
		table := []string{row("NAME", "OWNER", "SINCE")}
		for _, n := range names {
			table = append(table, row(n.Name, n.Owner, day(n.Created)))
		}
		return names, table, err
	})
	var owner string
	reserve := c.ask("reserve NAME --owner OWNER", "Keep a name for an owner",
		needing(&owner, &usageError{"--owner is missing: say whose the name is to be", "for example culvertd name reserve blog --owner ann"}, "NAME"),
		func(ctx context.Context, node *admin.Client, args []string) error {
			_, err := node.ReserveName(ctx, owner, args[0])
			return err
		})
	reserve.Flags().StringVar(&owner, "owner", "", "`whose` the name is to be")
	release := c.ask("release NAME", "Make a name free for anybody", exactly("NAME"),
		func(ctx context.Context, node *admin.Client, args []string) error {
			return node.ReleaseName(ctx, args[0])
		})
	return group("name", "Which names belong to whom", list, reserve, release)
}

func (c *cli) sessionCommand() *cobra.Command {
	list := c.list("list", "List the agents that are here", func(ctx context.Context, node *admin.Client) (any, []string, error) {
		sessions, err := node.Sessions(ctx)
		table := []string{row("ID", "OWNER", "TUNNELS", "FROM", "SINCE", "RTT", "STREAMS", "LANES", "STATE")}
		for _, s := range sessions {
			rtt := ""
			if s.RTT > 0 {
				rtt = s.RTT.Round(100 * time.Microsecond).String()
			}
			table = append(table, row(s.ID, s.Owner, strings.Join(s.Tunnels, ","), s.Remote, day(s.Since), rtt, fmt.Sprint(s.Streams), fmt.Sprint(s.Lanes), state(s)))
		}
		return sessions, table, err
	})
	kick := c.ask("kick ID", "End a session; its agent will be back", exactly("ID"),
		func(ctx context.Context, node *admin.Client, args []string) error {
			return node.KickSession(ctx, args[0])
		})
	return group("session", "Which agents are here", list, kick)
}

// state says how a session is, and for how long it has been lost if it is.
func state(s session.Info) string {
	if s.Lost.IsZero() {
		return string(s.State)
	}
	return fmt.Sprintf("%s for %v", s.State, time.Since(s.Lost).Round(time.Second))
}

func (c *cli) statusCommand() *cobra.Command {
	return c.list("status", "Say how the node is", func(ctx context.Context, node *admin.Client) (any, []string, error) {
		s, err := node.Status(ctx)
		return s, []string{
			row("domain", s.Domain), row("listen", s.Listen), row("tls", s.TLS), row("software", s.Software), row("process", fmt.Sprint(s.PID)), row("since", day(s.Since)),
			row("tokens", fmt.Sprint(s.Tokens)), row("names", fmt.Sprint(s.Names)), row("sessions", fmt.Sprint(s.Sessions)),
		}, err
	})
}

func (c *cli) reloadCommand() *cobra.Command {
	cmd := c.ask("reload", "Have the node read its configuration again; all of it counts, or nothing", atMost(0), func(ctx context.Context, node *admin.Client, _ []string) error {
		changed, err := node.Reload(ctx)
		switch {
		case err != nil:
			return err
		case c.json:
			return c.printJSON(admin.Reloaded{Changed: changed})
		case len(changed) == 0:
			_, err = fmt.Fprintln(c.out, "reloaded; no setting has changed")
		default:
			_, err = fmt.Fprintln(c.out, "reloaded; changed: "+strings.Join(changed, ", "))
		}
		return err
	})
	c.jsonFlag(cmd)
	return cmd
}

func (c *cli) upgradeCommand() *cobra.Command {
	cmd := c.command("upgrade", "Have the program that is installed now take the node's place, with nobody noticing", atMost(0), func(ctx context.Context, _ []string) error {
		node, err := admin.Dial(cmp.Or(c.data, c.defaultData()))
		if err != nil {
			return err
		}
		defer node.Close()
		return node.Upgrade(ctx, func(line string) { fmt.Fprintln(c.out, printable(line)) })
	})
	c.dataFlag(cmd)
	return cmd
}

func day(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04")
}

func expiry(t time.Time) string {
	switch {
	case t.IsZero():
		return "never"
	case time.Now().After(t):
		return "expired " + day(t)
	}
	return day(t)
}
