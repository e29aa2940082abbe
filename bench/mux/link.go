package main

import (
	"errors"
	"net"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
)

// A link is a way on which two ends can be joined, each time anew.
type link struct {
	name    string
	pipe    func() (client, server net.Conn, err error)
	packets func() (client, server net.PacketConn, err error) // nil where there are none
}

// carries returns those of the libraries for which k is a way.
func (k link) carries(libraries []library) []library {
	var can []library
	for _, l := range libraries {
		if !l.quic || k.packets != nil {
			can = append(can, l)
		}
	}
	return can
}

// loopback is the loop device and the TCP of this machine.
var loopback = link{
	name: "loopback",
	pipe: func() (client, server net.Conn, err error) {
		return join("127.0.0.1:0", net.Listen, net.Dial)
	},
	packets: func() (client, server net.PacketConn, err error) {
		if client, err = net.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
			return nil, nil, err
		}
		if server, err = net.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
			return nil, nil, errors.Join(err, client.Close())
		}
		return client, server, nil
	},
}

// The links in this process show a session what TCP would show it over a far
// and lossless road with a queue of its own.
var (
	narrow = inProcess("25 MB/s and 50 ms in process", memnet.Link{Delay: 25 * time.Millisecond, Rate: 25e6, Buffer: 128 << 10})
	broad  = inProcess("250 MB/s and 50 ms in process", memnet.Link{Delay: 25 * time.Millisecond, Rate: 250e6, Buffer: 1 << 20})
)

func inProcess(name string, l memnet.Link) link {
	return link{name: name, pipe: func() (client, server net.Conn, err error) {
		a, b := l.Pipe()
		return a, b, nil
	}}
}

// join returns both ends of a TCP connection to addr.
func join(addr string, listen func(network, addr string) (net.Listener, error), dial func(network, addr string) (net.Conn, error)) (client, server net.Conn, err error) {
	ln, err := listen("tcp4", addr)
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	if err := ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, nil, err
	}
	if client, err = dial("tcp4", ln.Addr().String()); err != nil {
		return nil, nil, err
	}
	if server, err = ln.Accept(); err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	return client, server, nil
}
