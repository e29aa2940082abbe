//go:build !race

package edge

import (
	"runtime"
	"strings"
	"testing"
)

// TestNothingAllocated: a request over a connection and a stream that exist
// costs no memory. Under the race detector pools forget at will, so it is built
// without.
func TestNothingAllocated(t *testing.T) {
	answers := nginxAnswers + strings.Repeat("x", 1024)
	count := func(n int) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		serveCanned(t, n, browserAsks, answers)
		runtime.ReadMemStats(&after)
		return after.Mallocs - before.Mallocs
	}
	count(1)
	few, many := count(100), count(10_100)
	if many > few+100 { // a collection may empty the pools now and then
		t.Errorf("%d allocations for 10,000 requests", many-few)
	}
}
