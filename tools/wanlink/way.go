package main

import (
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// held is how many packets a way has under way at most: enough for a
	// gigabit and half a second.
	held = 1 << 16

	// slop is how much too early a packet may arrive. Waking up for each one
	// alone would cost the processor that is being measured; network cards
	// gather packets for as long.
	slop = 100 * time.Microsecond
)

// A packet is under way.
type packet struct {
	due  time.Time
	data []byte
	room []byte // that data is a part of
}

// A way is one direction of the road. Its two goroutines end when the devices
// are closed.
type way struct {
	from, to *os.File
	cut      *atomic.Bool
	losses   *rand.Rand
	loss     float64
	delay    time.Duration
	perByte  float64       // nanoseconds at the bottleneck; zero for no bottleneck
	patience time.Duration // how long a packet may have to wait there
	line     chan *packet
	packets  sync.Pool
}

func newWay(cfg config, from, to *os.File, losses *rand.Rand, cut *atomic.Bool) *way {
	w := &way{
		from:   from,
		to:     to,
		cut:    cut,
		losses: losses,
		loss:   cfg.loss,
		delay:  cfg.delay,
		line:   make(chan *packet, held),
	}
	if cfg.rate > 0 {
		w.perByte = 8e3 / cfg.rate
		w.patience = time.Duration(float64(cfg.queue) * w.perByte)
	}
	w.packets.New = func() any { return &packet{room: make([]byte, cfg.mtu)} }
	return w
}

// take reads packets as they are sent and decides what becomes of each.
func (w *way) take() {
	defer close(w.line)
	var free time.Time // when the bottleneck will have sent all that is queued
	for {
		p := w.packets.Get().(*packet)
		n, err := w.from.Read(p.room)
		if err != nil {
			return // the device is closed
		}
		now := time.Now()
		if free.Before(now) {
			free = now
		}
		if w.cut.Load() || w.losses.Float64() < w.loss || w.perByte > 0 && free.Sub(now) > w.patience {
			w.packets.Put(p)
			continue
		}
		free = free.Add(time.Duration(float64(n) * w.perByte))
		p.data, p.due = p.room[:n], free.Add(w.delay)
		select {
		case w.line <- p:
		default:
			w.packets.Put(p)
		}
	}
}

// deliver hands each packet over when it is due. It has a thread of its own,
// whose sleep is exact: the runtime's timers go by milliseconds, which is a
// burst of twenty packets at 200 Mbit/s.
func (w *way) deliver() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // in nanoseconds; 50 µs without it, which would do
	for p := range w.line {
		for wait := time.Until(p.due); wait > slop; wait = time.Until(p.due) {
			pause := unix.NsecToTimespec(int64(wait))
			unix.Nanosleep(&pause, nil) // cut short by signals: look again
		}
		w.to.Write(p.data) // what the kernel does not take is lost, as on any road
		w.packets.Put(p)
	}
}
