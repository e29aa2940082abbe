package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
)

// obey does what the harness says to a role, and answers; when it says no more,
// the role ends.
//
//	profile FILE    begin a profile of the CPU
//	enough          write it
func obey(orders io.Reader, answers io.Writer, end func()) {
	defer end()
	var file *os.File
	for s := bufio.NewScanner(orders); s.Scan(); {
		verb, arg, _ := strings.Cut(s.Text(), " ")
		var err error
		switch {
		case verb == "profile" && file == nil:
			if file, err = os.Create(arg); err == nil {
				err = pprof.StartCPUProfile(file)
			}
		case verb == "enough" && file != nil:
			pprof.StopCPUProfile()
			err, file = file.Close(), nil
		default:
			err = fmt.Errorf("BUG: told to %q", s.Text())
		}
		if err != nil {
			log.Print(err)
			return
		}
		fmt.Fprintln(answers, "done")
	}
}

// order tells a role what to do, and waits until it is done.
func (p *process) order(ctx context.Context, order string) error {
	if _, err := fmt.Fprintln(p.orders, order); err != nil {
		return fmt.Errorf("%s: %w: %s", p.name, err, &p.said)
	}
	_, err := p.line(ctx)
	return err
}

// profile begins profiles of Culvert's part in a run, if they are wanted. stop
// ends them.
func (s *site) profile(ctx context.Context, c contestant, l line, round int) (stop func() error, err error) {
	if s.profiles == "" || c.name != ours {
		return func() error { return nil }, nil
	}
	var begun []*process
	stop = func() error {
		var errs []error
		for _, p := range begun {
			errs = append(errs, p.order(context.WithoutCancel(ctx), "enough"))
		}
		return errors.Join(errs...)
	}
	for _, p := range s.profiled {
		name := fmt.Sprintf("%s.%d.%s.pprof", strings.NewReplacer(" ", "-", ",", "").Replace(l.name), round+1, p.name)
		if err := p.order(ctx, "profile "+filepath.Join(s.profiles, name)); err != nil {
			return nil, errors.Join(err, stop())
		}
		begun = append(begun, p)
	}
	return stop, nil
}
