//go:build linux || darwin || freebsd || netbsd || openbsd

package handover

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// firstFD is where descriptors begin that are passed on.
const firstFD = 3

// maxFDs bounds how many there may be; nobody has a use for more than five.
const maxFDs = 64

// Inherit takes the descriptors that were passed on to this process; nil if
// there are none. They are closed to its children from then on.
//
// A child's number is not known before it runs, and so its predecessor cannot
// write it down as systemd does: it writes its own. Descriptors are this
// process's if LISTEN_PID is its own number, or if there is a line to a
// predecessor among them and LISTEN_PID is its parent's. So neither takes a
// grandchild what was meant for its parent.
func Inherit(v Variables) (*Inherited, error) {
	pid, err := strconv.Atoi(v.PID)
	if err != nil || v.FDs == "" {
		return nil, nil
	}
	names := strings.Split(v.Names, ":")
	ours := pid == os.Getpid() || slices.Contains(names, line) && pid == os.Getppid()
	if !ours || v.FDs == "0" {
		return nil, nil
	}
	n, err := strconv.Atoi(v.FDs)
	if err != nil || n < 1 || n > maxFDs {
		return nil, &Error{fmt.Sprintf("LISTEN_FDS is %q, which is not a number of descriptors", v.FDs), ""}
	}
	for fd := firstFD; fd < firstFD+n; fd++ {
		syscall.CloseOnExec(fd)
	}
	if v.Names == "" || len(names) != n {
		return nil, &Error{fmt.Sprintf("%d sockets were passed on, and LISTEN_FDNAMES names %d", n, len(strings.FieldsFunc(v.Names, func(r rune) bool { return r == ':' }))), named}
	}
	in := &Inherited{}
	for i, name := range names {
		if err := in.take(firstFD+i, name); err != nil {
			in.Close()
			return nil, err
		}
	}
	return in, nil
}

const named = "say FileDescriptorName=public or FileDescriptorName=redirect in the socket unit"

// take finds out what one descriptor is. It is closed, or the listener's.
func (in *Inherited) take(fd int, name string) error {
	into := map[string]*net.Listener{Public: &in.Public, Redirect: &in.Redirect, Operator: &in.Operator}[name]
	if name == line || name == stderr {
		if in.From == nil {
			in.From = &Predecessor{}
		}
		return in.From.take(fd, name)
	}
	f := os.NewFile(uintptr(fd), name)
	if f == nil {
		return &Error{fmt.Sprintf("descriptor %d, %q, is not open", fd, name), ""}
	}
	defer f.Close() // the listener has its own
	switch {
	case into == nil:
		return &Error{fmt.Sprintf("a socket named %q was passed on; a node knows public and redirect", name), named}
	case *into != nil:
		return &Error{fmt.Sprintf("two sockets named %s were passed on, and there is one", name), "one ListenStream=443 is for IPv4 and IPv6"}
	}
	if listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens == 0 {
		return &Error{fmt.Sprintf("socket %q: descriptor %d is nothing that listens", name, fd), "ListenStream=443 does"}
	}
	ln, err := net.FileListener(f)
	if err != nil {
		return &Error{fmt.Sprintf("socket %q: %v", name, err), ""}
	}
	_, tcp := ln.(*net.TCPListener)
	_, unixSocket := ln.(*net.UnixListener)
	if unixSocket != (name == Operator) || tcp == (name == Operator) {
		ln.Close()
		return &Error{fmt.Sprintf("socket %q: %s is not of TCP", name, ln.Addr()), "ListenStream=443 is"}
	}
	*into = ln
	return nil
}

// duplicate gives a descriptor of its own for what ln listens on. By way of
// os.File the socket would block from then on, here as well.
func duplicate(ln net.Listener) (fd int, err error) {
	c, ok := ln.(syscall.Conn)
	if !ok {
		return -1, fmt.Errorf("%s cannot be passed on", ln.Addr())
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	if ctl := raw.Control(func(from uintptr) { fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 100) }); ctl != nil {
		return -1, ctl
	}
	return fd, err
}
