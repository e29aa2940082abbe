package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"slices"
	"time"
)

// errStalled is what a load gives in which nothing moves any more.
var errStalled = errors.New("stalled")

// patience is what a load may spend beyond the time for which it is measured,
// before it counts as stalled.
const patience = 10 * time.Second

// moves waits until count is no longer zero: a far road takes a while.
func moves(ctx context.Context, count func() int64) error {
	for limit := time.Now().Add(patience); count() == 0; {
		if time.Now().After(limit) {
			return errStalled
		}
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// An outcome is what came of measuring one library, once per round.
type outcome[T any] struct {
	library library
	samples []T
	err     error // of the last round that failed
}

// inTurn measures each library once in every round. A library that fails does
// not keep the others from being measured; only ctx does.
func inTurn[T any](ctx context.Context, b *bench, what string, rounds int, libraries []library, measure func(context.Context, library) (T, error)) ([]outcome[T], error) {
	var all []outcome[T]
	for _, l := range libraries {
		if b.only.MatchString(l.name) {
			all = append(all, outcome[T]{library: l})
		}
	}
	for round := range rounds {
		log.Printf("%s: round %d of %d", what, round+1, rounds)
		for i := range all {
			o := &all[i]
			sample, err := measure(ctx, o.library)
			switch {
			case ctx.Err() != nil:
				return nil, context.Cause(ctx)
			case err != nil:
				log.Printf("%s: %s: %v", what, o.library.name, err)
				o.err = err
			default:
				o.samples = append(o.samples, sample)
			}
		}
	}
	return all, nil
}

// median prints the median of what get finds in the samples.
func (o outcome[T]) median(format string, get func(T) float64) string {
	if len(o.samples) == 0 {
		return o.excuse()
	}
	return fmt.Sprintf(format, o.value(get))
}

// excuse stands in a table where there is no figure.
func (o outcome[T]) excuse() string {
	if errors.Is(o.err, errStalled) {
		return "stalls"
	}
	return "fails"
}

// value is the median itself, zero if nothing was measured.
func (o outcome[T]) value(get func(T) float64) float64 {
	if len(o.samples) == 0 {
		return 0
	}
	var values []float64
	for _, s := range o.samples {
		values = append(values, get(s))
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}
