package netwatch

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestAsleep: what the clocks say of the time between two looks.
func TestAsleep(t *testing.T) {
	for name, tt := range map[string]struct {
		wall, steady time.Duration
		want         bool
	}{
		"a second":                 {beat, beat, false},
		"a busy machine":           {3 * time.Second, 3 * time.Second, false},
		"suspended":                {10 * time.Minute, beat, true},
		"frozen":                   {10 * time.Minute, 10 * time.Minute, true},
		"the clock was set back":   {-time.Hour, beat, false},
		"the clock was set right":  {beat + time.Second, beat, false},
		"the clock was set onward": {time.Hour, beat, true}, // a needless look, no more
	} {
		if got := asleep(tt.wall, tt.steady); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// TestWoke: a laptop that slept is told so within a second, once.
func TestWoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slept atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		heard := make(chan News, 10)
		done := make(chan struct{})
		go func() {
			defer close(done)
			w := Watcher{ClocksOnly: true, Wall: func() time.Time { return time.Now().Add(time.Duration(slept.Load())) }}
			w.Watch(ctx, func(n News) { heard <- n })
		}()
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(heard) != 0 {
			t.Errorf("it was told %v, and nothing had happened", <-heard)
		}
		slept.Store(int64(10 * time.Minute))
		time.Sleep(beat)
		synctest.Wait()
		if len(heard) != 1 || <-heard != Woke {
			t.Error("it was not told once that it woke")
		}
		time.Sleep(time.Hour)
		cancel()
		<-done
		if len(heard) != 0 {
			t.Errorf("it was told %v a second time", <-heard)
		}
	})
}

// TestStops: with the context, also where the kernel has nothing to say.
func TestStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Watcher{}.Watch(ctx, func(News) {})
	}()
	cancel()
	<-done
}
