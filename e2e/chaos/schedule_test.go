//go:build linux

package chaos

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// A fault is something that breaks, and what it may cost.
type fault struct {
	name string
	run  func(t *testing.T, f *finding)
	full bool // only in the whole schedule
	idle bool // mostly waits: runs beside the others, but not in the whole schedule
	long bool // so long that it runs beside the others in any case
}

var schedule = []fault{
	{name: "cut, reset, new address", run: breakTheRoad},
	{name: "reset", run: resets},
	{name: "node killed", run: killNode},
	{name: "downloads aborted", run: abort},
	{name: "service stopped", run: stopService},
	{name: "service hangs", run: hang, idle: true},
	{name: "silence", run: silence, idle: true},
	{name: "asleep", run: fallAsleep, long: true},
	{name: "nap", run: nap, idle: true},
	{name: "1 % loss, 100 ms", run: lossyRoad, full: true},
	{name: "1 % loss, resets", run: bulkOverLoss, full: true},
}

// Everything that breaks, each in a world of its own.
func TestSchedule(t *testing.T) {
	needRoot(t)
	for _, beside := range []bool{false, true} {
		t.Run(map[bool]string{false: "one by one", true: "beside"}[beside], func(t *testing.T) {
			t.Parallel()
			for _, f := range schedule {
				if f.full && !*full || (f.long || f.idle && !*full) != beside {
					continue
				}
				t.Run(f.name, func(t *testing.T) {
					if beside {
						t.Parallel()
					}
					found := finding{t: t}
					defer found.report(f.name, time.Now())
					f.run(t, &found)
				})
			}
		})
	}
}

// A finding is what there is to say about a fault, in one line.
type finding struct {
	t     *testing.T
	words []string
}

// say adds a figure without a bar.
func (f *finding) say(format string, args ...any) {
	f.words = append(f.words, fmt.Sprintf(format, args...))
}

// within adds how long something took, and fails if that was longer than bar.
func (f *finding) within(what string, took, bar time.Duration) {
	f.t.Helper()
	f.say("%s %v (bar %v)", what, ms(took), bar)
	if took > bar {
		f.t.Errorf("%s took %v; want at most %v", what, ms(took), bar)
	}
}

// none adds how many of what should not be there are.
func (f *finding) none(what string, n int) {
	f.t.Helper()
	f.say("%d %s (bar 0)", n, what)
	if n != 0 {
		f.t.Errorf("%d %s; want none", n, what)
	}
}

// report prints the line, also when tests pass quietly: make test shows what is
// in the file CULVERT_FIGURES at its end.
func (f *finding) report(name string, began time.Time) {
	verdict := "pass"
	if f.t.Failed() {
		verdict = "FAIL"
	}
	line := fmt.Sprintf("chaos: %s  %-26s %4.0fs  %s\n", verdict, name, time.Since(began).Seconds(), strings.Join(f.words, "; "))
	if *full {
		os.Stdout.WriteString(line)
	} else {
		f.t.Log(line)
	}
	if file := os.Getenv("CULVERT_FIGURES"); file != "" {
		w, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			f.t.Fatal(err)
		}
		defer w.Close()
		w.WriteString(line)
	}
}
