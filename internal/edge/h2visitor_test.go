package edge

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestExtendedConnectIsOffered: net/http was told in time; see package xconnect.
func TestExtendedConnectIsOffered(t *testing.T) {
	w := newWorld(t, nil)
	c, err := w.step.dial(w.from)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn := tls.Client(c, &tls.Config{RootCAs: w.roots, ServerName: blog, NextProtos: []string{"h2"}})
	io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	var head [9]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		t.Fatal(err)
	}
	settings := make([]byte, int(head[1])<<8|int(head[2]))
	if _, err := io.ReadFull(conn, settings); err != nil {
		t.Fatal(err)
	}
	const enableConnect = 8 // RFC 8441, section 3
	for ; len(settings) >= 6; settings = settings[6:] {
		if settings[1] == enableConnect && settings[5] == 1 {
			return
		}
	}
	t.Error("SETTINGS_ENABLE_CONNECT_PROTOCOL is not 1")
}

// TestOddRequestsOfHTTP2: the standard library makes 0 of a length that is none,
// and takes the first of two, which is how requests are smuggled (RFC 9113,
// section 8.1.1); and what else is expected than 100-continue it passes on.
func TestOddRequestsOfHTTP2(t *testing.T) {
	const refused = "400" // unless the standard library sees first that there is more than 0
	for name, test := range map[string]struct {
		fields string
		body   string
		status string
	}{
		"length in words":           {"content-length: abc", "", "400"},
		"length in words, and more": {"content-length: abc", "hello", refused},
		"length and no body":        {"content-length: 10", "", "400"},
		"two lengths":               {"content-length: 5\ncontent-length: 7", "hello", refused},
		"the same twice":            {"content-length: 5\ncontent-length: 5", "hello", refused},
		"a list and no body":        {"content-length: 0, 0", "", "400"},
		"a list":                    {"content-length: 5, 5", "hello", refused},
		"with a sign":               {"content-length: +5", "hello", refused},
		"negative":                  {"content-length: -1", "hello", refused},
		"in hex":                    {"content-length: 0x5", "hello", refused},
		"with a zero":               {"content-length: 05", "hello", refused},
		"beyond 64 bits":            {"content-length: 18446744073709551621", "hello", refused},
		"empty":                     {"content-length: ", "hello", refused},
		"right":                     {"content-length: 5", "hello", "200"},
		"0":                         {"content-length: 0", "", "200"},
		"an expectation":            {"expect: miracles", "hello", "417"},
		"the only one there is":     {"expect: 100-continue\ncontent-length: 5", "hello", "200"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			s := newService(func(rw http.ResponseWriter, r *http.Request) { io.Copy(rw, r.Body) })
			w.bind(blog, s)
			f := w.frames()
			fields := []string{":method", "POST", ":scheme", "https", ":authority", blog, ":path", "/"}
			for line := range strings.Lines(test.fields) {
				name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
				fields = append(fields, name, value)
			}
			f.headers(1, test.body == "", fields...)
			if test.body != "" {
				f.write(frameData, flagEndStream, 1, []byte(test.body))
			}
			a := f.answer(1)
			if test.status == refused && a.reset {
				a.status = refused
			}
			if a.status != test.status || test.status == "200" && a.body != test.body {
				t.Errorf("got %+v want %s", a, test.status)
			}
			if n := s.opened.Load(); test.status != "200" && n != 0 {
				t.Error("the service was asked")
			}
		})
	}
}
