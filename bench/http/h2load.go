package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// h2 asks for the page on so many connections of HTTP/2, with so many requests
// at once on each.
func h2(connections, streams int) load {
	return func(ctx context.Context, s *site, d door, long time.Duration) (sample, error) {
		said, err := output(ctx, s.tools.h2load, "-t1", fmt.Sprintf("-c%d", min(connections, s.crowd)), fmt.Sprintf("-m%d", streams),
			fmt.Sprintf("-D%d", int(long.Seconds())), "--connect-to="+d.addr, d.url(pageHost, "/1k"))
		if err != nil {
			return sample{}, err
		}
		return readH2load(said)
	}
}

var (
	h2rate     = regexp.MustCompile(`finished in .*, ([\d.]+) req/s`)
	h2requests = regexp.MustCompile(`requests: .* (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout`)
	h2statuses = regexp.MustCompile(`status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx`)
	h2bytes    = regexp.MustCompile(`\((\d+)\) data`)
)

// readH2load believes h2load only when nothing failed, and all pages came
// whole. What is still under way when the time is up may have a status already.
func readH2load(said string) (sample, error) {
	rate, requests := h2rate.FindStringSubmatch(said), h2requests.FindStringSubmatch(said)
	statuses, size := h2statuses.FindStringSubmatch(said), h2bytes.FindStringSubmatch(said)
	if rate == nil || requests == nil || statuses == nil || size == nil {
		return sample{}, fmt.Errorf("h2load says nothing that we know: %q", said)
	}
	done, succeeded := number(requests[1]), number(requests[2])
	failed := number(requests[3]) + number(requests[4]) + number(requests[5])
	good, bad := number(statuses[1]), number(statuses[2])+number(statuses[3])+number(statuses[4])
	switch {
	case !strings.Contains(said, "Application protocol: h2\n"):
		return sample{}, fmt.Errorf("not HTTP/2: %q", said)
	case done == 0:
		return sample{}, errors.New("not one request")
	case failed > 0 || bad > 0 || succeeded != done || good < done:
		return sample{}, fmt.Errorf("%s; %s", requests[0], statuses[0])
	case number(size[1]) < done*float64(len(page)):
		return sample{}, fmt.Errorf("%.0f requests got %s bytes, which is not a page each", done, size[1])
	}
	return sample{rate: number(rate[1])}, nil
}

// number reads what a regular expression has found to be one.
func number(s string) float64 {
	v, _ := strconv.ParseFloat(s, 64)
	return v
}
