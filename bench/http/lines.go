package main

import (
	"context"
	"fmt"
	"time"
)

// A line is one thing that is measured, of all contestants.
type line struct {
	name string
	tls  bool // visitors speak it
	load load
	rows []row // what is printed of it
}

// A load makes visitors come to a door: for so long, or for all bytes of the bulk.
type load func(ctx context.Context, s *site, d door, long time.Duration) (sample, error)

// A sample is what came of one run. What a load does not measure is zero.
type sample struct {
	rate     float64       // requests or bytes per second
	p50, p99 time.Duration // from a request to the end of its answer
}

// A row is one row of the table.
type row struct {
	what string
	get  func(sample) float64
	show string // a format
	bars []bar
}

// A bar is what Culvert is to reach, as a part of what somebody else does.
type bar struct {
	of     contestantName
	ratio  float64
	atMost bool // rather than at least
}

func (b bar) met(ratio float64) bool {
	if b.atMost {
		return ratio <= b.ratio
	}
	return ratio >= b.ratio
}

func (b bar) String() string {
	sign := "≥"
	if b.atMost {
		sign = "≤"
	}
	return fmt.Sprintf("%s %.1f %s", sign, b.ratio, b.of)
}

func atLeast(ratio float64, of contestantName) bar { return bar{of: of, ratio: ratio} }
func atMost(ratio float64, of contestantName) bar  { return bar{of: of, ratio: ratio, atMost: true} }

// lines are everything there is, in the order of the table.
var lines = []line{
	{"plain 64", false, requests(64), withTimes(atMost(2, nginx), atLeast(0.8, nginx), atLeast(1.5, reverseProxy))},
	{"plain 512", false, requests(512), withTimes(bar{}, atLeast(1, nginx), atLeast(1.5, reverseProxy))},
	{"tls 64", true, requests(64), withTimes(atMost(2, nginx), atLeast(0.9, nginx))},
	{"tls 512", true, requests(512), withTimes(bar{}, atLeast(1.1, nginx))},
	{"h2 64 of 1", true, h2(64, 1), perSecond(atLeast(0.5, nginx))},
	{"h2 8 of 32", true, h2(8, 32), perSecond(atLeast(0.5, nginx))},
	{"plain down", false, download("/bulk"), megabytes(atLeast(1, nginx))},
	{"plain up", false, upload, megabytes(atLeast(1, nginx))},
	{"tls down", true, download("/bulk"), megabytes(atLeast(1, nginx))},
	{"tls up", true, upload, megabytes(atLeast(1, nginx))},
	{"plain down, wide", false, download("/wide"), megabytes()},
	{"tls down, wide", true, download("/wide"), megabytes()},
	{"plain new 64", false, newConnections(64), perSecond(atLeast(0.5, nginx))},
	{"tls new 64", true, newConnections(64), perSecond(atLeast(0.5, nginx))},
}

// notes stand above the table, with the size of the bulk.
const notes = "Medians. Plain and tls: wrk, one thread, HTTP/1.1, a file of 1 KB, on so many connections; " +
	"new: on a new connection for each request. H2: h2load over TLS, connections of so many requests at once. " +
	"Down and up: one connection, %d MB; nginx's buffers for an answer are those it has by itself, " +
	"but for wide, where they are 2 MB."

func perSecond(bars ...bar) []row {
	return []row{{"requests/s", func(s sample) float64 { return s.rate }, "%.0f", bars}}
}

func megabytes(bars ...bar) []row {
	return []row{{"MB/s", func(s sample) float64 { return s.rate / 1e6 }, "%.0f", bars}}
}

// withTimes is perSecond and how long requests took. The bar of the p99 may be
// none.
func withTimes(p99 bar, bars ...bar) []row {
	rows := append(perSecond(bars...),
		row{"p50 ms", func(s sample) float64 { return s.p50.Seconds() * 1e3 }, "%.2f", nil},
		row{"p99 ms", func(s sample) float64 { return s.p99.Seconds() * 1e3 }, "%.2f", nil})
	if p99 != (bar{}) {
		rows[2].bars = []bar{p99}
	}
	return rows
}
