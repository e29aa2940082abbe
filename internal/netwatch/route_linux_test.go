package netwatch

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMatters: what the kernel says, and which of it is news.
func TestMatters(t *testing.T) {
	link := func(index, flags uint32) []byte {
		b := make([]byte, unix.SizeofIfInfomsg)
		binary.NativeEndian.PutUint32(b[4:], index)
		binary.NativeEndian.PutUint32(b[8:], flags)
		return b
	}
	route := func(table byte, flags uint32) []byte {
		b := make([]byte, unix.SizeofRtMsg)
		b[4] = table
		binary.NativeEndian.PutUint32(b[8:], flags)
		return b
	}
	l := links{}
	for _, step := range []struct {
		what string
		kind uint16
		body []byte
		want bool
	}{
		{"an address", unix.RTM_NEWADDR, make([]byte, unix.SizeofIfAddrmsg), true},
		{"an address that goes", unix.RTM_DELADDR, make([]byte, unix.SizeofIfAddrmsg), true},
		{"a route", unix.RTM_NEWROUTE, route(unix.RT_TABLE_MAIN, 0), true},
		{"a route that goes", unix.RTM_DELROUTE, route(unix.RT_TABLE_MAIN, 0), true},
		{"a route of the cache", unix.RTM_NEWROUTE, route(unix.RT_TABLE_MAIN, unix.RTM_F_CLONED), false},
		{"half a route", unix.RTM_NEWROUTE, []byte{1, 2}, false},
		{"a link we have not heard of", unix.RTM_NEWLINK, link(2, unix.IFF_UP|unix.IFF_RUNNING), false},
		{"the same, scanning", unix.RTM_NEWLINK, link(2, unix.IFF_UP|unix.IFF_RUNNING), false},
		{"the cable is pulled", unix.RTM_NEWLINK, link(2, unix.IFF_UP), true},
		{"the link goes", unix.RTM_DELLINK, link(2, 0), true},
		{"half a link", unix.RTM_NEWLINK, []byte{1, 2}, false},
		{"something else", unix.RTM_NEWNEIGH, make([]byte, 64), false},
	} {
		b := make([]byte, unix.NLMSG_HDRLEN, 128)
		b = append(b, step.body...)
		binary.NativeEndian.PutUint32(b, uint32(len(b)))
		binary.NativeEndian.PutUint16(b[4:], step.kind)
		if got := l.matter(b); got != step.want {
			t.Errorf("%s: %v, want %v", step.what, got, step.want)
		}
	}
	for _, b := range [][]byte{nil, {1}, make([]byte, 16), {255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}} {
		if l.matter(b) {
			t.Errorf("%x was news", b)
		}
	}
}

func FuzzMatter(f *testing.F) {
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, b []byte) { links{}.matter(b) })
}
