package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"

	hashicorp "github.com/hashicorp/yamux"
	libp2p "github.com/libp2p/go-yamux/v5"
	"github.com/quic-go/quic-go"
	"github.com/xtaci/smux"

	"github.com/culvertd/culvert/mux"
)

// alone is a session without a multiplexer: its one stream is conn.
func alone(conn net.Conn) (session, error) {
	only := make(chan stream, 1)
	only <- conn.(*tls.Conn)
	done := make(chan struct{})
	take := func() (stream, error) {
		select {
		case s := <-only:
			return s, nil
		case <-done:
			return nil, errors.New("there is one stream only")
		}
	}
	var once sync.Once
	return session{
		open:   take,
		accept: take,
		close: func() {
			once.Do(func() { close(done) })
			conn.Close()
		},
	}, nil
}

func ours(side func(net.Conn, mux.Config) *mux.Conn, cfg mux.Config) func(net.Conn) (session, error) {
	return func(conn net.Conn) (session, error) {
		c := side(conn, cfg)
		return session{
			open:   func() (stream, error) { return c.Open(context.Background()) },
			accept: func() (stream, error) { return c.Accept(context.Background()) },
			close:  func() { c.Close() },
		}, nil
	}
}

// lanesOver gives a session to which lanes are added when it wants them.
func lanesOver(k link) (p pair, err error) {
	a, b, err := k.pipe()
	if err != nil {
		return p, err
	}
	left, right, err := handshake(a, b)
	if err != nil {
		return p, err
	}
	c, s := mux.Client(left, keeping), mux.Server(right, keeping)
	p.client = session{
		open:   func() (stream, error) { return c.Open(context.Background()) },
		accept: func() (stream, error) { return c.Accept(context.Background()) },
		close:  func() { c.Close() },
	}
	p.server = session{
		open:   func() (stream, error) { return s.Open(context.Background()) },
		accept: func() (stream, error) { return s.Accept(context.Background()) },
		close:  func() { s.Close() },
	}
	go func() {
		for n := uint64(1); ; n++ {
			select {
			case <-c.WantLane():
			case <-c.Done():
				return
			}
			if len(c.Lanes()) > 1 {
				continue
			}
			a, b, err := k.pipe()
			if err != nil {
				return
			}
			if left, right, err := handshake(a, b); err == nil {
				c.Join(left, n)
				s.Join(right, n)
			}
		}
	}()
	return p, nil
}

// hidden shows side a conn that does not say that a socket is under it.
func hidden(side func(net.Conn) (session, error)) func(net.Conn) (session, error) {
	return func(conn net.Conn) (session, error) { return side(struct{ net.Conn }{conn}) }
}

func goYamux(side func(net.Conn, *libp2p.Config, func() (libp2p.MemoryManager, error)) (*libp2p.Session, error)) func(net.Conn) (session, error) {
	return func(conn net.Conn) (session, error) {
		cfg := libp2p.DefaultConfig()
		cfg.LogOutput = io.Discard
		c, err := side(conn, cfg, nil)
		if err != nil {
			return session{}, err
		}
		return session{
			open:   func() (stream, error) { return c.OpenStream(context.Background()) },
			accept: func() (stream, error) { return c.AcceptStream() },
			close:  func() { c.Close() },
		}, nil
	}
}

// yamuxStream gives hashicorp's streams the name for what their Close is.
type yamuxStream struct{ *hashicorp.Stream }

func (s yamuxStream) CloseWrite() error { return s.Stream.Close() }

func wideYamux(cfg *hashicorp.Config) { cfg.MaxStreamWindowSize = window }

func yamux(side func(io.ReadWriteCloser, *hashicorp.Config) (*hashicorp.Session, error), tune func(*hashicorp.Config)) func(net.Conn) (session, error) {
	return func(conn net.Conn) (session, error) {
		cfg := hashicorp.DefaultConfig()
		cfg.LogOutput = io.Discard
		if tune != nil {
			tune(cfg)
		}
		c, err := side(conn, cfg)
		if err != nil {
			return session{}, err
		}
		wrap := func(s *hashicorp.Stream, err error) (stream, error) { return yamuxStream{s}, err }
		return session{
			open:   func() (stream, error) { return wrap(c.OpenStream()) },
			accept: func() (stream, error) { return wrap(c.AcceptStream()) },
			close:  func() { c.Close() },
		}, nil
	}
}

func wideSmux(cfg *smux.Config) {
	cfg.MaxReceiveBuffer = 2 * window
	cfg.MaxStreamBuffer = window
}

func smuxes(side func(io.ReadWriteCloser, *smux.Config) (*smux.Session, error), tune func(*smux.Config)) func(net.Conn) (session, error) {
	return func(conn net.Conn) (session, error) {
		cfg := smux.DefaultConfig()
		cfg.Version = 2
		if tune != nil {
			tune(cfg)
		}
		c, err := side(conn, cfg)
		if err != nil {
			return session{}, err
		}
		return session{
			open:   func() (stream, error) { return c.OpenStream() },
			accept: func() (stream, error) { return c.AcceptStream() },
			close:  func() { c.Close() },
		}, nil
	}
}

// quicStream makes Close what it is elsewhere: the end of both directions.
type quicStream struct{ *quic.Stream }

func (s quicStream) CloseWrite() error { return s.Stream.Close() }
func (s quicStream) Close() error {
	s.CancelRead(0)
	return s.Stream.Close()
}

// quicConfig has windows wide enough for everything that is measured here.
var quicConfig = &quic.Config{
	MaxIncomingStreams:             1 << 16,
	InitialStreamReceiveWindow:     1 << 20,
	MaxStreamReceiveWindow:         window,
	InitialConnectionReceiveWindow: 1 << 20,
	MaxConnectionReceiveWindow:     2 * window,
}

func quicSession(c *quic.Conn) session {
	wrap := func(s *quic.Stream, err error) (stream, error) { return quicStream{s}, err }
	return session{
		open:   func() (stream, error) { return wrap(c.OpenStreamSync(context.Background())) },
		accept: func() (stream, error) { return wrap(c.AcceptStream(context.Background())) },
		close:  func() { c.CloseWithError(0, "") },
	}
}

// quicOver is library.over for quic-go.
func quicOver(k link) (p pair, err error) {
	a, b, err := k.packets()
	if err != nil {
		return p, err
	}
	p.under = []io.Closer{a, b}
	defer func() {
		if err != nil {
			a.Close()
			b.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ln, err := quic.Listen(b, serverTLS("bench"), quicConfig)
	if err != nil {
		return p, err
	}
	p.under = []io.Closer{ln, a, b}
	c, err := quic.Dial(ctx, a, b.LocalAddr(), clientTLS("bench"), quicConfig)
	if err != nil {
		return p, err
	}
	s, err := ln.Accept(ctx)
	if err != nil {
		return p, err
	}
	p.client, p.server = quicSession(c), quicSession(s)
	return p, nil
}
