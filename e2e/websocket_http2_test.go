package e2e

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// A stream2 is the newest stream of a speaker2, as a connection.
type stream2 struct {
	s    *speaker2
	rest []byte
	end  bool
}

func (c *stream2) Write(b []byte) (int, error) { return len(b), c.s.data(b, false) }

func (c *stream2) CloseWrite() error { return c.s.data(nil, true) }

func (c *stream2) Read(b []byte) (int, error) {
	for len(c.rest) == 0 {
		if c.end {
			return 0, io.EOF
		}
		f, err := c.s.next()
		if err != nil {
			return 0, err
		}
		c.rest, c.end = f.data, f.end
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// connect is the handshake of a WebSocket by HTTP/2 (RFC 8441, section 5).
func (h wsHandshake) connect(host, protocol string) []field {
	fields := []field{
		{":method", "CONNECT"}, {":protocol", protocol}, {":scheme", "https"}, {":authority", host}, {":path", orSlash(h.target)},
		{"sec-websocket-version", "13"}, {"origin", "https://" + host},
	}
	for name, value := range h.replace {
		fields = slices.DeleteFunc(fields, func(f field) bool { return f.name == strings.ToLower(name) })
		if value != "" {
			fields = append(fields, field{name, value})
		}
	}
	return fields
}

// hold2 has the talk by HTTP/2.
func (w *wsTalk) hold2(v *speaker2, host string) (heard []string, err error) {
	if err := v.open(w.connect(host, "websocket"), false); err != nil {
		return nil, err
	}
	f, err := v.next()
	if err != nil || f.fields == nil {
		return nil, fmt.Errorf("%+v, %v", f, err)
	}
	var h heardHead
	h.take(f.fields)
	c := &stream2{s: v, end: f.end}
	s := &webSocket{r: c, w: c, heard: h.lines(h.status == 200)}
	if h.status == 200 {
		w.talk(s)
		c.CloseWrite()
	}
	return s.heard, nil
}

// A heardHead is what an answer to a handshake says in every HTTP.
type heardHead struct{ heard }

func (h *heardHead) lines(agreed bool) []string {
	lines := []string{fmt.Sprint("agreed: ", agreed)}
	if !agreed {
		return append(lines, fmt.Sprint(h.status))
	}
	for _, name := range []string{"sec-websocket-protocol", "sec-websocket-extensions"} {
		if values := h.values(name); values != nil {
			lines = append(lines, fmt.Sprint(name, ": ", values))
		}
	}
	return lines
}

// inEveryHTTP takes what is HTTP/1.1's own out of what was heard in it.
func inEveryHTTP(heard []string) []string {
	status := heard[0][:3]
	if status != "101" {
		return []string{"agreed: false", status}
	}
	lines := []string{"agreed: true"}
	for _, line := range heard[1:] {
		if !strings.HasPrefix(line, "upgrade: ") && !strings.HasPrefix(line, "sec-websocket-accept: ") {
			lines = append(lines, line)
		}
	}
	return lines
}

// The same talks by HTTP/2, all on one connection (RFC 8441).
func TestWebSocketHTTP2(t *testing.T) {
	t.Parallel()
	addr := wsService(t)
	e := enter(t, "ws", port(addr))
	v := e.speak(t, "h2").(*speaker2)
	talks := slices.DeleteFunc(wsTalks(), func(w wsTalk) bool { return w.only1 })
	s := newScore(t, "WebSocket, HTTP/2", 2+len(talks))
	if !s.run(t, "it is offered", func(t *testing.T) {
		if v.peer[settingConnect] != 1 {
			t.Error("SETTINGS_ENABLE_CONNECT_PROTOCOL is not set")
		}
	}) {
		return // nobody may try
	}
	s.run(t, "a protocol that nobody knows", func(t *testing.T) {
		v := e.speak(t, "h2").(*speaker2) // which may cost the connection
		if err := v.open((wsHandshake{}).connect(e.host, "gopher"), false); err != nil {
			t.Fatal(err)
		}
		if h, err := v.hear(); err == nil && h.reset == "" && h.status < 400 {
			t.Errorf("%+v", h)
		}
	})
	for _, talk := range talks {
		s.run(t, talk.name, func(t *testing.T) {
			want := inEveryHTTP(talk.directly(t, addr, e.host))
			if got, err := talk.hold2(v, e.host); err != nil || !slices.Equal(got, want) {
				t.Errorf("through the tunnel, the visitor hears\n%q, %v; without it\n%q", got, err, want)
			}
		})
	}
}
