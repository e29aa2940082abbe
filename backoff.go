package culvert

import (
	"errors"
	"math/rand/v2"
	"net"
	"time"
)

const (
	firstWait = 250 * time.Millisecond
	maxWait   = 30 * time.Second

	// unheardWait is the longest wait where nobody answered so much as our
	// first packet. There is no node that had to be spared, and the attempt has
	// taken its time already.
	unheardWait = 2 * time.Second

	// stable is how long a session must last before its end counts as the
	// first failure, and not as one more.
	stable = 10 * time.Second

	// longestWish is as long as a node can make us stay away.
	longestWish = 5 * time.Minute
)

// A backoff says how long to wait before the next attempt: full jitter, a
// random part of a time that doubles from firstWait up to maxWait, so that a
// thousand agents of a node that has restarted do not come back as one.
type backoff struct{ failures int }

// next returns the wait after a session that lasted so long (0 if it did not
// begin). atLeast is the node's wish; jitter comes on top of it, for the same
// wish was told to everybody. longest stands in place of maxWait where it is
// shorter.
func (b *backoff) next(lasted, atLeast, longest time.Duration) time.Duration {
	if lasted >= stable {
		b.failures = 0
	}
	most := min(firstWait<<min(b.failures, 16), maxWait, longest)
	b.failures++
	return min(atLeast, longestWish) + rand.N(most+1)
}

// longestWait is the longest wait after an attempt that ended with err.
func longestWait(err error) time.Duration {
	if e, ok := errors.AsType[*unreachableError](err); ok {
		if late, ok := errors.AsType[net.Error](e.err); ok && late.Timeout() {
			return unheardWait
		}
	}
	return maxWait
}
