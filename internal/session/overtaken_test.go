package session

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvertd/culvert/internal/wire"
)

// TestOvertaken: while a session is about to tell its agent that it has a
// tunnel, another one of the same owner opens it, and may let go of it as well.
// The first agent has to hear that it lost the name, and after it has heard that
// it has it: found by docs/models/names.pml.
func TestOvertaken(t *testing.T) {
	for _, letsGo := range []bool{false, true} {
		bubble(t, func(f *fixture) {
			var slept atomic.Bool
			f.PublicURL = func(string) string {
				if !slept.Swap(true) {
					time.Sleep(time.Second)
				}
				return "https://blog.node.test"
			}
			first, second := f.join("ann-1", 1), f.join("ann-2", 2)
			first.say(&wire.Bind{Request: 1, Name: "blog"})
			time.Sleep(100 * time.Millisecond)
			second.bind(7, "blog")
			if letsGo {
				second.say(&wire.Unbind{Request: 7})
			}
			first.want("it has the name", &wire.Bound{Request: 1, Name: "blog", URL: "https://blog.node.test"})
			first.want("and has lost it", &wire.Unbound{Request: 1, Code: wire.Replaced, Reason: "another agent of yours took over"})
			if f.Holds("blog") == letsGo {
				t.Errorf("the node thinks that it holds blog: %t, which it should not", letsGo)
			}
			if letsGo {
				f.wantNobody("nobody has it", "blog")
			} else {
				f.mustVisit("blog", second)
			}
			time.Sleep(swapTime)
			first.bind(2, "blog") // it may ask again
			f.mustVisit("blog", first)
		})
	}
}
