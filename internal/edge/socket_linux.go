package edge

import (
	"net"

	"golang.org/x/sys/unix"
)

// taken returns a function that says how many bytes the other end of c has
// acknowledged; nil if c does not know. A write lags far behind: it returns
// when its last byte is in the kernel's buffer, and while that is full the
// kernel wakes it only for a third of it.
func taken(c net.Conn) func() (uint64, bool) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return func() (bytes uint64, ok bool) {
		raw.Control(func(fd uintptr) {
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				bytes, ok = info.Bytes_acked, true
			}
		})
		return bytes, ok
	}
}

// unsentMost is how much the kernel may hold that it has not sent a visitor:
// otherwise it takes some megabytes for each who does not read, which nobody
// counts, and knows only then that he does not.
const unsentMost = 128 << 10

// boundQueue bounds what waits in the kernel for the other end of c.
func boundQueue(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) {
				unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentMost)
			})
		}
	}
}
