// Command culvert is the agent for people: it gives a service on this machine,
// or one that this machine can reach, a public URL.
//
//	culvert login tunnel.example.com       # once; asks for the token
//	culvert http 3000                      # prints the URL, and serves until it is stopped
//
// The URL is the only thing on stdout, so that a script can take it; everything
// else goes to stderr. With --json stdout carries events instead, one JSON
// object a line, among them "ready" with the URL.
//
// Settings come from the file that login writes, then CULVERT_SERVER,
// CULVERT_TOKEN and CULVERT_CA, then flags. A token is never an argument, for
// every user of a machine can read those. HTTPS_PROXY and NO_PROXY are honoured.
//
// The exit code is 0 when it ended as asked, 1 when it failed, 2 when it was
// not used as it should be, and 3 when the node refused for good: a service
// manager has no reason to start it again.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/culvertd/culvert"
	"github.com/culvertd/culvert/internal/wire"
)

const (
	exitOK = iota
	exitFailed
	exitUsage
	exitRefused
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal ends us at once
	c := &cli{in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.LookupEnv}
	os.Exit(c.run(ctx, os.Args[1:]))
}

// A cli is one invocation: the world, and the flags that all commands share.
type cli struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) (string, bool)

	began bool // a command has its flags and arguments, and runs
	flags settings
	file  string // --token-file
	json  bool
	quiet bool
}

// A usageError is a mistake in how the command was called.
type usageError struct {
	text string
	hint string
}

func (e *usageError) Error() string { return e.text }

// run runs one command and returns the exit code.
func (c *cli) run(ctx context.Context, args []string) int {
	root := &cobra.Command{
		Use:               "culvert",
		Short:             "Give a service that nobody outside can reach a public URL",
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.AddCommand(c.httpCommand(), c.loginCommand(), c.versionCommand())
	root.SetArgs(args)
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[*usageError](err); !ok && !c.began { // the parser's word
		err = &usageError{text: strings.Join(strings.Fields(err.Error()), " "), hint: fmt.Sprintf("%s --help tells how it is used", cmd.CommandPath())}
	}
	code, advice := exitCode(err), hint(err)
	fmt.Fprintf(c.err, "culvert: %s\n", printable(err.Error()))
	if advice != "" {
		fmt.Fprintf(c.err, "hint: %s\n", printable(advice))
	}
	if c.json && c.began {
		c.failed(err, advice, code)
	}
	return code
}

func exitCode(err error) int {
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*culvert.ConfigError](err); ok {
		return exitUsage
	}
	if e, ok := errors.AsType[*culvert.RefusedError](err); ok && e.Final {
		return exitRefused
	}
	return exitFailed
}

// printable is s for a terminal: what came from far away must not command it.
func printable(s string) string { return wire.Text(s, 4096) }

// command returns a command whose run knows that it has begun.
func (c *cli) command(use, short string, args cobra.PositionalArgs, run func(ctx context.Context, args []string) error) *cobra.Command {
	return &cobra.Command{
		Use:                   use,
		Short:                 short,
		Args:                  args,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.began = true
			return run(cmd.Context(), args)
		},
	}
}
