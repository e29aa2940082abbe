package edge

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// What RFC 9113 numbers: frame types in section 6, their flags, settings in
// section 6.5.2.
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	framePriority     = 0x2
	frameReset        = 0x3
	frameSettings     = 0x4
	framePromise      = 0x5
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindow       = 0x8
	frameContinuation = 0x9

	flagAck        = 0x1
	flagEndStream  = 0x1
	flagEndHeaders = 0x4

	settingWindow = 0x4
)

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// frames is a connection of HTTP/2 in which anything can be said, by either
// side. Reading is for one goroutine.
type frames struct {
	net.Conn
	head bytes.Buffer
	enc  *hpack.Encoder
	dec  *hpack.Decoder

	turn chan struct{} // has something in it while somebody writes; a mutex would stop time
}

func newFrames(c net.Conn) *frames {
	f := &frames{Conn: c, dec: hpack.NewDecoder(4096, nil), turn: make(chan struct{}, 1)}
	f.enc = hpack.NewEncoder(&f.head)
	return f
}

// A frame is one that came.
type frame struct {
	kind, flags byte
	stream      uint32
	payload     []byte
	fields      [][2]string // of HEADERS
}

func (f *frame) field(name string) string {
	for _, kv := range f.fields {
		if kv[0] == name {
			return kv[1]
		}
	}
	return ""
}

func (f *frames) write(kind, flags byte, stream uint32, payload []byte) error {
	f.turn <- struct{}{}
	defer func() { <-f.turn }()
	_, err := f.Write(appendFrame(nil, kind, flags, stream, payload))
	return err
}

func appendFrame(b []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload))<<8|uint32(kind))
	b = append(b, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	return append(b, payload...)
}

// block encodes fields as they are, good or bad.
func (f *frames) block(fields ...string) []byte {
	f.head.Reset()
	for i := 0; i < len(fields); i += 2 {
		f.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(f.head.Bytes())
}

// headers sends a head. Streams must be opened in order.
func (f *frames) headers(stream uint32, end bool, fields ...string) error {
	flags := byte(flagEndHeaders)
	if end {
		flags |= flagEndStream
	}
	f.turn <- struct{}{}
	defer func() { <-f.turn }() // the encoder remembers what was sent before
	_, err := f.Write(appendFrame(nil, frameHeaders, flags, stream, f.block(fields...)))
	return err
}

// get asks for / of host, and whatever fields say besides.
func (f *frames) get(stream uint32, host string, fields ...string) error {
	return f.headers(stream, true, append([]string{
		":method", "GET", ":scheme", "https", ":authority", host, ":path", "/",
	}, fields...)...)
}

func (f *frames) read() (*frame, error) {
	var b [9]byte
	if _, err := io.ReadFull(f.Conn, b[:]); err != nil {
		return nil, err
	}
	g := &frame{kind: b[3], flags: b[4], stream: binary.BigEndian.Uint32(b[5:]) & (1<<31 - 1)}
	g.payload = make([]byte, binary.BigEndian.Uint32(b[:4])>>8)
	if _, err := io.ReadFull(f.Conn, g.payload); err != nil {
		return nil, err
	}
	if g.kind == frameHeaders && g.flags&flagEndHeaders != 0 {
		fields, err := f.dec.DecodeFull(g.payload)
		if err != nil {
			return nil, err
		}
		for _, hf := range fields {
			g.fields = append(g.fields, [2]string{hf.Name, hf.Value})
		}
	}
	return g, nil
}

// next returns the next frame that is about a stream, and answers SETTINGS and
// PING.
func (f *frames) next() (*frame, error) {
	for {
		g, err := f.read()
		if err != nil {
			return nil, err
		}
		switch {
		case g.kind == frameSettings && g.flags&flagAck == 0:
			f.write(frameSettings, flagAck, 0, nil)
		case g.kind == framePing && g.flags&flagAck == 0:
			f.write(framePing, flagAck, 0, g.payload)
		case g.stream != 0 && g.kind != frameWindow, g.kind == frameGoAway:
			return g, nil
		}
	}
}

// An answer2 is what came on one stream, or instead of it.
type answer2 struct {
	status, code, body string
	reset, whole, away bool
}

// answer reads until the stream has ended, or the connection.
func (f *frames) answer(stream uint32) (a answer2) {
	for {
		g, err := f.next()
		switch {
		case err != nil:
			a.away = true
			return a
		case g.kind == frameGoAway:
			a.away = a.away || binary.BigEndian.Uint32(g.payload[4:]) != 0
			continue
		case g.stream != stream:
			continue
		case g.kind == frameReset:
			a.reset = true
			return a
		case g.kind == frameHeaders && g.field(":status") != "":
			a.status, a.code = g.field(":status"), g.field("culvert-error")
		case g.kind == frameData:
			a.body += string(g.payload)
		}
		if g.flags&flagEndStream != 0 {
			a.whole = true
			return a
		}
	}
}

// frames is a visitor of HTTP/2 that has said hello, and settings.
func (w *world) frames(settings ...byte) *frames {
	w.t.Helper()
	c, err := w.step.dial(w.from)
	if err != nil {
		w.t.Fatal(err)
	}
	w.cleanup = append(w.cleanup, func() { c.Close() })
	tc := tls.Client(c, &tls.Config{RootCAs: w.roots, ServerName: blog, NextProtos: []string{"h2"}})
	if err := tc.Handshake(); err != nil {
		w.t.Fatal(err)
	}
	f := newFrames(tc)
	io.WriteString(f, preface)
	f.write(frameSettings, 0, 0, settings)
	return f
}

// number is a number of four bytes.
func number(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// setting is one of SETTINGS.
func setting(id uint16, value uint32) []byte {
	return append(binary.BigEndian.AppendUint16(nil, id), number(value)...)
}

// framesService is a service of HTTP/2, without rules: f is called for every
// head that comes.
func framesService(f func(s *frames, head *frame)) *service {
	return rawService(func(c net.Conn) {
		var hello [len(preface)]byte
		if _, err := io.ReadFull(c, hello[:]); err != nil || string(hello[:]) != preface {
			return
		}
		s := newFrames(c)
		s.write(frameSettings, 0, 0, nil)
		for {
			g, err := s.next()
			if err != nil {
				return
			}
			if g.kind == frameHeaders {
				f(s, g)
			}
		}
	})
}

// who is what a visitor said about himself.
func (f *frame) who() string {
	_, who, _ := strings.Cut(f.field(":path"), "who=")
	return who
}
