package e2e

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// An ask is a request as a visitor means it, whichever HTTP it speaks.
type ask struct {
	method   string // "" means GET
	target   string
	fields   []field // beside the host
	body     string
	trailers []field
	chunked  bool // by HTTP/1.1: the body comes in chunks, also without trailers
}

// A heard is what the visitor got for it.
type heard struct {
	interim  []int // 1xx before the answer
	hints    []field
	status   int
	fields   []field
	body     string
	trailers []field
	reset    string // why it was broken off, by HTTP/2
}

func (h *heard) values(name string) []string { return valuesOf(h.fields, name) }

func (h *heard) value(name string) string { return strings.Join(h.values(name), ", ") }

// A speaker is a visitor's connection, in HTTP/1.1 or HTTP/2.
type speaker interface {
	// exchange makes one request for host, and returns the answer.
	exchange(host string, q ask) (*heard, error)
}

// mustDial is dial for a test that ends without a connection, which it closes
// at its end.
func (e *entrance) mustDial(t *testing.T, proto string) net.Conn {
	t.Helper()
	c, err := e.dial(proto)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// protos are the ALPN names of the HTTP that the edge speaks, by what subtests
// are called after them: a slash would be a level of its own.
var protos = []struct{ name, proto string }{{"h1", "http/1.1"}, {"h2", "h2"}}

// speak opens a connection that speaks proto: http/1.1 or h2.
func (e *entrance) speak(t *testing.T, proto string) speaker {
	t.Helper()
	c := e.mustDial(t, proto)
	if proto == "http/1.1" {
		return &speaker1{r: &strictReader{r: c}, c: c}
	}
	s, err := newSpeaker2(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A speaker1 speaks HTTP/1.1, byte by byte.
type speaker1 struct {
	r *strictReader
	c net.Conn
}

// bytes is the request as it is written.
func (q ask) bytes(host string) string {
	method := q.method
	if method == "" {
		method = "GET"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, q.target, host)
	for _, f := range q.fields {
		fmt.Fprintf(&b, "%s: %s\r\n", f.name, f.value)
	}
	switch {
	case q.chunked || q.trailers != nil:
		b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		if q.body != "" {
			fmt.Fprintf(&b, "%x\r\n%s\r\n", len(q.body), q.body)
		}
		b.WriteString("0\r\n")
		for _, f := range q.trailers {
			fmt.Fprintf(&b, "%s: %s\r\n", f.name, f.value)
		}
	case q.body != "":
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(q.body), q.body)
		return b.String()
	}
	b.WriteString("\r\n")
	return b.String()
}

func (s *speaker1) exchange(host string, q ask) (*heard, error) {
	if _, err := io.WriteString(s.c, q.bytes(host)); err != nil {
		return nil, err
	}
	return s.hear(q.method)
}

// hear reads the answer to a request with that method.
func (s *speaker1) hear(method string) (*heard, error) {
	h := new(heard)
	for {
		status, fields, err := s.head()
		if err != nil {
			return h, err
		}
		if status >= 200 || status == 101 {
			h.status, h.fields = status, fields
			break
		}
		h.interim, h.hints = append(h.interim, status), fields
	}
	// Framed like a request, but for what has no body whatever its fields say,
	// and what ends with the connection (RFC 9112, section 6.3).
	if method == "HEAD" || h.status == 101 || h.status == 204 || h.status == 304 {
		return h, nil
	}
	q := &asked{fields: h.fields, r: s.r}
	if h.values("transfer-encoding") == nil && h.values("content-length") == nil {
		return h, s.rest(h)
	}
	err := q.parseBody()
	h.body, h.trailers = string(q.body), q.trailers
	return h, err
}

// head reads one head.
func (s *speaker1) head() (status int, fields []field, err error) {
	line, err := s.r.line()
	if err != nil {
		return 0, nil, err
	}
	var minor int // what a visitor of HTTP/1.0 is told
	if _, err := fmt.Sscanf(line, "HTTP/1.%1d %3d", &minor, &status); err != nil {
		return 0, nil, malformed("status line " + line)
	}
	fields, err = s.r.fields()
	return status, fields, err
}

// rest reads a body up to the end of the connection.
func (s *speaker1) rest(h *heard) error {
	for {
		if err := s.r.fill(); err != nil {
			h.body, s.r.at = string(s.r.b[s.r.at:]), len(s.r.b)
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
}
