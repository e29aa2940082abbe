package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// script makes wrk look for every name on this machine, whatever its resolver
// thinks of *.localhost, and say what it counted so that programs can read it.
// It changes nothing while requests run.
const script = `
local lookup = wrk.lookup
function wrk.lookup(_, service) return lookup("127.0.0.1", service) end

function done(all, latency)
	local e = all.errors
	io.write(string.format("counted %d %d %d %d %d %d %d %d %d %d\n", all.duration, all.requests, all.bytes,
		latency:percentile(50), latency:percentile(99), e.connect, e.read, e.write, e.status, e.timeout))
end
`

func (s *site) scriptFile() string { return filepath.Join(s.dir, "wrk.lua") }

// requests asks for the page, again and again on so many connections.
func requests(connections int) load { return wrk(connections) }

// newConnections asks for the page on a new connection each time.
func newConnections(connections int) load { return wrk(connections, "-H", "Connection: close") }

func wrk(connections int, more ...string) load {
	return func(ctx context.Context, s *site, d door, long time.Duration) (sample, error) {
		args := append([]string{"-t1", fmt.Sprintf("-c%d", min(connections, s.crowd)), fmt.Sprintf("-d%ds", int(long.Seconds())),
			"--latency", "--timeout", "10s", "-s", s.scriptFile()}, more...)
		said, err := output(ctx, s.tools.wrk, append(args, d.url(pageHost, "/1k"))...)
		if err != nil {
			return sample{}, err
		}
		return readWrk(said)
	}
}

// readWrk believes wrk only when nothing failed, and all pages came whole.
func readWrk(said string) (sample, error) {
	_, counted, found := strings.Cut(said, "counted ")
	var took, requests, size, p50, p99, connect, read, write, status, timeout int64
	_, err := fmt.Sscan(counted, &took, &requests, &size, &p50, &p99, &connect, &read, &write, &status, &timeout)
	switch {
	case !found || err != nil:
		return sample{}, fmt.Errorf("wrk says nothing that we know: %q", said)
	case connect+read+write+status+timeout > 0:
		return sample{}, fmt.Errorf("of %d requests: %d connections failed, %d failed to read, %d to write, %d were not answered with 200, %d too late",
			requests, connect, read, write, status, timeout)
	case requests == 0 || took == 0:
		return sample{}, fmt.Errorf("not one request in %d µs", took)
	case size < requests*int64(len(page)):
		return sample{}, fmt.Errorf("%d requests got %d bytes, which is not a page each", requests, size)
	}
	return sample{
		rate: float64(requests) / (float64(took) / 1e6),
		p50:  time.Duration(p50) * time.Microsecond,
		p99:  time.Duration(p99) * time.Microsecond,
	}, nil
}
