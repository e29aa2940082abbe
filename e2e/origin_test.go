package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// An origin is a service that reads HTTP/1.1 as strictly as it can be read,
// remembers what it got, and answers with the bytes that its test wants.
type origin struct {
	net.Listener
	answer func(*asked) // may leave the body unread; nil means answerOK

	mu  sync.Mutex // guards the field below
	got []*asked
}

// An asked is one request as it came.
type asked struct {
	method, target, version string
	fields                  []field
	body                    []byte
	trailers                []field

	bad   string // why it is none; the connection ends with it
	raw   []byte // all bytes from its first on that had come when it was logged
	after string // target of the request before, on the same connection

	o    *origin
	r    *strictReader
	c    net.Conn
	read bool  // the body was read,
	err  error // with this result
}

// A field is a header field, with its name as it was spelled.
type field struct{ name, value string }

// malformed is what a strict reader says of bytes that are no HTTP.
type malformed string

func (m malformed) Error() string { return string(m) }

// startOrigin runs an origin at any port.
func startOrigin(t testing.TB, answer func(*asked)) *origin {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &origin{Listener: ln, answer: answer}
	if o.answer == nil {
		o.answer = answerOK
	}
	serveConns(t, ln, o.serve)
	return o
}

func (o *origin) target() string { return port(o.Addr().String()) }

// answerOK reads the request and answers with two bytes.
func answerOK(q *asked) {
	if q.value("expect") == "100-continue" {
		q.say("HTTP/1.1 100 Continue\r\n\r\n")
	}
	if q.readBody() != nil {
		return
	}
	q.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Origin: 1\r\n\r\n%s", unless(q.method == "HEAD", "ok"))
}

func unless(not bool, s string) string {
	if not {
		return ""
	}
	return s
}

// serve reads requests from c until one of them is none.
func (o *origin) serve(c net.Conn) {
	c.SetDeadline(time.Now().Add(2 * patience))
	r := &strictReader{r: c}
	after := ""
	for {
		q := &asked{o: o, r: r, c: c, after: after}
		err := q.readHead()
		if err == nil {
			o.answer(q)
			err = q.readBody()
		}
		if bad, ok := err.(malformed); ok {
			q.bad = string(bad)
			q.log()
			q.say("HTTP/1.1 400 Bad\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		}
		if err != nil {
			return
		}
		after = q.target
	}
}

// log returns all that came so far.
func (o *origin) log() []*asked {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.got)
}

// log remembers q, which is complete, or will never be.
func (q *asked) log() {
	q.raw = bytes.Clone(q.r.b)
	q.o.mu.Lock()
	defer q.o.mu.Unlock()
	q.o.got = append(q.o.got, q)
}

// say writes to the edge. Nobody may be listening any more; the visitor tells.
func (q *asked) say(format string, args ...any) { fmt.Fprintf(q.c, format, args...) }

// values returns the values of a field, by its name in lower case.
func (q *asked) values(name string) []string { return valuesOf(q.fields, name) }

func (q *asked) value(name string) string { return strings.Join(q.values(name), ", ") }

func valuesOf(fields []field, name string) (values []string) {
	for _, f := range fields {
		if strings.EqualFold(f.name, name) {
			values = append(values, f.value)
		}
	}
	return values
}

// readHead reads a request line and fields, and nothing that is not exactly that.
func (q *asked) readHead() error {
	q.r.forget()
	line, err := q.r.line()
	if err != nil {
		return err
	}
	words := strings.Split(line, " ")
	if len(words) != 3 || !isToken(words[0]) || words[1] == "" || !isText(words[1], false) ||
		words[2] != "HTTP/1.1" && words[2] != "HTTP/1.0" {
		return malformed("request line " + line)
	}
	q.method, q.target, q.version = words[0], words[1], words[2]
	if q.fields, err = q.r.fields(); err != nil {
		return err
	}
	lengths, codings := q.values("content-length"), q.values("transfer-encoding")
	switch {
	case len(lengths)+len(codings) > 1:
		return malformed(fmt.Sprintf("framed by %q and %q", lengths, codings))
	case len(q.values("host")) > 1:
		return malformed("two hosts")
	}
	return nil
}

// readBody reads the body and the trailers, once, and logs the request.
func (q *asked) readBody() error {
	if !q.read {
		q.read, q.err = true, q.parseBody()
		if q.err == nil {
			q.log()
		}
	}
	return q.err
}

func (q *asked) parseBody() error {
	switch {
	case q.values("transfer-encoding") != nil:
		if coding := q.value("transfer-encoding"); !strings.EqualFold(coding, "chunked") {
			return malformed("Transfer-Encoding " + coding)
		}
		return q.readChunks()
	case q.values("content-length") != nil:
		n, err := number(q.value("content-length"), 10)
		if err == nil {
			q.body, err = q.r.exact(n)
		}
		return err
	}
	return nil
}

func (q *asked) readChunks() error {
	for {
		line, err := q.r.line()
		if err != nil {
			return err
		}
		size, _, _ := strings.Cut(line, ";")
		n, err := number(size, 16)
		if err != nil {
			return err
		}
		if n == 0 {
			q.trailers, err = q.r.fields()
			return err
		}
		chunk, err := q.r.exact(n + 2)
		if err != nil {
			return err
		}
		if string(chunk[n:]) != "\r\n" {
			return malformed("end of chunk")
		}
		q.body = append(q.body, chunk[:n]...)
	}
}

// number reads digits, and no sign, space or underscore.
func number(digits string, base int) (int, error) {
	n, err := strconv.ParseUint(digits, base, 40)
	if err != nil || digits[0] == '+' {
		return 0, malformed("length " + digits)
	}
	return int(n), nil
}

// A strictReader reads lines that end in CRLF.
type strictReader struct {
	r  io.Reader
	b  []byte // what was read and not yet forgotten
	at int    // how much of that was consumed
}

// forget lets go of what was consumed.
func (s *strictReader) forget() { s.b, s.at = slices.Clone(s.b[s.at:]), 0 }

func (s *strictReader) fill() error {
	s.b = slices.Grow(s.b, 64<<10)
	n, err := s.r.Read(s.b[len(s.b):cap(s.b)])
	s.b = s.b[:len(s.b)+n]
	if n > 0 {
		return nil
	}
	return err
}

func (s *strictReader) line() (string, error) {
	for {
		if n := bytes.IndexByte(s.b[s.at:], '\n'); n >= 0 {
			line := string(s.b[s.at : s.at+n])
			s.at += n + 1
			text, ok := strings.CutSuffix(line, "\r")
			if !ok || strings.ContainsAny(text, "\r\x00") {
				return "", malformed("line " + line)
			}
			return text, nil
		}
		if err := s.fill(); err != nil {
			return "", err
		}
	}
}

func (s *strictReader) exact(n int) ([]byte, error) {
	for len(s.b)-s.at < n {
		if err := s.fill(); err != nil {
			return nil, err
		}
	}
	b := s.b[s.at : s.at+n]
	s.at += n
	return b, nil
}

// fields reads fields and the empty line behind them.
func (s *strictReader) fields() (fields []field, err error) {
	for {
		line, err := s.line()
		if err != nil || line == "" {
			return fields, err
		}
		name, value, ok := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		if !ok || !isToken(name) || !isText(value, true) {
			return nil, malformed("field " + line)
		}
		fields = append(fields, field{name, value})
	}
}

func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

// isText reports whether s has no control characters, and, unless spaces are
// allowed, no spaces either.
func isText(s string, spaces bool) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && !(spaces && c == '\t') || c == ' ' && !spaces || c == 0x7f {
			return false
		}
	}
	return true
}
