package mux

import (
	"crypto/tls"
	"io"
	"net"
	"testing"

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
	s.tune(0, tuneFrom-1)
	if got := lowat(); got != unbounded {
		t.Errorf("something small made it %d", got)
	}
	s.tune(0, tuneFrom)
	if got := lowat(); got != s.mark || got < queueMin || got > queueMax {
		t.Errorf("bulk made it %d, mark %d", got, s.mark)
	}
}

func TestQueueMark(t *testing.T) {
	for rate, want := range map[uint64]int{0: queueMin, 25e6: 500_000, 1<<64 - 1: queueMax} {
		if got := queueMark(rate); got != want {
			t.Errorf("at %d a second: %d, want %d", rate, got, want)
		}
	}
}

func TestBulkTunesItsSocket(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a, b := Client(near, Config{}), Server(far, Config{})
	defer b.Close()
	defer a.Close()
	s, r := joined(t, a, b)
	go s.Write(make([]byte, 1<<20))
	if _, err := io.ReadFull(r, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	a.main.socket.raw.Control(func(fd uintptr) {
		if n, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT); n < queueMin || n > queueMax || err != nil {
			t.Errorf("TCP_NOTSENT_LOWAT is %d, %v", n, err)
		}
	})
}
