package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/culvertd/culvert/bench/internal/report"
)

// A bench is one run of this program.
type bench struct {
	out      io.Writer
	only     *regexp.Regexp
	rounds   int
	duration time.Duration // of a run that takes its time
	bulk     int64         // bytes, of a run that takes its bytes
	profiles string        // the directory they go to; "" for none
	quick    bool

	failures int // runs that failed
}

// roles are what this program is when it starts itself. Each says "ready" on
// stdout and ends with ctx.
var roles = map[string]func(ctx context.Context, args []string) error{
	"node":    node,
	"agent":   agent,
	"proxy":   proxy,
	"counter": counter,
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		log.SetPrefix(os.Args[1] + ": ")
		ctx, end := context.WithCancel(ctx)
		go obey(os.Stdin, os.Stdout, end)
		err = roles[os.Args[1]](ctx, os.Args[2:])
	} else {
		err = run(ctx)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) (err error) {
	b := bench{out: os.Stdout}
	only := flag.String("only", "", "measure only the lines that match this regular expression")
	flag.IntVar(&b.rounds, "rounds", 5, "how often each figure is measured; medians are printed")
	flag.DurationVar(&b.duration, "duration", 6*time.Second, "how long a measurement of requests takes, in whole seconds")
	flag.Int64Var(&b.bulk, "bulk", 1_000_000_000, "how many bytes a measurement of bulk moves")
	flag.StringVar(&b.profiles, "cpuprofile", "", "write CPU profiles of Culvert's node and agent to this directory")
	flag.BoolVar(&b.quick, "quick", false, "everything once, for a second, by few, and all contestants at once: does it work? The figures mean nothing")
	flag.Parse()

	if b.only, err = regexp.Compile(*only); err != nil {
		return err
	}
	if b.quick {
		b.rounds, b.duration, b.bulk = 1, time.Second, 20_000_000
	}
	switch {
	case flag.NArg() > 0:
		return fmt.Errorf("no argument %q is known", flag.Arg(0))
	case b.rounds < 1 || b.duration < time.Second || b.bulk < 1:
		return errors.New("less than one round, a second or a byte")
	case b.profiles != "":
		if err := os.MkdirAll(b.profiles, 0o777); err != nil {
			return err
		}
	}
	var chosen []line
	for _, l := range lines {
		if b.only.MatchString(l.name) {
			chosen = append(chosen, l)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("no line matches %q", *only)
	}

	tools, err := findTools()
	if err != nil {
		return err
	}
	s, err := b.build(ctx, tools)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.check(ctx); err != nil {
		return err
	}
	return b.measure(ctx, s, chosen)
}

// measure prints the table, also of what was measured before it had to end.
func (b *bench) measure(ctx context.Context, s *site, chosen []line) error {
	fmt.Fprintf(b.out, "## HTTP through the tunnel, and without one\n\n%s. %s.\n", report.Machine(), strings.Join(s.tools.versions(ctx), ", "))
	if b.quick {
		fmt.Fprint(b.out, "\nA quick run: these figures mean nothing.\n")
	}
	var results []result
	for _, l := range chosen {
		r, err := b.contest(ctx, s, l)
		if len(r.samples) > 0 || err == nil {
			results = append(results, r)
		}
		if err != nil {
			b.print(results)
			return err
		}
	}
	b.print(results)
	if b.failures > 0 {
		return fmt.Errorf("%d runs failed, see above", b.failures)
	}
	return nil
}
