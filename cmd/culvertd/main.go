// Command culvertd is the node: it runs on a public machine, meets visitors and
// agents on one port, and joins them.
//
// serve runs a node, dev runs one on this machine together with an agent, and
// the other commands speak with a running node through the socket in its data
// directory. main is a list: flags, signals, build, run, exit code.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func main() {
	c := &cli{out: os.Stdout, err: os.Stderr, env: os.Getenv, again: make(chan struct{}), program: startedAs()}
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		stop()
		<-signals // somebody is impatient
		close(c.again)
	}()
	os.Exit(c.run(ctx, os.Args[1:]))
}

// A cli is one invocation: the world, and the flags that commands share.
type cli struct {
	out, err io.Writer
	env      func(string) string
	again    chan struct{} // closed by the second signal: no more waiting
	program  string        // the path by which it was started

	began bool // a command has its flags and arguments, and runs
	data  string
	json  bool
}

// A usageError is a mistake in how the command was called, or in its settings.
type usageError struct{ text, hint string }

func (e *usageError) Error() string { return e.text }

// run runs one command and returns the exit code.
func (c *cli) run(ctx context.Context, args []string) int {
	root := &cobra.Command{
		Use:               "culvertd",
		Short:             "A node: public names for services behind NAT",
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args:              cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
	}
	root.AddCommand(c.serveCommand(), c.devCommand(), c.tokenCommand(), c.nameCommand(), c.sessionCommand(),
		c.statusCommand(), c.reloadCommand(), c.upgradeCommand(), c.versionCommand())
	root.SetFlagErrorFunc(flagError)
	root.SetArgs(args)
	root.SetOut(c.out)
	root.SetErr(c.err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[*usageError](err); !ok && !c.began { // the parser's word
		err = &usageError{strings.Join(strings.Fields(err.Error()), " "), cmd.CommandPath() + " --help tells how it is used"}
	}
	fmt.Fprintf(c.err, "culvertd: %s\n", printable(err.Error()))
	if advice := hint(err); advice != "" {
		fmt.Fprintf(c.err, "hint: %s\n", printable(advice))
	}
	return exitCode(err)
}

// command gives a command whose run knows that it has begun.
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

// group gives a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return &usageError{cmd.CommandPath() + ": say what to do", "it is one of " + strings.Join(verbs(cmd), ", ")}
		}
		return unknownCommand(cmd, args[0])
	}}
	g.AddCommand(commands...)
	return g
}

func verbs(cmd *cobra.Command) []string {
	var out []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			out = append(out, c.Name())
		}
	}
	return out
}

func unknownCommand(cmd *cobra.Command, got string) error {
	advice := "it is one of " + strings.Join(verbs(cmd), ", ")
	if near := nearest(got, verbs(cmd)); near != "" {
		advice = fmt.Sprintf("did you mean %s %s?", cmd.CommandPath(), near)
	}
	return &usageError{fmt.Sprintf("unknown command %q", strings.TrimSpace(cmd.CommandPath()+" "+got)), advice}
}

// flagError says what is wrong with a flag, and which one was meant.
func flagError(cmd *cobra.Command, err error) error {
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok && e.GetSpecifiedShortnames() == "" {
		var known []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
		advice := cmd.CommandPath() + " --help lists them"
		if near := nearest(e.GetSpecifiedName(), known); near != "" {
			advice = "did you mean --" + near + "?"
		}
		return &usageError{"unknown flag --" + e.GetSpecifiedName(), advice}
	}
	advice := cmd.CommandPath() + " --help tells how it is used"
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok && e.GetFlag().Value.Type() == "duration" {
		if hours := inHours(e.GetValue()); hours != "" {
			advice = "the largest unit is the hour: --" + e.GetFlag().Name + " " + hours
		}
	}
	return &usageError{strings.Join(strings.Fields(err.Error()), " "), advice}
}

// inHours is a number of days, as in 30d, the way durations are written; "" for
// anything else.
func inHours(text string) string {
	number, ok := strings.CutSuffix(text, "d")
	days, err := strconv.ParseUint(number, 10, 16)
	if !ok || err != nil {
		return ""
	}
	return fmt.Sprintf("%dh", days*24)
}

// exactly wants one argument for each name, and says which one is missing.
func exactly(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return fmt.Errorf("%s is missing", names[len(args)])
		}
		return tooMany(args, len(names))
	}
}

func atMost(n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error { return tooMany(args, n) }
}

func tooMany(args []string, n int) error {
	if len(args) > n {
		return fmt.Errorf("%q is one argument too many", args[n])
	}
	return nil
}

// nearest is the one of known that was probably meant; "" if none comes close.
func nearest(got string, known []string) string {
	best, least := "", 1+min(3, max(1, len(got)/3))
	for _, k := range slices.Sorted(slices.Values(known)) {
		if d := distance(got, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// printable is s on one line of a terminal: what came from elsewhere must not
// command it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069':
			return '?'
		}
		return r
	}, strings.TrimSpace(s))
}

// dataFlag adds --data.
func (c *cli) dataFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.data, "data", "", "data `directory` of the node (default "+c.defaultData()+")")
}

// defaultData is where a node keeps what it remembers: systemd's word, or the
// system's place for root, or the user's own.
func (c *cli) defaultData() string {
	if dir := c.env("STATE_DIRECTORY"); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/lib/culvertd"
	}
	if dir := c.env("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "culvertd")
	}
	return filepath.Join(c.env("HOME"), ".local", "state", "culvertd")
}

const brief = 20 * time.Second // for a word with a running node
