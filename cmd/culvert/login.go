package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// loginTime is how long a node may take to say whether it knows a token.
const loginTime = 20 * time.Second

func (c *cli) loginCommand() *cobra.Command {
	cmd := c.command("login SERVER [flags]", "Store a node and a token, after trying them", exactly("SERVER"), func(ctx context.Context, args []string) error {
		return c.login(ctx, args[0])
	})
	cmd.Long = `Store a node and a token for the other commands, after trying them.

The token is asked for, or read from the first line of stdin or of --token-file.
The operator of the node makes one with: culvertd token create --owner NAME`
	c.connectionFlags(cmd)
	return cmd
}

// login stores only what has worked.
func (c *cli) login(ctx context.Context, server string) error {
	path, err := settingsPath()
	if err != nil {
		return err
	}
	s := settings{Server: server, CA: c.flags.CA}
	if s.CA == "" {
		s.CA = c.getenv("CULVERT_CA")
	}
	if s.CA != "" {
		if s.CA, err = filepath.Abs(s.CA); err != nil {
			return err
		}
	}
	if s.Token, err = c.askToken(ctx, server); err != nil {
		return err
	}
	if err := checkToken(s.Token); err != nil {
		return err
	}
	agent, err := c.agentFor(s)
	if err != nil {
		return err
	}
	defer agent.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, loginTime, errors.New("no session in time"))
	defer cancel()
	if err := agent.Connect(ctx); err != nil {
		return err
	}
	if err := s.write(path); err != nil {
		return fmt.Errorf("store the token: %w", err)
	}
	fmt.Fprintf(c.err, "culvert: logged in to %s, stored in %s\n", server, path)
	return nil
}

// askToken gets the token from a file, a person or a pipe.
func (c *cli) askToken(ctx context.Context, server string) (token string, err error) {
	f, isFile := c.in.(*os.File)
	switch {
	case c.file != "":
		token, err = tokenFile(c.file)
	case isFile && term.IsTerminal(int(f.Fd())):
		fmt.Fprintf(c.err, "token for %s: ", server)
		var text []byte
		text, err = readPassword(ctx, int(f.Fd()))
		fmt.Fprintln(c.err)
		token = firstLine(text)
	default:
		var text []byte
		text, err = io.ReadAll(io.LimitReader(c.in, maxFile))
		token = firstLine(text)
	}
	if err == nil && token == "" {
		err = &usageError{"no token", "type it when asked, pipe it in, or pass --token-file FILE"}
	}
	return token, err
}

// readPassword is term.ReadPassword until ctx ends, with the terminal as it was
// before. Nothing can end the read itself: it waits for a line, or for the end
// of the program, which is near.
func readPassword(ctx context.Context, fd int) ([]byte, error) {
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	type result struct {
		text []byte
		err  error
	}
	read := make(chan result, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		read <- result{text, err}
	}()
	select {
	case r := <-read:
		return r.text, r.err
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), term.Restore(fd, before))
	}
}
