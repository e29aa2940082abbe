//go:build !race

package h1

import (
	"io"
	"testing"
)

// TestNothingAllocated: a message costs no memory once its Reader has begun. Under the
// race detector pools forget at will, so it is built without.
func TestNothingAllocated(t *testing.T) {
	requests := NewReader(&forever{b: []byte(browserHead)})
	answers := NewReader(&forever{b: append([]byte(smallHead), chunked64K()...)})
	var q Request
	var s Response
	got := testing.AllocsPerRun(100, func() {
		if err := requests.ReadRequest(&q); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := answers.ReadResponse(&s, false); err != nil {
				t.Fatal(err)
			}
			if _, err := answers.WriteTo(io.Discard); err != nil {
				t.Fatal(err)
			}
		}
	})
	if got >= 1 { // a collection may empty the pools now and then
		t.Errorf("%v allocations for three messages", got)
	}
}
