package mux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

func TestReasonsAreFitForALog(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.send(frame{kind: frameClose, value: 0x100, data: []byte("a\x1b[31m\n\x7f\xff é")})
		e, ok := errors.AsType[*ConnError](p.conn.Wait())
		if !ok || !e.Remote || e.Code != 0x100 || e.Reason != "a?[31m??? é" {
			t.Errorf("got %#v", p.conn.Err())
		}
	})
}

func TestResetSaysTheFinalOffset(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.send(data(0, 0, ""))
		s := p.accept()
		s.Write([]byte("four"))
		p.want("what was written", data(0, 0, "four"))
		s.Reset(0x105)
		p.want("both directions end: ours", reset(0, 0x105, 4))
		p.want("and theirs", stop(0, 0x105))
		if n := p.conn.NumStreams(); n != 1 {
			t.Errorf("%d streams; ours is kept until the peer settles its final offset", n)
		}
		p.send(reset(0, 0x105, 9))
		if n := p.conn.NumStreams(); n != 0 {
			t.Errorf("%d streams after both directions have ended", n)
		}
	})
}

func TestWhatArrivedBeforeAResetCanBeRead(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.send(data(0, 0, "413"), reset(0, 0x102, 5))
		s := p.accept()
		got, err := io.ReadAll(s)
		if e, ok := errors.AsType[*StreamError](err); string(got) != "413" || !ok || e.Code != 0x102 {
			t.Errorf("got %q, %v; want what arrived, and then the code", got, err)
		}
	})
}

func TestStopIsAnsweredWithAReset(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.send(data(0, 0, ""))
		s := p.accept()
		p.send(stop(0, 0x42))
		p.want("the sender says where it stopped", reset(0, 0x42, 0))
		_, err := s.Write([]byte("x"))
		if e, ok := errors.AsType[*StreamError](err); !ok || e.Code != 0x42 || !e.Remote {
			t.Errorf("Write gave %v, want the peer's code", err)
		}
		p.send(dataFin(0, 0, "still readable"))
		if got, err := io.ReadAll(s); string(got) != "still readable" || err != nil {
			t.Errorf("got %q, %v; want the other direction untouched", got, err)
		}
	})
}

func TestEndTravelsWithTheLastBytes(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.send(data(0, 0, ""))
		s := p.accept()
		s.Write([]byte("all of it"))
		s.CloseWrite()
		p.want("one frame for both", dataFin(0, 0, "all of it"))
	})
}

func TestOpenAnnouncesAStreamThatOnlyListens(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		s, err := p.conn.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p.want("the peer may speak first", data(1, 0, ""))
		p.send(data(1, 0, "hello"))
		b := make([]byte, 5)
		if _, err := io.ReadFull(s, b); string(b) != "hello" || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
	})
}

func TestOpeningAStreamOpensThoseBeforeIt(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.send(data(4, 0, "third"))
		for i := range uint64(3) {
			if s := p.accept(); s.ID() != 2*i {
				t.Errorf("got stream %d, want %d: RFC 9000, section 3.2", s.ID(), 2*i)
			}
		}
	})
}

func TestRepeatedFramesChangeNothing(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		for range 3 {
			p.send(data(0, 0, "abc"), data(0, 1, "bcd"), dataFin(0, 2, "cde"))
		}
		s := p.accept()
		if got, err := io.ReadAll(s); string(got) != "abcde" || err != nil {
			t.Errorf("got %q, %v; want every byte once", got, err)
		}
		s.Close()
		p.want("our end", dataFin(0, 0, ""))
		for range 3 { // the stream was forgotten; an id never comes back
			p.send(data(0, 0, "abc"), dataFin(0, 2, "cde"), reset(0, 0, 5), stop(0, 0), streamCredit(0, 1), blocked(0, 1))
		}
		p.wantQuiet("nothing to be said about a stream that has ended")
	})
}

func TestPingIsReturned(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.send(number(framePing, 77))
		p.want("the same number", number(framePong, 77))
	})
}

func TestGoAwayRefusesStreamsUnderWay(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.send(data(0, 0, "in time"))
		p.conn.GoAway()
		p.want("how many were taken", number(frameGoAway, 1))
		p.send(data(2, 0, "too late"))
		p.want("nobody has looked at it", reset(2, CodeRefused, 0))
		p.want("nor will", stop(2, CodeRefused))
		if s := p.accept(); s.ID() != 0 {
			t.Errorf("accepted stream %d", s.ID())
		}
	})
}

// TestHostilePeer is the table in docs/protocol.md, row by row.
func TestHostilePeer(t *testing.T) {
	big := strings.Repeat("x", maxPayload)
	raw := func(kind byte, body string) string {
		return string([]byte{kind, byte(len(body) >> 8), byte(len(body))}) + body
	}
	for _, row := range []struct {
		name  string
		code  Code
		bytes string  // sent as they are,
		send  []frame // and then these
	}{
		{"data longer than a frame may be", CodeFrameSize, "\x00\x40\x11", nil},
		{"more payload than a frame may carry", CodeFrameSize, raw(frameData, "\x00\x00"+big+"x"), nil},
		{"a control frame longer than 1 KiB", CodeFrameSize, "\x08\x04\x01", nil},
		{"an extension longer than 1 KiB", CodeFrameSize, "\x40\x04\x01", nil},
		{"a type that is reserved", CodeProtocol, "\x10\x00\x01\x00", nil},
		{"an acknowledgement where nothing is kept", CodeProtocol, "", []frame{number(frameAck, 8)}},
		{"a lane's number in the middle of it", CodeProtocol, "", []frame{number(frameLane, 1)}},
		{"a lane given up where nothing is kept", CodeProtocol, "", []frame{{kind: frameLeave, stream: 5, value: 8}}},
		{"a number in a longer spelling", CodeProtocol, raw(framePing, "\x40\x01"), nil},
		{"a number cut short", CodeProtocol, raw(framePing, "\xc0\x01"), nil},
		{"bytes after the last field", CodeProtocol, raw(framePing, "\x01\x01"), nil},
		{"data without a stream", CodeProtocol, raw(frameData, ""), nil},
		{"a reason of 257 bytes", CodeFrameSize, raw(frameClose, "\x00"+big[:257]), nil},
		{"a code of more than 32 bits", CodeProtocol, raw(frameStop, "\x00\xc0\x00\x00\x01\x00\x00\x00\x00"), nil},
		{"settings twice", CodeProtocol, raw(frameSettings, ""), nil},
		{"a stream of ours that we never opened", CodeProtocol, "", []frame{data(1, 0, "x")}},
		{"credit for a stream of ours that we never opened", CodeProtocol, "", []frame{streamCredit(3, 1)}},
		{"more streams than were allowed", CodeStreamLimit, "", []frame{data(2*16, 0, "")}},
		{"more bytes than the stream's credit", CodeFlowControl, "", []frame{
			data(0, 0, big), data(0, maxPayload, big), data(0, 2*maxPayload, "x"),
		}},
		{"an offset that skips bytes", CodeProtocol, "", []frame{data(0, 1, "x")}},
		{"an offset beyond 2^62", CodeProtocol, "", []frame{data(0, maxVarint, "x")}},
		{"data after the end", CodeFinalSize, "", []frame{dataFin(0, 0, "abc"), data(0, 3, "d")}},
		{"an end that moves", CodeFinalSize, "", []frame{dataFin(0, 0, "abc"), dataFin(0, 0, "ab")}},
		{"an end before what was sent", CodeFinalSize, "", []frame{data(0, 0, "abc"), dataFin(0, 0, "ab")}},
		{"a reset before what was sent", CodeFinalSize, "", []frame{data(0, 0, "abc"), reset(0, 0, 2)}},
		{"a reset after another end", CodeFinalSize, "", []frame{dataFin(0, 0, "abc"), reset(0, 0, 4)}},
		{"a reset beyond the stream's credit", CodeFlowControl, "", []frame{reset(0, 0, firstWindow+1)}},
		{"go-away after more streams than there are", CodeProtocol, "", []frame{number(frameGoAway, 1)}},
		{"a flood of pings", CodeFlood, strings.Repeat(raw(framePing, "\x01"), floodBurst+1), nil},
		{"a flood of answers to no ping", CodeFlood, strings.Repeat(raw(framePong, "\x05"), floodBurst+1), nil},
		{"a flood of empty data", CodeFlood, strings.Repeat(raw(frameData, "\x00\x00"), floodBurst+2), nil},
		{"a flood of credit that is none", CodeFlood, strings.Repeat(raw(frameCredit, "\x01"), floodBurst+1), nil},
		{"a flood of leave that is none", CodeFlood, strings.Repeat(raw(frameStreams, "\x01"), floodBurst+1), nil},
		{"a flood of credit for a stream", CodeFlood, raw(frameData, "\x00\x00") + strings.Repeat(raw(frameStreamCredit, "\x00\x01"), floodBurst+1), nil},
		{"a flood of complaints about credit", CodeFlood, raw(frameData, "\x00\x00") + strings.Repeat(raw(frameBlocked, "\x00\x01"), floodBurst+1), nil},
		{"a flood of stops", CodeFlood, raw(frameData, "\x00\x00") + strings.Repeat(raw(frameStop, "\x00\x00"), floodBurst+2), nil},
		{"a flood of extensions", CodeFlood, strings.Repeat(raw(frameExtension, ""), floodBurst+1), nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			withPeer(t, Config{KeepAlive: -1, MaxStreams: 16}, func(p *peer) {
				go p.link.Write([]byte(row.bytes))
				for _, f := range row.send {
					p.write(string(appendFrame(nil, f)))
				}
				p.wantEnd(row.code)
			})
		})
	}
}

// TestOpenAndResetFlood opens and resets without end. That is what visitors do
// who come and leave while the road is blocked, so it is no crime; it must not
// pile up.
func TestOpenAndResetFlood(t *testing.T) {
	withPeer(t, Config{KeepAlive: -1, MaxStreams: 16}, func(p *peer) {
		p.ignore()
		for i := range uint64(4 * floodBurst) {
			b := appendFrame(nil, data(2*i, 0, "x"))
			b = appendFrame(b, reset(2*i, 0, 1))
			b = appendFrame(b, stop(2*i, 0))
			if _, err := p.link.Write(b); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		p.conn.mu.Lock()
		defer p.conn.mu.Unlock()
		if p.conn.err != nil || len(p.conn.streams) > 0 || !p.conn.accept.empty() || p.conn.received != p.conn.consumed {
			t.Errorf("%v; %d streams, %d bytes are left", p.conn.err, len(p.conn.streams), p.conn.received-p.conn.consumed)
		}
	})
}

func TestExtensionsAreSkipped(t *testing.T) {
	withPeer(t, quietly, func(p *peer) {
		p.send(frame{kind: frameExtension + 5, data: []byte("from the future")}, data(0, 0, "now"))
		b := make([]byte, 3)
		if _, err := io.ReadFull(p.accept(), b); string(b) != "now" || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
	})
}

func TestBeginningsThatAreRefused(t *testing.T) {
	setting := func(pairs ...uint64) string {
		var body []byte
		for _, v := range pairs {
			body = appendVarint(body, v)
		}
		return preface + string(appendFrame(nil, frame{kind: frameSettings, data: body}))
	}
	for _, row := range []struct {
		name, bytes string
		code        Code
	}{
		{"another protocol", "GET / HTTP/1.1\r\n", CodeVersion},
		{"another version", "culvmux\x02", CodeVersion},
		{"something else that reads like settings", preface + "\x40\x00\x00", CodeProtocol},
		{"no settings", preface + "\x08\x00\x01\x01", CodeProtocol},
		{"a setting below its floor", setting(settingCredit, 1), CodeProtocol},
		{"a setting twice", setting(settingStreams, 100, settingStreams, 100), CodeProtocol},
		{"settings out of order", setting(settingStreams, 100, settingCredit, 1<<20), CodeProtocol},
		{"half a setting", setting(settingStreams), CodeProtocol},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := rawPeer(t, quietly)
				p.write(row.bytes)
				p.wantEnd(row.code)
				p.conn.Close()
				p.link.Close()
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		p := rawPeer(t, quietly)
		p.write(setting(99, 1, 1<<40, 7)) // of a newer peer
		p.send(number(framePing, 5))
		p.want("settings of a newer peer are ignored", number(framePong, 5))
		p.conn.Close()
		p.link.Close()
	})
}

// FuzzFrame: there is one spelling for every frame, and no other is accepted.
// What can be read is written as the same bytes, and what can be written is
// read as the same frame. The reference reads the same, and finds the same
// fault, or one of several.
func FuzzFrame(f *testing.F) {
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		if fr := frameOf(kind, body); kind <= frameSettings || kind >= frameExtension {
			b := appendFrame(nil, fr)
			if n := int(b[1])<<8 | int(b[2]); b[0] != kind || n != len(b)-frameHeader {
				t.Fatalf("the header % x is not of %d bytes of type %#02x", b[:frameHeader], len(b)-frameHeader, kind)
			}
			if got, err := parseFrame(kind, b[frameHeader:]); err != nil || !same(got, fr) {
				t.Errorf("wrote %v, read %v, %v", fr, got, err)
			}
		}

		got, err := parseFrame(kind, body)
		numbers, tail, broken := refBody(kind, body)
		if err != nil {
			if e, ok := errors.AsType[*ConnError](err); !ok || !slices.Contains(broken, ending(e)) {
				t.Errorf("% x is refused with %v, want one of %v", body, err, broken)
			}
			return
		}
		if broken != nil {
			t.Errorf("% x is accepted in spite of %v", body, broken)
		}
		if b := appendFrame(nil, got)[frameHeader:]; !bytes.Equal(b, body) {
			t.Errorf("read % x but would write % x", body, b)
		}
		if fr := numbered(kind, numbers, tail); !same(got, fr) {
			t.Errorf("read %v, want %v", got, fr)
		}
		switch kind {
		case frameData, frameDataFin:
			stream, offset, n, err := parseDataPrefix(body[:min(len(body), maxPrefix)])
			if err != nil || stream != got.stream || offset != got.offset || n != len(body)-len(got.data) {
				t.Errorf("%v begins with stream %d, offset %d: %d bytes, %v", got, stream, offset, n, err)
			}
		case frameSettings:
			s, err := parseSettings(body)
			if err != nil {
				break
			}
			again, err := parseSettings(appendSettings(nil, s))
			if err != nil || again != s || s != (settings{max(s.streamCredit, floorStreamCredit), max(s.credit, floorCredit), max(s.streams, floorStreams), s.keep}) {
				t.Errorf("settings %v became %v, %v", s, again, err)
			}
		}
	})
}

// frameOf makes any frame of a type that can be written.
func frameOf(kind byte, seed []byte) frame {
	var n [3]uint64
	for i := range n {
		var b [8]byte
		seed = seed[copy(b[:], seed):]
		n[i] = binary.BigEndian.Uint64(b[:]) >> 2
	}
	if kind == frameReset || kind == frameStop {
		n[1] &= maxCode
	}
	limit := maxSmallBody
	switch kind {
	case frameData, frameDataFin:
		limit = maxPayload
	case frameClose:
		n[0] &= maxCode
		limit = maxReason
	case frameReset, frameStop, frameStreamCredit, frameBlocked, frameCredit, frameStreams, framePing, framePong, frameGoAway:
		limit = 0
	}
	return numbered(kind, n, seed[:min(len(seed), limit)])
}

// numbered is the frame that begins with those numbers.
func numbered(kind byte, n [3]uint64, tail []byte) frame {
	f := frame{kind: kind, data: tail}
	switch kind {
	case frameData, frameDataFin:
		f.stream, f.offset = n[0], n[1]
	case frameReset:
		f.stream, f.value, f.offset = n[0], n[1], n[2]
	case frameStop, frameStreamCredit, frameBlocked, frameLeave:
		f.stream, f.value = n[0], n[1]
	case frameCredit, frameStreams, framePing, framePong, frameGoAway, frameClose, frameAck, frameLane:
		f.value = n[0]
	}
	return f
}
