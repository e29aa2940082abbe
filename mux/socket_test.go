//go:build linux

package mux

import (
	"crypto/tls"
	"net"
	"syscall"
	"testing"
)

func TestKernelsQueueIsShort(t *testing.T) {
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
	shortenQueue(tls.Client(conn, &tls.Config{InsecureSkipVerify: true}))
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		if n, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, notSentLowat); n != shortQueue || err != nil {
			t.Errorf("TCP_NOTSENT_LOWAT is %d, %v", n, err)
		}
	})
}
