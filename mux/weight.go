package mux

import "time"

// weight tells streams that move bulk from those that exchange a little now
// and then: a leaky bucket of the bytes that a stream has sent lately.
type weight struct {
	level int
	at    time.Time // when level was right
}

const (
	// heavyLevel is how much a stream may send at once and still go first.
	heavyLevel = 64 << 10

	// drainRate is how fast that is forgotten, in bytes per second: a stream
	// that sends less than this on average stays light for ever.
	drainRate = 128 << 10

	// maxLevel bounds how long bulk is remembered: for half a second.
	maxLevel = 2 * heavyLevel
)

// heavy says whether the stream has sent much lately.
func (w *weight) heavy() bool {
	if w.level < heavyLevel/2 {
		return false // most streams, most of the time: no arithmetic
	}
	now := time.Now()
	w.level = int(max(0, float64(w.level)-now.Sub(w.at).Seconds()*drainRate))
	w.at = now
	return w.level >= heavyLevel
}

func (w *weight) add(n int) {
	if w.level < heavyLevel/2 && w.level+n >= heavyLevel/2 {
		w.at = time.Now() // from here on time counts
	}
	w.level = min(maxLevel, w.level+n)
}
