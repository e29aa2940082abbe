//go:build unix

package mux

import (
	"net"
	"runtime"
	"syscall"
)

// notSentLowat is the number of TCP_NOTSENT_LOWAT where there is one.
var notSentLowat = map[string]int{"linux": 25, "android": 25, "darwin": 0x201, "ios": 0x201}[runtime.GOOS]

// shortQueue is how much the kernel shall take that it cannot send yet. What
// waits there is out of our hands: nothing small overtakes it. Much less than
// this, and BBR takes the pauses between our writes for an idle application
// and never leaves its start-up.
const shortQueue = 128 << 10

// shortenQueue keeps the kernel's part of the queue short if conn is a TCP
// socket, or something like crypto/tls that says what it is made of. Without
// it everything works, with more delay beside bulk.
func shortenQueue(conn net.Conn) {
	for {
		outer, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = outer.NetConn()
	}
	socket, ok := conn.(*net.TCPConn)
	if !ok || notSentLowat == 0 {
		return
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, notSentLowat, shortQueue)
	})
}
