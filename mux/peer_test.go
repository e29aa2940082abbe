package mux

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
)

// A peer speaks frames to a Conn, so that a test is their conversation. The
// peer is the client: its streams are 0, 2, 4 …
type peer struct {
	t    *testing.T
	link *memnet.Conn
	conn *Conn
}

// quietly is a Config whose Conns say nothing by themselves.
var quietly = Config{KeepAlive: -1}

// withPeer runs f beside a Conn that has exchanged settings with its peer,
// in a bubble.
func withPeer(t *testing.T, cfg Config, f func(p *peer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := rawPeer(t, cfg)
		p.write(preface)
		said := floorSettings
		said.keep = cfg.keep()
		p.send(frame{kind: frameSettings, data: appendSettings(nil, said)})
		synctest.Wait()
		f(p)
		p.conn.Close()
		p.link.Close()
	})
}

// rawPeer has read what a Conn says first, and has said nothing.
func rawPeer(t *testing.T, cfg Config) *peer {
	t.Helper()
	left, right := memnet.Pipe()
	p := &peer{t: t, link: left, conn: Server(right, cfg)}
	if got := p.read(len(preface)); string(got) != preface {
		t.Fatalf("the preface is %q", got)
	}
	p.want("settings come first", frame{kind: frameSettings, data: appendSettings(nil, settings{
		streamCredit: firstWindow, credit: cfg.budget(), streams: cfg.maxStreams(), keep: cfg.keep(),
	})})
	p.want("then a ping, to measure the round trip", frame{kind: framePing, value: 1})
	return p
}

func (p *peer) write(s string) {
	p.t.Helper()
	if _, err := p.link.Write([]byte(s)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) send(frames ...frame) {
	p.t.Helper()
	for _, f := range frames {
		p.write(string(appendFrame(nil, f)))
	}
	synctest.Wait()
}

func (p *peer) read(n int) []byte {
	p.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(p.link, b); err != nil {
		p.t.Fatalf("read from the Conn: %v", err)
	}
	return b
}

func (p *peer) next() frame {
	p.t.Helper()
	p.link.SetReadDeadline(time.Now().Add(time.Minute))
	header := p.read(frameHeader)
	f, err := parseFrame(header[0], p.read(int(header[1])<<8|int(header[2])))
	if err != nil {
		p.t.Fatalf("the Conn sent a frame that is none: %v", err)
	}
	return f
}

func (p *peer) want(why string, want frame) {
	p.t.Helper()
	if got := p.next(); !same(got, want) {
		p.t.Fatalf("%s: got %v, want %v", why, got, want)
	}
}

func (p *peer) wantQuiet(why string) {
	p.t.Helper()
	p.link.SetReadDeadline(time.Now().Add(time.Second))
	b := make([]byte, 64)
	if n, err := p.link.Read(b); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatalf("%s: got % x and %v", why, b[:n], err)
	}
}

// wantEnd checks that the Conn ends with code, and says so to the peer.
func (p *peer) wantEnd(code Code) {
	p.t.Helper()
	select {
	case <-p.conn.Done():
	case <-time.After(time.Minute):
		p.t.Fatalf("the Conn lives on, want %v", code)
	}
	e, ok := errors.AsType[*ConnError](p.conn.Err())
	if !ok || e.Code != code || e.Remote {
		p.t.Fatalf("the Conn ended with %v, want our own %v", p.conn.Err(), code)
	}
	for {
		if f := p.next(); f.kind == frameClose {
			if Code(f.value) != code {
				p.t.Fatalf("the peer was told %v, want %v", Code(f.value), code)
			}
			return
		}
	}
}

func (p *peer) accept() *Stream {
	p.t.Helper()
	s, err := p.conn.Accept(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

func same(a, b frame) bool {
	return a.kind == b.kind && a.stream == b.stream && a.offset == b.offset && a.value == b.value && bytes.Equal(a.data, b.data)
}

var frameNames = [...]string{
	"data", "data-fin", "reset", "stop", "stream-credit", "blocked", "credit",
	"streams", "ping", "pong", "go-away", "close", "settings", "ack", "lane", "leave",
}

// String says a frame as the failure of a test should.
func (f frame) String() string {
	name := fmt.Sprintf("type %#02x", f.kind)
	if int(f.kind) < len(frameNames) {
		name = frameNames[f.kind]
	}
	if len(f.data) > 40 {
		return fmt.Sprintf("%s{stream %d, offset %d, value %d, %d bytes}", name, f.stream, f.offset, f.value, len(f.data))
	}
	return fmt.Sprintf("%s{stream %d, offset %d, value %d, %q}", name, f.stream, f.offset, f.value, f.data)
}

// Frames, as the tests say them.

func data(stream, offset uint64, s string) frame {
	return frame{kind: frameData, stream: stream, offset: offset, data: []byte(s)}
}

func dataFin(stream, offset uint64, s string) frame {
	return frame{kind: frameDataFin, stream: stream, offset: offset, data: []byte(s)}
}

func reset(stream uint64, code Code, final uint64) frame {
	return frame{kind: frameReset, stream: stream, value: uint64(code), offset: final}
}

func stop(stream uint64, code Code) frame {
	return frame{kind: frameStop, stream: stream, value: uint64(code)}
}

func streamCredit(stream, limit uint64) frame {
	return frame{kind: frameStreamCredit, stream: stream, value: limit}
}

func blocked(stream, at uint64) frame {
	return frame{kind: frameBlocked, stream: stream, value: at}
}

func leave(lane, taken uint64) frame {
	return frame{kind: frameLeave, stream: lane, value: taken}
}

func number(kind byte, value uint64) frame { return frame{kind: kind, value: value} }
