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
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A bench is one run of this program.
type bench struct {
	out       io.Writer
	only      *regexp.Regexp
	rounds    int
	farRounds int
	time      time.Duration
	farTime   time.Duration
	fairTime  time.Duration
	quick     bool
	wanlink   string // the program that makes a wide-area road; "" to do without
}

// A section is a part of what is measured.
type section struct {
	name string
	run  func(*bench, context.Context) error
}

var sections = []section{
	{"speed", (*bench).speed},
	{"far", (*bench).far},
	{"fair", (*bench).fair},
	{"memory", (*bench).memory},
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) (err error) {
	b := bench{out: os.Stdout}
	only := flag.String("only", "", "measure only the libraries that match this regular expression")
	what := flag.String("section", "speed,far,fair,memory", "what to measure")
	wan := flag.Bool("wan", true, "measure over an emulated wide-area road as well, if we are root")
	profile := flag.String("cpuprofile", "", "write a profile to this file")
	flag.IntVar(&b.rounds, "rounds", 5, "how often each speed is measured; medians are printed")
	flag.IntVar(&b.farRounds, "far-rounds", 1, "how often each figure of far and fair is measured")
	flag.DurationVar(&b.time, "time", time.Second, "how long a measurement of speed takes")
	flag.DurationVar(&b.farTime, "far-time", 10*time.Second, "how long a measurement of far takes")
	flag.DurationVar(&b.fairTime, "fair-time", 5*time.Second, "how long a measurement of fair takes")
	flag.BoolVar(&b.quick, "quick", false, "everything once and for 100 ms: does it work? The figures mean nothing")
	flag.Parse()

	if b.only, err = regexp.Compile(*only); err != nil {
		return err
	}
	wanted := strings.Split(*what, ",")
	for _, name := range wanted {
		if !slices.ContainsFunc(sections, func(s section) bool { return s.name == name }) {
			return fmt.Errorf("no section %q", name)
		}
	}
	if b.quick {
		b.rounds, b.farRounds = 1, 1
		b.time, b.farTime, b.fairTime = quickTime, quickTime, quickTime
	}
	if b.rounds < 1 || b.farRounds < 1 {
		return errors.New("less than one round")
	}

	if *wan {
		program, remove, err := buildWanlink(ctx)
		if err != nil {
			log.Printf("the wide-area road is left out: %v", err)
		} else {
			b.wanlink = program
			defer remove()
		}
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return errors.Join(err, f.Close())
		}
		defer func() {
			pprof.StopCPUProfile()
			err = errors.Join(err, f.Close())
		}()
	}

	b.header()
	for _, s := range sections {
		if !slices.Contains(wanted, s.name) {
			continue
		}
		if err := s.run(&b, ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

const quickTime = 100 * time.Millisecond

// wait waits for d, unless ctx ends first.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
