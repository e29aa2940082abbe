package netwatch

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watchRoutes says on moved that an address, a route or a link is not what it
// was, by the kernel's word (netlink(7), rtnetlink(7)).
func watchRoutes(ctx context.Context, moved chan<- struct{}) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return // a sandbox; silence on the path will be noticed, only later
	}
	f := os.NewFile(uintptr(fd), "netlink") // the runtime waits for it, and a deadline ends the wait
	defer f.Close()
	if unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}) != nil {
		return
	}
	defer context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })()
	links := links{}
	b := make([]byte, 64<<10)
	for {
		n, err := f.Read(b)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, unix.ENOBUFS): // so much has changed that some of it was thrown away
		case err != nil:
			return
		case !links.matter(b[:n]):
			continue
		}
		select {
		case moved <- struct{}{}:
		default:
		}
	}
}

const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE

// links are the flags of each link, as far as they matter to us.
type links map[int32]uint32

// matter reports whether one of the messages in b tells of a change that could
// be one of our way. A wireless link reports each scan, and the kernel its
// cache of routes; neither is.
func (l links) matter(b []byte) bool {
	matters := false
	for len(b) >= unix.NLMSG_HDRLEN {
		size := binary.NativeEndian.Uint32(b)
		if size < unix.NLMSG_HDRLEN || uint64(size) > uint64(len(b)) {
			break
		}
		if l.matters(binary.NativeEndian.Uint16(b[4:]), b[unix.NLMSG_HDRLEN:size]) {
			matters = true
		}
		b = b[min((int(size)+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(b)):]
	}
	return matters
}

func (l links) matters(kind uint16, body []byte) bool {
	switch kind {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return true
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE: // struct rtmsg
		return len(body) >= unix.SizeofRtMsg && body[4] != unix.RT_TABLE_LOCAL &&
			binary.NativeEndian.Uint32(body[8:])&unix.RTM_F_CLONED == 0
	case unix.RTM_DELLINK, unix.RTM_NEWLINK: // struct ifinfomsg
		if len(body) < unix.SizeofIfInfomsg {
			return false
		}
		index := int32(binary.NativeEndian.Uint32(body[4:]))
		now := binary.NativeEndian.Uint32(body[8:]) & (unix.IFF_UP | unix.IFF_RUNNING)
		before, known := l[index]
		if kind == unix.RTM_DELLINK {
			delete(l, index)
			return before != 0
		}
		l[index] = now
		return known && before != now
	}
	return false
}
