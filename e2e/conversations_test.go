package e2e

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// A conversation is what one request and its answer cannot tell: who waits for
// whom, what comes in pieces, and what is no HTTP/1.1 at all.
type conversation struct {
	name  string
	serve func(*asked) // nil is answerOK
	talk  func(t *testing.T, e *entrance)
}

// say sends bytes, in which @H@ is the host.
func (s *speaker1) say(e *entrance, format string, args ...any) {
	fmt.Fprintf(s.c, strings.ReplaceAll(format, "@H@", e.host), args...)
}

// want hears the answer to a request with that method, and wants that status.
func (s *speaker1) want(t *testing.T, method string, status int) *heard {
	t.Helper()
	h, err := s.hear(method)
	if err != nil || h.status != status {
		t.Fatalf("the visitor hears %+v, %v; want %d", h, err, status)
	}
	return h
}

// wantEnd wants the edge to hang up.
func (s *speaker1) wantEnd(t *testing.T) {
	t.Helper()
	b, err := io.ReadAll(s.c)
	if rest := append(s.r.b[s.r.at:], b...); len(rest) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the visitor hears %q (%v); want the end", rest, err)
	}
}

func (e *entrance) speak1(t *testing.T) *speaker1 { return e.speak(t, "http/1.1").(*speaker1) }

// refused is a request that the edge answers itself.
func refused(status int, code, request string) func(t *testing.T, e *entrance) {
	return func(t *testing.T, e *entrance) {
		v := e.speak1(t)
		v.say(e, request)
		h := v.want(t, "GET", status)
		if got := h.value("culvert-error"); code != "" && got != code {
			t.Errorf("Culvert-Error %q; want %q", got, code)
		}
	}
}

// answered is a request that reaches the service.
func answered(request string) func(t *testing.T, e *entrance) {
	return func(t *testing.T, e *entrance) {
		v := e.speak1(t)
		v.say(e, request)
		if h := v.want(t, "GET", 200); h.body != "ok" {
			t.Errorf("%+v", h)
		}
	}
}

// wantsEcho answers with the target and the host that it was asked for.
func wantsEcho(q *asked) {
	if q.readBody() == nil {
		answer := length("200 OK", q.method+" "+q.target+" of "+q.value("host"))
		if q.method == "HEAD" {
			answer = length("200 OK", "")
		}
		q.say("%s", answer)
	}
}

// holdsBack is a visitor who sends the body only when he is told to, and the
// service does as it likes. The standard library's HTTP/2 tells him to as soon
// as somebody wants the body, and keeps the expectation to itself.
func holdsBack(proto string, interim bool, status int) func(t *testing.T, e *entrance) {
	q := ask{method: "POST", target: "/" + proto, fields: []field{{"Expect", "100-continue"}, {"Content-Length", "4"}}}
	return func(t *testing.T, e *entrance) {
		if proto == "http/1.1" {
			v := e.speak1(t)
			v.say(e, "POST /http/1.1 HTTP/1.1\r\nHost: @H@\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
			if interim {
				if status, _, err := v.head(); err != nil || status != 100 {
					t.Fatalf("the visitor hears %d, %v; want 100", status, err)
				}
				v.say(e, "body")
			}
			if h := v.want(t, "POST", status); len(h.interim) > 0 {
				t.Errorf("interim answers %v", h.interim)
			}
			return
		}
		v := e.speak(t, "h2").(*speaker2)
		if err := v.open(q.pseudo(e.host), false); err != nil {
			t.Fatal(err)
		}
		if interim {
			f, err := v.next()
			if err != nil || len(f.fields) == 0 || f.fields[0].value != "100" {
				t.Fatalf("the visitor hears %+v, %v; want 100", f, err)
			}
			v.data([]byte("body"), true)
		}
		if h, err := v.hear(); err != nil || h.status != status {
			t.Fatalf("the visitor hears %+v, %v; want %d", h, err, status)
		}
	}
}

func continues(q *asked) {
	if q.value("expect") != "100-continue" && q.target == "/http/1.1" {
		q.say("%s", length("500 No", "expectation"))
		return
	}
	answerOK(q)
}

// final answers at once, and will not have the body.
func final(status string) func(q *asked) {
	return func(q *asked) {
		q.say("%s", length(status, "no", "Connection: close"))
		q.c.(*net.TCPConn).CloseWrite()
		q.readBody()
	}
}

var conversations = []conversation{
	// RFC 9112, section 3.2: there is one host, and it decides.
	{"no host", nil, refused(400, "bad_request", "GET / HTTP/1.1\r\n\r\n")},
	{"two hosts", nil, refused(400, "bad_request", "GET / HTTP/1.1\r\nHost: @H@\r\nHost: @H@\r\n\r\n")},
	{"empty host", nil, refused(400, "bad_request", "GET / HTTP/1.1\r\nHost:\r\n\r\n")},
	{"host with a space", nil, refused(400, "bad_request", "GET / HTTP/1.1\r\nHost: @H@ x\r\n\r\n")},
	{"host with a user", nil, refused(400, "bad_request", "GET / HTTP/1.1\r\nHost: u@@H@\r\n\r\n")},
	{"host with a path", nil, refused(400, "bad_request", "GET / HTTP/1.1\r\nHost: @H@/\r\n\r\n")},
	{"host that is a list", nil, refused(400, "bad_request", "GET / HTTP/1.1\r\nHost: @H@, @H@\r\n\r\n")},
	{"host with a bad port", nil, refused(400, "bad_request", "GET / HTTP/1.1\r\nHost: @H@:8o\r\n\r\n")},
	{"host of somebody else", nil, func(t *testing.T, e *entrance) {
		v := e.speak1(t)
		v.say(e, "GET / HTTP/1.1\r\nHost: other.localhost\r\n\r\n")
		if h := v.want(t, "GET", 421); h.value("culvert-error") != "misdirected" {
			t.Errorf("%+v", h)
		}
	}},
	{"host in capitals", nil, answered("GET / HTTP/1.1\r\nHost: RFC.LocalHost\r\n\r\n")},
	{"host with a port", nil, answered("GET / HTTP/1.1\r\nHost: @H@:8443\r\n\r\n")},
	{"host with a dot", nil, answered("GET / HTTP/1.1\r\nHost: @H@.\r\n\r\n")},
	{"absolute form", wantsEcho, func(t *testing.T, e *entrance) {
		v := e.speak1(t)
		v.say(e, "GET https://@H@/a%%2fb?c HTTP/1.1\r\nHost: @H@\r\n\r\n")
		if h := v.want(t, "GET", 200); h.body != "GET /a%2fb?c of "+e.host {
			t.Errorf("the service is asked for %q", h.body)
		}
	}},
	{"absolute form beats the host", wantsEcho, func(t *testing.T, e *entrance) {
		v := e.speak1(t)
		v.say(e, "GET https://@H@/ HTTP/1.1\r\nHost: other.localhost\r\n\r\n")
		h, err := v.hear("GET") // section 3.2.2; to refuse it is safe as well
		if err != nil || h.status != 400 && h.status != 421 && (h.status != 200 || h.body != "GET / of "+e.host) {
			t.Errorf("%+v, %v", h, err)
		}
	}},
	{"absolute form of somebody else", nil, func(t *testing.T, e *entrance) {
		v := e.speak1(t)
		v.say(e, "GET https://other.localhost/ HTTP/1.1\r\nHost: @H@\r\n\r\n")
		if h, err := v.hear("GET"); err != nil || h.status != 421 && h.status != 400 {
			t.Errorf("%+v, %v", h, err)
		}
	}},
	{"authority of HTTP/2 beside another host", nil, func(t *testing.T, e *entrance) { // RFC 9113, section 8.3.1
		h, err := e.speak(t, "h2").exchange(e.host, ask{target: "/", fields: []field{{"Host", "other.localhost"}}})
		if err != nil || h.status != 400 && h.reset == "" {
			t.Errorf("%+v, %v", h, err)
		}
	}},
	{"another host of the certificate, by HTTP/2", wantsEcho, func(t *testing.T, e *entrance) {
		c, err := tls.Dial("tcp", e.addr, &tls.Config{RootCAs: e.roots, ServerName: "other.localhost", NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		v, err := newSpeaker2(c)
		if err != nil {
			t.Fatal(err)
		}
		h, err := v.exchange(e.host, ask{target: "/"}) // as browsers do, or told to come again
		if err != nil || h.status != 421 && (h.status != 200 || h.body != "GET / of "+e.host) {
			t.Errorf("%+v, %v", h, err)
		}
	}},

	// RFC 9112, sections 2 and 3: what is no request.
	{"CONNECT", nil, refused(501, "bad_request", "CONNECT @H@:443 HTTP/1.1\r\nHost: @H@:443\r\n\r\n")},
	{"a version to come", nil, func(t *testing.T, e *entrance) {
		v := e.speak1(t)
		v.say(e, "GET / HTTP/3.0\r\nHost: @H@\r\n\r\n")
		if h, err := v.hear("GET"); err != nil || h.status != 400 && h.status != 505 {
			t.Errorf("%+v, %v", h, err)
		}
	}},
	{"a head without end", nil, func(t *testing.T, e *entrance) {
		v := e.speak1(t)
		go v.say(e, "GET / HTTP/1.1\r\nHost: @H@\r\nX-Long: %s\r\n\r\n", strings.Repeat("x", 4<<20))
		v.want(t, "GET", 431)
	}},
	{"an empty line first", nil, answered("\r\nGET / HTTP/1.1\r\nHost: @H@\r\n\r\n")}, // section 2.2
	{"chunk extensions go no further", func(q *asked) {
		if q.readBody() != nil {
			return
		}
		q.say("%s", length("200 OK", unless(bytes.Contains(q.raw, []byte("ext")) || string(q.body) != "abc", "ok")))
	}, answered("POST / HTTP/1.1\r\nHost: @H@\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=\"a;b\"\r\nabc\r\n0;ext\r\n\r\n")},
	{"an expectation that nobody knows", nil, func(t *testing.T, e *entrance) { // RFC 9110, section 10.1.1
		v := e.speak1(t)
		v.say(e, "GET / HTTP/1.1\r\nHost: @H@\r\nExpect: miracles\r\n\r\n")
		if h, err := v.hear("GET"); err != nil || h.status != 417 && h.status != 200 {
			t.Errorf("%+v, %v", h, err)
		}
	}},

	// RFC 9110, section 10.1.1: a visitor who waits before he sends.
	{"100 of the service", continues, holdsBack("http/1.1", true, 200)},
	{"100 of the service, h2", continues, holdsBack("h2", true, 200)},
	{"417 instead of 100", final("417 Expectation Failed"), holdsBack("http/1.1", false, 417)},
	{"417 instead of 100, h2", final("417 Expectation Failed"), holdsBack("h2", false, 417)},
	{"200 instead of 100", final("200 OK"), holdsBack("http/1.1", false, 200)},
	{"200 instead of 100, h2", final("200 OK"), holdsBack("h2", false, 200)},
}
