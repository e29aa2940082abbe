package mux

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestKernelsQueueFollowsItsRate(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var s socket
	s.init(tls.Client(conn, &tls.Config{InsecureSkipVerify: true}))
	lowat := func() (n int) {
		s.raw.Control(func(fd uintptr) {
			if n, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT); err != nil {
				t.Fatal(err)
			}
		})
		return n
	}
	unbounded := lowat()
	s.tune(time.Hour, tuneFrom-1)
	if got := lowat(); got != unbounded {
		t.Errorf("something small made it %d", got)
	}
	s.tune(time.Hour, tuneFrom)
	if got := lowat(); got != s.mark || got < queueMin || got > queueMax {
		t.Errorf("bulk made it %d, mark %d", got, s.mark)
	}
}

func TestQueueMark(t *testing.T) {
	for rate, want := range map[uint64]int{0: queueMin, 25e6: 25e6 * int(queueTime) / int(time.Second), 1<<64 - 1: queueMax} {
		if got := queueMark(rate); got != want {
			t.Errorf("at %d a second: %d, want %d", rate, got, want)
		}
	}
}
