package main

import (
	"io"
	"net"
	"slices"
	"sync"
	"time"

	hashicorp "github.com/hashicorp/yamux"
	libp2p "github.com/libp2p/go-yamux/v5"
	"github.com/xtaci/smux"

	"github.com/culvertd/culvert/mux"
)

// A stream is what all libraries have in common.
type stream interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// A session is one end of a connection with many streams.
type session struct {
	open   func() (stream, error)
	accept func() (stream, error)
	close  func()
}

// A library is one of those that are compared, in one configuration.
type library struct {
	name   string
	client func(net.Conn) (session, error)
	server func(net.Conn) (session, error)
	single bool // has only one stream
	quic   bool // brings its own transport; client and server are nil
	lanes  bool // opens further lanes when it wants them; client and server are nil
}

// window is what the rows that say so allow a stream, where a library does not
// find the right one by itself.
const window = 16 << 20

// keeping is what an agent and a node have: their Conn outlives its lanes.
var keeping = mux.Config{Keep: 8 << 20}

var (
	bareTLS = library{name: "TLS alone", client: alone, server: alone, single: true}

	muxes = []library{
		{name: "culvert/mux", client: ours(mux.Client, mux.Config{}), server: ours(mux.Server, mux.Config{})},
		{name: "culvert/mux, 8 MiB kept", client: ours(mux.Client, keeping), server: ours(mux.Server, keeping)},
		{name: "go-yamux", client: goYamux(libp2p.Client), server: goYamux(libp2p.Server)},
		{name: "yamux", client: yamux(hashicorp.Client, nil), server: yamux(hashicorp.Server, nil)},
		{name: "yamux, 16 MB window", client: yamux(hashicorp.Client, wideYamux), server: yamux(hashicorp.Server, wideYamux)},
		{name: "smux v2", client: smuxes(smux.Client, nil), server: smuxes(smux.Server, nil)},
		{name: "smux v2, 16 MB window", client: smuxes(smux.Client, wideSmux), server: smuxes(smux.Server, wideSmux)},
	}

	quicGo = library{name: "quic-go", quic: true}

	// longQueue is the first of muxes on sockets whose queue it cannot keep
	// short.
	longQueue = library{
		name:   "culvert/mux without TCP_NOTSENT_LOWAT",
		client: hidden(muxes[0].client),
		server: hidden(muxes[0].server),
	}

	// lanes is the first of muxes as an agent and a node use it.
	lanes = library{name: "culvert/mux with lanes", lanes: true}

	everything = slices.Concat([]library{bareTLS}, muxes, []library{quicGo})
)

// A pair is both ends of one session, and what carries it.
type pair struct {
	client, server session
	under          []io.Closer
}

// over returns both ends of a session over k, with TLS 1.3.
func (l library) over(k link) (p pair, err error) {
	if l.quic {
		return quicOver(k)
	}
	if l.lanes {
		return lanesOver(k)
	}
	a, b, err := k.pipe()
	if err != nil {
		return p, err
	}
	left, right, err := handshake(a, b)
	if err != nil {
		return p, err
	}
	p.under = []io.Closer{a, b}
	if p.client, err = l.client(left); err == nil {
		p.server, err = l.server(right)
	}
	if err != nil {
		a.Close()
		b.Close()
	}
	return p, err
}

// close ends both ends. Some libraries would hang here when they hang
// elsewhere: their connection is then closed under them.
func (p pair) close() {
	var wg sync.WaitGroup
	wg.Go(p.client.close)
	wg.Go(p.server.close)
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	for range 2 {
		select {
		case <-ended:
		case <-time.After(2 * time.Second):
		}
		for _, u := range p.under {
			u.Close() // harmless when the session has done so itself
		}
	}
}
