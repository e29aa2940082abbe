package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// A place is a network namespace with one device, whose other end we hold.
type place struct {
	name   string
	device *os.File
}

// newPlace makes the namespace of that name. It leaves nothing behind when it
// fails.
func newPlace(name, address string, mtu int) (p place, err error) {
	if _, err := os.Stat("/run/netns/" + name); err == nil {
		return p, fmt.Errorf("namespace %q exists; choose another name, or remove it: ip netns del %s", name, name)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	device, link, err := tun()
	if err != nil {
		return p, err
	}
	if err := ip("netns", "add", name); err != nil {
		device.Close()
		return p, err
	}
	p = place{name, device}
	for _, args := range [][]string{
		{"link", "set", link, "netns", name},
		{"-n", name, "addr", "add", address + "/24", "dev", link},
		{"-n", name, "link", "set", link, "mtu", fmt.Sprint(mtu), "txqueuelen", "4000", "up"},
		{"-n", name, "link", "set", "lo", "up"},
	} {
		if err := ip(args...); err != nil {
			return p, errors.Join(err, p.remove())
		}
	}
	return p, nil
}

// remove takes the namespace away, with all that is in it.
func (p place) remove() error {
	p.device.Close()
	return ip("netns", "del", p.name)
}

// tun makes a TUN device and returns our end of it and its name.
func tun() (*os.File, string, error) {
	const path = "/dev/net/tun"
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, "", &fs.PathError{Op: "open", Path: path, Err: err}
	}
	request, err := unix.NewIfreq("wan%d") // the kernel finds the number
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		return nil, "", fmt.Errorf("make a TUN device: %w", err)
	}
	return os.NewFile(uintptr(fd), path), request.Name(), nil
}

// ip runs the command of that name, of iproute2.
func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
