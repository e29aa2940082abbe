package edge

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestConnectWithoutAWebSocket: over HTTP/2 any 2xx says that the WebSocket is
// there (RFC 8441, section 5), and what follows is taken for its frames. So the
// service must have said 101, and to the key that we made.
func TestConnectWithoutAWebSocket(t *testing.T) {
	accept := func(key string) string {
		sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455, section 4.2.2
		return "Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\n"
	}
	const switching = "HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: websocket\n"
	for name, test := range map[string]struct {
		answer func(key string) string
		status string
	}{
		"200":              {func(string) string { return ok200 + "Content-Length: 6\n\n<html>" }, "502"},
		"200, accepting":   {func(key string) string { return ok200 + accept(key) + "Content-Length: 6\n\n<html>" }, "502"},
		"204":              {func(string) string { return "HTTP/1.1 204 No Content\n\n" }, "502"},
		"another key":      {func(string) string { return switching + accept("AAAAAAAAAAAAAAAAAAAAAA==") + "\n" }, "502"},
		"no key":           {func(string) string { return switching + "\n" }, "502"},
		"the right key":    {func(key string) string { return switching + accept(key) + "\n" }, "200"},
		"it is not there":  {func(string) string { return "HTTP/1.1 404 Not Found\nContent-Length: 0\n\n" }, "404"},
		"it is over there": {func(string) string { return "HTTP/1.1 302 Found\nLocation: /\nContent-Length: 0\n\n" }, "302"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.bind(blog, rawService(func(c net.Conn) {
				q, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				io.WriteString(c, strings.ReplaceAll(test.answer(q.Header.Get("Sec-WebSocket-Key")), "\n", "\r\n"))
				io.Copy(io.Discard, c)
			}))
			f := w.frames()
			f.headers(1, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":authority", blog, ":path", "/",
				"sec-websocket-version", "13", "sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==")
			for {
				g, err := f.next()
				if err != nil {
					t.Fatal(err)
				}
				if g.kind != frameHeaders {
					continue
				}
				if got := g.field(":status"); got != test.status || g.field("sec-websocket-accept") != "" {
					t.Errorf("got %v want %s", g.fields, test.status)
				}
				break
			}
		})
	}
}
