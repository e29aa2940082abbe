// Command wanlink joins two network namespaces by an emulated wide-area road:
// a bottleneck with a queue, a delay and random loss, the same in both
// directions, in user space over two TUN devices. It stands in for tc netem
// on kernels that lack it.
//
// Run it as root. It makes the namespaces, prints "ready" and keeps the road
// open until it is interrupted or terminated; then it removes them.
//
//	wanlink -a near -b far -delay 25ms -loss 0.01 -rate 200
//	ip netns exec near ping 10.99.0.2
//
// SIGUSR1 cuts the road silently (packets vanish, nobody is told), SIGUSR2
// heals it. It reorders nothing, and its delay has no jitter of its own.
package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	addressA = "10.99.0.1"
	addressB = "10.99.0.2"
)

func main() {
	cfg := config{}
	pid := os.Getpid()
	flag.StringVar(&cfg.a, "a", fmt.Sprintf("wan%da", pid), "first namespace, in which we are "+addressA)
	flag.StringVar(&cfg.b, "b", fmt.Sprintf("wan%db", pid), "second namespace, in which we are "+addressB)
	flag.DurationVar(&cfg.delay, "delay", 25*time.Millisecond, "delay, one way")
	flag.Float64Var(&cfg.loss, "loss", 0, "probability that a packet is lost, 0 to 1")
	flag.Float64Var(&cfg.rate, "rate", 0, "rate of the bottleneck in Mbit/s, 0 for no bottleneck")
	flag.IntVar(&cfg.queue, "queue", 1<<20, "bytes that the bottleneck queues before it drops")
	flag.IntVar(&cfg.mtu, "mtu", 1500, "largest packet in bytes")
	flag.Uint64Var(&cfg.seed, "seed", 1, "seed of the losses")
	flag.Parse()
	if err := run(cfg); err != nil {
		fmt.Fprintln(os.Stderr, "wanlink:", err)
		os.Exit(1)
	}
}

// config says where the road is and how it behaves.
type config struct {
	a, b  string
	delay time.Duration
	loss  float64
	rate  float64 // Mbit/s
	queue int     // bytes
	mtu   int     // bytes
	seed  uint64
}

// check finds what can be known to be wrong before anything is made.
func (c config) check() error {
	switch {
	case os.Geteuid() != 0:
		return errors.New("needs root, to make network namespaces")
	case c.a == c.b:
		return errors.New("the namespaces of -a and -b are the same")
	case c.mtu < 576:
		return errors.New("-mtu is less than 576")
	case c.loss < 0 || c.loss > 1:
		return errors.New("-loss is not between 0 and 1")
	case c.rate < 0 || c.delay < 0 || c.queue < c.mtu:
		return errors.New("-rate or -delay is negative, or -queue holds no packet")
	}
	return nil
}

// run keeps the road open until a signal ends it. When it returns, the
// namespaces that it made are gone.
func run(cfg config) (err error) {
	if err := cfg.check(); err != nil {
		return err
	}
	signals := make(chan os.Signal, 8) // before anything is made that must be removed
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)

	a, err := newPlace(cfg.a, addressA, cfg.mtu)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.remove()) }()
	b, err := newPlace(cfg.b, addressB, cfg.mtu)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.remove()) }()

	var cut atomic.Bool
	var wg sync.WaitGroup
	defer wg.Wait()
	defer b.device.Close() // which ends the goroutines
	defer a.device.Close()
	for i, ends := range [][2]place{{a, b}, {b, a}} {
		w := newWay(cfg, ends[0].device, ends[1].device, rand.New(rand.NewPCG(cfg.seed, uint64(i))), &cut)
		wg.Go(w.take)
		wg.Go(w.deliver)
	}

	fmt.Fprintf(os.Stderr, "wanlink: %s is %s, %s is %s\n", cfg.a, addressA, cfg.b, addressB)
	fmt.Println("ready")
	for s := range signals {
		switch s {
		case syscall.SIGUSR1:
			cut.Store(true)
		case syscall.SIGUSR2:
			cut.Store(false)
		default:
			return nil
		}
	}
	return nil
}
