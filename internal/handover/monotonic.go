//go:build linux || darwin || freebsd || netbsd || openbsd

package handover

import (
	"time"

	"golang.org/x/sys/unix"
)

// monotonic is the system's CLOCK_MONOTONIC.
func monotonic() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
