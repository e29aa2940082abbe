package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// A wsTalk is a conversation by WebSocket.
type wsTalk struct {
	name string
	wsHandshake
	says  func(s *webSocket) // after the handshake; nil says goodbye
	opens bool               // the service agrees to the handshake
	only1 bool               // it is about fields that only HTTP/1.1 has
	vague bool               // it is about fields of one hop: only the status has to be the same
}

const deflate = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"

// goodbye closes with a code and a reason, and hears the rest.
func (s *webSocket) goodbye(code uint16, reason string) {
	s.send(wsFin|wsClose, append([]byte{byte(code >> 8), byte(code)}, reason...))
	s.rest()
}

func (s *webSocket) rest() {
	for s.hear() {
	}
}

// says is a talk of frames that the visitor sends and does not wait between,
// and a goodbye.
func saying(frames ...string) func(*webSocket) {
	return func(s *webSocket) {
		for _, f := range frames {
			s.send(f[0], []byte(f[1:]))
		}
		s.goodbye(1000, "")
	}
}

// breaking is a frame that breaks the rules: the service closes.
func breaking(frame ...byte) func(*webSocket) {
	return func(s *webSocket) {
		s.w.Write(frame)
		s.rest()
	}
}

// wsTalks returns all of them.
func wsTalks() (talks []wsTalk) {
	field := func(name, value string) wsHandshake {
		return wsHandshake{replace: map[string]string{name: value}}
	}
	// Handshakes (RFC 6455, section 4).
	for _, talk := range []wsTalk{
		{name: "plain", opens: true},
		{name: "path and query", wsHandshake: wsHandshake{target: "/a%2Fb//c?d=e&f"}, opens: true},
		{name: "path that is none", wsHandshake: wsHandshake{target: "/nothing"}},
		{name: "version 8", wsHandshake: field("Sec-WebSocket-Version", "8")},
		{name: "version missing", wsHandshake: field("Sec-WebSocket-Version", "")},
		{name: "key missing", only1: true, wsHandshake: field("Sec-WebSocket-Key", "")},
		{name: "key too short", only1: true, wsHandshake: field("Sec-WebSocket-Key", "c2hvcnQ=")},
		{name: "another origin", wsHandshake: field("Origin", "https://evil.example")},
		{name: "no origin", wsHandshake: field("Origin", ""), opens: true},
		{name: "no upgrade", only1: true, vague: true, wsHandshake: field("Upgrade", "")},
		{name: "no connection", only1: true, vague: true, wsHandshake: field("Connection", "keep-alive")},
		{name: "upgrade in capitals", only1: true, wsHandshake: field("Upgrade", "WebSocket"), opens: true},
		{name: "connection with more", only1: true, wsHandshake: field("Connection", "keep-alive, Upgrade"), opens: true},
		{name: "protocol echo", wsHandshake: field("Sec-WebSocket-Protocol", "echo"), opens: true},
		{name: "protocol of a list", wsHandshake: field("Sec-WebSocket-Protocol", "other, parrot, echo"), opens: true},
		{name: "protocol nobody knows", wsHandshake: field("Sec-WebSocket-Protocol", "other"), opens: true},
		{name: "extension", wsHandshake: field("Sec-WebSocket-Extensions", deflate), opens: true},
		{name: "extension nobody knows", wsHandshake: field("Sec-WebSocket-Extensions", "x-other; a=b"), opens: true},
		{name: "a frame right behind it", only1: true, opens: true,
			wsHandshake: wsHandshake{behind: string(wsFrame(wsFin|wsText, 0x80, []byte("early")))}},
		{name: "service leaves at once", wsHandshake: wsHandshake{target: "/leave"}, opens: true,
			says: func(s *webSocket) { s.hear(); s.goodbye(1001, "out of patience") }},
	} {
		talk.name = "handshake, " + talk.name
		talks = append(talks, talk)
	}

	// Messages of every size at which the head changes (section 5.2).
	for _, size := range []int{0, 1, 125, 126, 65535, 65536, 1 << 20} {
		for _, kind := range []byte{wsText, wsBinary} {
			name := map[byte]string{wsText: "text", wsBinary: "binary"}[kind]
			payload := bytes.Repeat([]byte("w"), size)
			if kind == wsBinary {
				io.ReadFull(generate(int64(size)), payload)
			}
			for _, frames := range []int{1, 3} {
				for _, compressed := range []bool{false, true} {
					talk := wsTalk{name: fmt.Sprintf("%s of %d in %d", name, size, frames), opens: true, says: func(s *webSocket) {
						s.message(kind, payload, frames, compressed)
						s.hear()
						s.goodbye(1000, "done")
					}}
					if compressed {
						talk.name += ", compressed"
						talk.wsHandshake = field("Sec-WebSocket-Extensions", deflate)
					}
					talks = append(talks, talk)
				}
			}
		}
	}
	return append(talks, wsControls()...)
}

// wsControls is about control frames, closing (section 7) and broken rules.
func wsControls() (talks []wsTalk) {
	add := func(name string, says func(*webSocket)) {
		talks = append(talks, wsTalk{name: name, opens: true, says: says})
	}
	frame := func(head byte, payload string) string { return string([]byte{head}) + payload }
	add("ping", saying(frame(wsFin|wsPing, "")))
	add("ping of 125", saying(frame(wsFin|wsPing, strings.Repeat("p", 125))))
	add("pings and messages", saying(frame(wsFin|wsPing, "1"), frame(wsFin|wsText, "a"), frame(wsFin|wsPing, "2"), frame(wsFin|wsText, "b")))
	add("ping between fragments", saying(frame(wsText, "hel"), frame(wsFin|wsPing, "now"), frame(wsFin|wsMore, "lo")))
	add("pong nobody asked for", saying(frame(wsFin|wsPong, "so there"), frame(wsFin|wsText, "a")))
	add("hundred messages", func(s *webSocket) {
		for i := range 100 {
			s.message(wsText, fmt.Append(nil, i), 1, false)
		}
		s.goodbye(1000, "")
	})
	for _, code := range []uint16{1000, 1001, 1003, 1007, 1011, 3000, 4000, 4999} {
		add(fmt.Sprint("close ", code), func(s *webSocket) { s.goodbye(code, "because") })
	}
	for _, code := range []uint16{0, 999, 1004, 1005, 1006, 2999, 5000} {
		add(fmt.Sprint("close with bad code ", code), func(s *webSocket) { s.goodbye(code, "") })
	}
	add("close without a code", func(s *webSocket) { s.send(wsFin|wsClose, nil); s.rest() })
	add("close with half a code", breaking(wsFrame(wsFin|wsClose, 0x80, []byte{3})...))
	add("a message not masked", breaking(wsFrame(wsFin|wsText, 0, []byte("bare"))...))
	add("reserved opcode", breaking(wsFrame(wsFin|0x3, 0x80, nil)...))
	add("reserved bit", breaking(wsFrame(wsFin|wsText|0x20, 0x80, nil)...))
	add("control frame in pieces", breaking(wsFrame(wsPing, 0x80, nil)...))
	add("control frame too long", breaking(wsFrame(wsFin|wsPing, 0x80, bytes.Repeat([]byte("p"), 126))...))
	add("the rest of no message", breaking(wsFrame(wsFin|wsMore, 0x80, nil)...))
	add("leaves without a word", func(s *webSocket) {
		s.message(wsText, []byte("a"), 1, false)
		s.hear()
		s.w.(interface{ CloseWrite() error }).CloseWrite()
		s.rest()
	})
	return talks
}

// hold has the talk on c, which it closes, and returns all that the visitor heard.
func (w *wsTalk) hold(c net.Conn, host string) (heard []string, opened bool) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	s, open := openWebSocket(c, host, w.wsHandshake)
	if w.vague {
		return []string{s.heard[0][:3]}, open
	}
	if open {
		w.talk(s)
	}
	return s.heard, open
}

func (w *wsTalk) talk(s *webSocket) {
	if w.says == nil {
		s.goodbye(1000, "")
		return
	}
	w.says(s)
}

// directly has the talk with the service itself.
func (w *wsTalk) directly(t *testing.T, addr, host string) (heard []string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	heard, opened := w.hold(c, host)
	if opened != w.opens {
		t.Fatalf("without a tunnel, the visitor hears %q", heard)
	}
	return heard
}

// WebSockets say the same through the tunnel as without it: to each talk the
// visitor hears, frame by frame, what he hears from the service itself.
func TestWebSocketMatrix(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		enter func(t *testing.T, name, target string, flags ...string) *entrance
	}{
		{"TLS", enter},
		{"plain", enterPlain},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr := wsService(t)
			e := tt.enter(t, "ws", port(addr))
			talks := wsTalks()
			s := newScore(t, "WebSocket, "+tt.name, len(talks))
			for _, talk := range talks {
				s.run(t, talk.name, func(t *testing.T) {
					want := talk.directly(t, addr, e.host)
					if got, _ := talk.hold(e.mustDial(t, "http/1.1"), e.host); !slices.Equal(got, want) {
						t.Errorf("through the tunnel, the visitor hears\n%q; without it\n%q", got, want)
					}
				})
			}
		})
	}
}
