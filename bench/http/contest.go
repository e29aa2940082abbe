package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvertd/culvert/bench/internal/report"
)

// A result is what came of a line: the samples of each contestant.
type result struct {
	line    line
	samples map[contestantName][]sample
}

// contest measures a line. A run that fails does not keep the others from being
// measured; only ctx does, and a program that has ended.
func (b *bench) contest(ctx context.Context, s *site, l line) (result, error) {
	r := result{l, make(map[contestantName][]sample)}
	if b.quick {
		return r, b.round(ctx, s, &r, 0, true)
	}
	log.Printf("%s: warming up", l.name)
	for _, c := range s.contestants {
		if _, err := l.run(ctx, s, c, time.Second); ctx.Err() != nil {
			return r, context.Cause(ctx)
		} else if err != nil {
			log.Printf("%s: %s: warming up: %v", l.name, c.name, err)
		}
	}
	for round := range b.rounds {
		if err := b.round(ctx, s, &r, round, false); err != nil {
			return r, err
		}
	}
	return r, nil
}

// round measures each contestant once, beginning with another one each time.
func (b *bench) round(ctx context.Context, s *site, r *result, round int, atOnce bool) error {
	n := len(s.contestants)
	samples, errs := make([]sample, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		i = (i + round) % n
		wg.Go(func() { samples[i], errs[i] = b.once(ctx, s, s.contestants[i], r.line, round) })
		if !atOnce {
			wg.Wait()
		}
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for i, c := range s.contestants {
		if errs[i] != nil {
			b.failures++
			log.Printf("%s: %s: FAILED: %v", r.line.name, c.name, errs[i])
			continue
		}
		r.samples[c.name] = append(r.samples[c.name], samples[i])
		var figures []string
		for _, row := range r.line.rows {
			figures = append(figures, fmt.Sprintf(row.show+" "+row.what, row.get(samples[i])))
		}
		log.Printf("%s: %d of %d: %s: %s", r.line.name, round+1, b.rounds, c.name, strings.Join(figures, ", "))
	}
	return s.ended() // whoever fell over does not stand up again
}

// once is one run.
func (b *bench) once(ctx context.Context, s *site, c contestant, l line, round int) (sample, error) {
	stop, err := s.profile(ctx, c, l, round)
	if err != nil {
		return sample{}, err
	}
	got, err := l.run(ctx, s, c, b.duration)
	if stopped := stop(); err == nil {
		err = stopped
	}
	return got, err
}

// run lets a load go on for two minutes beyond its time, and no longer.
func (l line) run(ctx context.Context, s *site, c contestant, long time.Duration) (sample, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, long+2*time.Minute, errors.New("stuck"))
	defer cancel()
	return l.load(ctx, s, c.door(l.tls), long)
}

// print prints the table, and how many bars were met.
func (b *bench) print(results []result) {
	t := report.NewTable(fmt.Sprintf("HTTP, medians of %d", b.rounds), fmt.Sprintf(notes, b.bulk/1e6),
		"", "", string(ours), string(nginx), string(reverseProxy), "of nginx", "of ReverseProxy", "bar")
	met, all := 0, 0
	for _, r := range results {
		for _, row := range r.line.rows {
			var verdicts []string
			for _, bar := range row.bars {
				ratio, ok := r.ratio(row, bar.of)
				verdict := "**missed**"
				switch {
				case !ok:
					verdict = "no figure"
				case bar.met(ratio):
					verdict = "pass"
					met++
				}
				all++
				verdicts = append(verdicts, bar.String()+": "+verdict)
			}
			t.Add(r.line.name, row.what, r.median(row, ours), r.median(row, nginx), r.median(row, reverseProxy),
				r.showRatio(row, nginx), r.showRatio(row, reverseProxy), strings.Join(verdicts, ", "))
		}
	}
	t.Print(b.out)
	fmt.Fprintf(b.out, "\n%d of %d bars met, %d runs failed.\n", met, all, b.failures)
}

// median prints the median of a row's figure.
func (r result) median(row row, of contestantName) string {
	v, ok := r.value(row, of)
	if !ok {
		return "fails"
	}
	return fmt.Sprintf(row.show, v)
}

func (r result) showRatio(row row, of contestantName) string {
	v, ok := r.ratio(row, of)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%.2f", v)
}

// ratio is Culvert's median as a part of another's.
func (r result) ratio(row row, of contestantName) (float64, bool) {
	ours, ok1 := r.value(row, ours)
	theirs, ok2 := r.value(row, of)
	return ours / theirs, ok1 && ok2 && theirs > 0
}

// value is the median itself; there is none when all runs failed.
func (r result) value(row row, of contestantName) (float64, bool) {
	var values []float64
	for _, s := range r.samples[of] {
		values = append(values, row.get(s))
	}
	if len(values) == 0 {
		return 0, false
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2, true
}
