package edge

import (
	"io"
	"net"
	"testing"
)

// TestAnswersToUpgradesNotPassedOn: a 101 to what the service was not asked is
// as wrong as any other, also if the visitor did ask: the edge has not passed
// it on, and does not stop to look at what it carries.
func TestAnswersToUpgradesNotPassedOn(t *testing.T) {
	for name, head := range map[string]string{
		"h2c":            "GET / HTTP/1.1\nConnection: Upgrade\nUpgrade: h2c\n",
		"h2c and more":   "GET / HTTP/1.1\nConnection: Upgrade\nUpgrade: echo, h2c\n",
		"with a body":    "POST / HTTP/1.1\nConnection: Upgrade\nUpgrade: echo\nContent-Length: 2\n",
		"body to come":   "POST / HTTP/1.1\nConnection: Upgrade\nUpgrade: echo\nContent-Length: 200\n",
		"without a wish": "GET / HTTP/1.1\nUpgrade: echo\n",
		"of HTTP/1.0":    "GET / HTTP/1.0\nConnection: Upgrade\nUpgrade: echo\n",
	} {
		for _, protocol := range []string{"echo", "h2c"} {
			t.Run(name+", "+protocol, inBubble(func(t *testing.T) {
				w := newWorld(t, nil)
				w.bind(blog, rawService(func(c net.Conn) {
					c.Read(make([]byte, 4<<10))
					io.WriteString(c, "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\nraw")
					io.Copy(io.Discard, c)
				}))
				v := w.raw(blog)
				v.send("%sHost: %s\n\nxx", head, blog)
				if res := v.answer("GET"); res.StatusCode != 502 || res.Header.Get("Culvert-Error") != "service_bad_response" {
					t.Errorf("got %d %v", res.StatusCode, res.Header)
				}
			}))
		}
	}
}
