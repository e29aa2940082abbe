package mux

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A socket keeps the kernel's part of the queue short. What the kernel has
// taken and cannot send yet is out of our hands: nothing small overtakes it
// any more. TCP_NOTSENT_LOWAT bounds it. It belongs to the writer.
//
// A bound in bytes does not do. BBR takes a queue that runs dry for an
// application without anything to send, learns nothing from it about the road,
// and never leaves its start-up, in which it sends at thrice the rate and
// fills every buffer on the way. So the bound is a time at the rate at which
// the kernel sends, long enough for us to be woken and to write.
type socket struct {
	raw    syscall.RawConn // nil: not a TCP socket, or none that we can reach
	looked time.Duration   // the age of the Conn when it was last tuned
	mark   int
}

const (
	queueTime = 20 * time.Millisecond
	queueMin  = 128 << 10
	queueMax  = 4 << 20

	tuneEvery = 20 * time.Millisecond

	// tuneFrom is the batch from which on there is bulk that could queue.
	tuneFrom = 16 << 10
)

// init finds the socket under conn, if there is one.
func (s *socket) init(conn net.Conn) {
	if tcp, ok := innermost(conn).(*net.TCPConn); ok {
		s.raw, _ = tcp.SyscallConn()
	}
}

// tune follows the rate of the socket before a batch of n bytes is written.
func (s *socket) tune(age time.Duration, n int) {
	if s.raw == nil || n < tuneFrom || s.mark != 0 && age-s.looked < tuneEvery {
		return
	}
	s.looked = age
	s.raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		mark := queueMark(info.Pacing_rate)
		if mark > s.mark*5/4 || mark < s.mark*4/5 {
			s.mark = mark
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, mark)
		}
	})
}

// progress is how many bytes the socket has moved, both ways together: those
// that have come, and those of ours that the peer's system has.
func (s *socket) progress() (moved uint64) {
	if s.raw != nil {
		s.raw.Control(func(fd uintptr) {
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				moved = info.Bytes_acked + info.Bytes_received
			}
		})
	}
	return moved
}

// queueMark is how much may wait at a rate of so many bytes a second.
func queueMark(rate uint64) int {
	return int(min(max(float64(rate)*queueTime.Seconds(), queueMin), queueMax))
}
