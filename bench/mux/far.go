package main

import (
	"context"
	"fmt"
	"time"

	"github.com/culvertd/culvert/bench/internal/report"
)

// far prints what one stream makes of a road with a long way to go, from the
// moment at which it is opened.
func (b *bench) far(ctx context.Context) error {
	for _, k := range []link{narrow, broad} {
		if err := b.farOver(ctx, k); err != nil {
			return err
		}
	}
	return b.overWAN(ctx, 0, b.farOver)
}

func (b *bench) farOver(ctx context.Context, k link) error {
	results, err := inTurn(ctx, b, "far: "+k.name, b.farRounds, k.carries(everything), func(ctx context.Context, l library) (float64, error) {
		return reach(ctx, l, k, b.farTime)
	})
	if err != nil {
		return err
	}
	var alone float64
	for _, r := range results {
		if r.library.single {
			alone = r.value(itself)
		}
	}
	t := report.NewTable("Far: "+k.name, fmt.Sprintf("One stream of bulk, the first %v with its ramp-up.", b.farTime), "", "MB/s", "of TLS alone")
	for _, r := range results {
		part := "–"
		if alone > 0 {
			part = r.median("%.2f", func(rate float64) float64 { return rate / alone })
		}
		t.Add(r.library.name, r.median("%.1f", func(rate float64) float64 { return rate / 1e6 }), part)
	}
	t.Print(b.out)
	return nil
}

func itself(v float64) float64 { return v }

// reach returns the rate at which a new stream of a new session over k moved
// bytes in its first d.
func reach(ctx context.Context, l library, k link, d time.Duration) (rate float64, err error) {
	p, err := l.over(k)
	if err != nil {
		return 0, err
	}
	var m meter
	stop, ended := make(chan struct{}), make(chan error, 1)
	began := time.Now()
	go func() { ended <- bulk(1)(p, &m, stop) }()
	select {
	case err = <-ended:
		ended <- nil
	case <-time.After(d):
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err == nil {
		err = moves(ctx, m.count.Load)
	}
	rate = float64(m.count.Load()) / time.Since(began).Seconds()

	close(stop)
	p.close()
	select {
	case <-ended:
	case <-time.After(patience):
		return 0, errStalled
	}
	return rate, err
}
