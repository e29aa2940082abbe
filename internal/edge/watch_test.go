package edge

import (
	"testing"
	"time"
)

// TestLook: a visitor is slow by what he takes and sends, not by what can be
// seen of it: a full socket buffer hid how much he had taken, who waited for
// leave to send was told that he did not, and a conversation was no upload.
func TestLook(t *testing.T) {
	const (
		tick   = 500 * time.Millisecond
		buffer = 100 << 10 // what the kernel lets a write go on for
	)
	l := limits{rate: 240}
	for _, test := range []struct {
		name  string
		phase phase
		knows bool // how much the visitor has taken
		rate  int  // bytes in a second that he takes, or sends
		wants bool // he is waited for
		sized bool
		want  lateness
		at    time.Duration
	}{
		{"takes enough", phaseAnswering, true, 480, true, false, lateLasting, 0},
		{"takes just enough", phaseAnswering, true, 240, true, false, lateLasting, 0},
		{"takes enough, but who knows", phaseAnswering, false, 480, true, false, lateTaking, slowFor},
		{"takes little", phaseAnswering, true, 120, true, false, lateTaking, 2 * slowFor},
		{"takes nothing", phaseAnswering, true, 0, true, false, lateTaking, slowFor},
		{"is not written to", phaseAnswering, true, 0, false, false, lateLasting, 0},
		{"sends enough", phaseSending, false, 240, true, true, lateLasting, 0},
		{"sends little", phaseSending, false, 120, true, true, lateSending, 2 * slowFor},
		{"sends nothing", phaseSending, false, 0, true, true, lateSending, slowFor},
		{"is not waited for", phaseSending, false, 0, false, true, lateLasting, 0},
		{"never said how much he sends", phaseSending, false, 0, true, false, lateLasting, 0},
		{"sends on behind the answer", phaseAnswering, false, 0, false, true, lateLasting, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			var w watch
			moved := 0
			if test.phase == phaseAnswering {
				w.writing.Store(test.wants)
				w.taken = func() (uint64, bool) { return uint64(moved), test.knows }
			} else {
				w.reading.Store(test.wants)
				w.sized.Store(test.sized)
			}
			w.turnTo(test.phase)
			var got lateness
			now := tick
			w.look(now, tick, &l)
			began := now
			for now < 3*time.Minute && (got == 0 || got == lateLasting) {
				now += tick
				moved += test.rate / 2
				if test.phase == phaseAnswering {
					w.out.Store(uint64(moved / buffer * buffer))
				} else {
					w.in.Store(uint64(moved))
				}
				got = w.look(now, tick, &l)
			}
			if at := now - began; got != test.want || test.at > 0 && (at < test.at-2*tick || at > test.at) {
				t.Errorf("got lateness %d at %v; want %d at %v", got, at, test.want, test.at)
			}
		})
	}
}
