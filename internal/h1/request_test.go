package h1

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

const host = "Host: t.test"

// TestRequests: what is accepted, and what it means.
func TestRequests(t *testing.T) {
	for _, c := range []struct {
		why, in, want string
	}{
		{"RFC 9112, 3: a request line", lines("GET / HTTP/1.1", host),
			`"GET" "/" form 0 host "t.test" rest 0 expect false minor 1 length 0 declared -1 close false upgrade ""`},
		{"RFC 9112, 2.2: an empty line before it", "\r\n" + lines("GET / HTTP/1.1", host),
			`"GET" "/" form 0 host "t.test" rest 0 expect false minor 1 length 0 declared -1 close false upgrade ""`},
		{"RFC 9112, 3.2: no Host in HTTP/1.0, which closes", lines("GET / HTTP/1.0"),
			`"GET" "/" form 0 host "" rest 0 expect false minor 0 length 0 declared -1 close true upgrade ""`},
		{"RFC 9112, 9.3: keep-alive of HTTP/1.0", lines("GET / HTTP/1.0", "Connection: Keep-Alive"),
			`"GET" "/" form 0 host "" rest 0 expect false minor 0 length 0 declared -1 close false upgrade ""`},
		{"RFC 9112, 9.3: close before keep-alive", lines("GET / HTTP/1.1", host, "Connection: keep-alive", "connection: x,, CLOSE ,"),
			`"GET" "/" form 0 host "t.test" rest 0 expect false minor 1 length 0 declared -1 close true upgrade ""`},
		{"RFC 9112, 3.2.2: absolute form", lines("GET http://T.test/a?b HTTP/1.1", host),
			`"GET" "http://T.test/a?b" form 1 host "t.test" rest 13 expect false minor 1 length 0 declared -1 close false upgrade ""`},
		{"RFC 9110, 4.2.3: the default port is no port", lines("GET httpS://t.test:443?b HTTP/1.1", "Host: T.TEST:"),
			`"GET" "httpS://t.test:443?b" form 1 host "T.TEST:" rest 18 expect false minor 1 length 0 declared -1 close false upgrade ""`},
		{"RFC 9112, 3.2.4: asterisk form", lines("OPTIONS * HTTP/1.1", host),
			`"OPTIONS" "*" form 2 host "t.test" rest 0 expect false minor 1 length 0 declared -1 close false upgrade ""`},
		{"RFC 9110, 7.2: addresses and ports", lines("GET / HTTP/1.1", "Host: [::1]:8443"),
			`"GET" "/" form 0 host "[::1]:8443" rest 0 expect false minor 1 length 0 declared -1 close false upgrade ""`},
		{"RFC 9110, 8.6: Content-Length", lines("POST / HTTP/1.1", host, "content-length:\t007 ") + "1234567",
			`"POST" "/" form 0 host "t.test" rest 0 expect false minor 1 length 7 declared 7 close false upgrade ""`},
		{"RFC 9112, 7.1: chunked", lines("POST / HTTP/1.1", host, "TRANSFER-ENCODING: Chunked") + "0\r\n\r\n",
			`"POST" "/" form 0 host "t.test" rest 0 expect false minor 1 length -1 declared -1 close false upgrade ""`},
		{"RFC 9110, 10.1.1: Expect", lines("POST / HTTP/1.1", host, "Expect: 100-Continue", "Content-Length: 0"),
			`"POST" "/" form 0 host "t.test" rest 0 expect true minor 1 length 0 declared 0 close false upgrade ""`},
		{"RFC 9110, 10.1.1: but not in HTTP/1.0", lines("POST / HTTP/1.0", host, "Expect: 100-continue", "Content-Length: 0"),
			`"POST" "/" form 0 host "t.test" rest 0 expect false minor 0 length 0 declared 0 close true upgrade ""`},
		{"RFC 9110, 7.8: Upgrade", lines("GET / HTTP/1.1", host, "Upgrade: websocket", "Connection: keep-alive, Upgrade"),
			`"GET" "/" form 0 host "t.test" rest 0 expect false minor 1 length 0 declared -1 close false upgrade "websocket"`},
		{"RFC 9110, 7.8: only if Connection names it", lines("GET / HTTP/1.1", host, "Upgrade: websocket"),
			`"GET" "/" form 0 host "t.test" rest 0 expect false minor 1 length 0 declared -1 close false upgrade ""`},
		{"RFC 9110, 7.8: and of two fields, none", lines("GET / HTTP/1.1", host, "Upgrade: a", "Upgrade: b", "Connection: upgrade"),
			`"GET" "/" form 0 host "t.test" rest 0 expect false minor 1 length 0 declared -1 close false upgrade ""`},
		{"RFC 9110, 7.8: and not in HTTP/1.0", lines("GET / HTTP/1.0", host, "Upgrade: websocket", "Connection: upgrade"),
			`"GET" "/" form 0 host "t.test" rest 0 expect false minor 0 length 0 declared -1 close true upgrade ""`},
		{"RFC 9110, 5.5: values of any kind", lines("GET / HTTP/1.1", host, "A:", "B: \t ", "C:\"\t\xff \x80\"", "d: \t1 2\t3 \t"),
			`"GET" "/" form 0 host "t.test" rest 0 expect false minor 1 length 0 declared -1 close false upgrade ""`},
	} {
		for _, sizes := range [][]byte{nil, {1}} {
			m, err := readRequest(chop([]byte(c.in), sizes...))
			if err != nil {
				t.Errorf("%s: refused: %s", c.why, describe(err))
				continue
			}
			if got, _, _ := strings.Cut(m.String(), "\n"); got != c.want {
				t.Errorf("%s:\ngot  %s\nwant %s", c.why, got, c.want)
			}
			if m.Request.Host != nil {
				checkForwarded(t, m)
			}
		}
	}
}

// TestRefusedRequests: each is refused with a status, and no later than when
// its last byte has come. The reader behind it never ends, so that waiting for
// more would be found out.
func TestRefusedRequests(t *testing.T) {
	for _, c := range []struct {
		why    string
		status int
		in     string
	}{
		{"TLS", 400, "\x16"},
		{"a space", 400, " "},
		{"a lone line feed", 400, "\n"},
		{"two empty lines", 400, "\r\n\r\n"},
		{"a lone carriage return", 400, "\rG"},
		{"no method", 400, "\r\n "},
		{"no token", 400, "GE("},
		{"a tab in the request line", 400, "GET\t"},
		{"RFC 9112, 3: a method longer than any", 501, strings.Repeat("A", 33)},
		{"RFC 9110, 9.3.6: CONNECT", 501, "CONNECT "},
		{"RFC 9113, 3.4: the preface of HTTP/2", 505, "PRI "},
		{"two spaces", 400, "GET  "},
		{"CVE-2023-45539: a fragment", 400, "GET /#"},
		{"a control character in the target", 400, "GET /\x01"},
		{"DEL in the target", 400, "GET /12345678\x7f"},
		{"RFC 3986, 2: what is not ASCII in the target", 400, "GET /12345678\x80"},
		{"HTTP/0.9", 400, "GET /\r"},
		{"HTTP/0.9 of a lenient one", 400, "GET /\n"},
		{"no path", 400, "GET a "},
		{"RFC 9112, 3.2.4: asterisk without OPTIONS", 400, "GET * "},
		{"authority form", 400, "GET t.test:80 "},
		{"another scheme", 400, "GET ftp://t.test/ "},
		{"RFC 9110, 4.2.4: user information", 400, "GET http://a@t.test/ "},
		{"RFC 9110, 4.2.1: no host", 400, "GET http:///a "},
		{"lower case", 400, "GET / h"},
		{"no version", 400, "GET / HTTP/1\r"},
		{"a longer version", 400, "GET / HTTP/1.1x"},
		{"a big version", 400, "GET / HTTP/42"},
		{"a space behind the version", 400, "GET / HTTP/1.1 "},
		{"a lone line feed behind the version", 400, "GET / HTTP/1.1\n"},
		{"a lone carriage return behind the version", 400, "GET / HTTP/1.1\rX"},
		{"RFC 9110, 15.6.6: HTTP/2.0", 505, "GET / HTTP/2.0\r"},
		{"RFC 9110, 15.6.6: HTTP/1.2", 505, "GET / HTTP/1.2\r"},
		{"RFC 9110, 15.6.6: HTTP/0.1", 505, "GET / HTTP/0.1\r"},
		{"RFC 9112, 2.2: whitespace before the first field", 400, "GET / HTTP/1.1\r\n "},
		{"RFC 9112, 5.2: a folded line", 400, "GET / HTTP/1.1\r\nA: b\r\n\t"},
		{"RFC 9112, 5.1: a space before the colon", 400, "GET / HTTP/1.1\r\nA "},
		{"an empty name", 400, "GET / HTTP/1.1\r\n:"},
		{"no colon", 400, "GET / HTTP/1.1\r\nA\r"},
		{"a name that is no token", 400, "GET / HTTP/1.1\r\nA\x80"},
		{"NUL in a value", 400, "GET / HTTP/1.1\r\nA: 1\x00"},
		{"DEL in a value", 400, "GET / HTTP/1.1\r\nA: 123456789\x7f"},
		{"a lone line feed in a value", 400, "GET / HTTP/1.1\r\nA: 1\n"},
		{"a lone carriage return in a value", 400, "GET / HTTP/1.1\r\nA: 1\r2"},
		{"a lone line feed instead of the empty line", 400, "GET / HTTP/1.1\r\n\n"},
		{"RFC 9112, 3.2: no Host", 400, lines("GET / HTTP/1.1")},
		{"RFC 9112, 3.2: two of them", 400, "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n"},
		{"RFC 9112, 3.2: an empty one", 400, "GET / HTTP/1.1\r\nHost:\r\n"},
		{"RFC 9112, 3.2: one that is no host", 400, "GET / HTTP/1.1\r\nHost: a/b\r\n"},
		{"RFC 9112, 3.2.2: a Host that is not the target's", 400, lines("GET http://u.test/ HTTP/1.1", host)},
		{"RFC 9112, 3.2.2: a port that is not the target's", 400, lines("GET http://t.test:443/ HTTP/1.1", host)},
		{"absolute form in HTTP/1.0", 400, lines("GET http://t.test/ HTTP/1.0", host)},
		{"RFC 9110, 8.6: a sign", 400, "POST / HTTP/1.1\r\nContent-Length: +1\r\n"},
		{"RFC 9110, 8.6: nothing", 400, "POST / HTTP/1.1\r\nContent-Length:\r\n"},
		{"RFC 9110, 8.6: 19 digits", 400, "POST / HTTP/1.1\r\nContent-Length: 1000000000000000000\r\n"},
		{"RFC 9112, 6.3: a list of lengths", 400, "POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n"},
		{"RFC 9112, 6.3: two lengths", 400, "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n"},
		{"RFC 9112, 6.3: two that are nothing", 400, "POST / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 0\r\n"},
		{"RFC 9112, 6.1: chunked, and nothing", 400, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n"},
		{"RFC 9112, 6.1: both framings", 400, "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n"},
		{"RFC 9112, 6.1: both, the other way round", 400, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n"},
		{"RFC 9112, 6.1: a coding that we do not know", 501, "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n"},
		{"RFC 9112, 6.1: chunked twice", 501, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n"},
		{"RFC 9112, 6.1: chunked in two fields", 400, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"},
		{"RFC 9112, 6.1: nonsense", 400, "POST / HTTP/1.1\r\nTransfer-Encoding: \"chunked\"\r\n"},
		{"RFC 9112, 6.1: nothing", 400, "POST / HTTP/1.1\r\nTransfer-Encoding:\r\n"},
		{"RFC 9112, 6.1: chunked in HTTP/1.0", 400, lines("POST / HTTP/1.0", "Transfer-Encoding: chunked")},
		{"RFC 9110, 10.1.1: another expectation", 417, "POST / HTTP/1.1\r\nExpect: 200-ok\r\n"},
		{"RFC 9110, 10.1.1: twice", 417, "POST / HTTP/1.1\r\nExpect: 100-continue\r\nExpect: 100-continue\r\n"},
		{"RFC 9110, 7.6.1: no list of tokens", 400, "GET / HTTP/1.1\r\nConnection: a b\r\n"},
		{"RFC 9110, 5.6.1.2: too many empty elements", 400, "GET / HTTP/1.1\r\nConnection: " + strings.Repeat(",", 65) + "\r\n"},
		{"RFC 9110, 7.8: no list of protocols", 400, "GET / HTTP/1.1\r\nUpgrade: \"x\"\r\n"},
		{"RFC 9110, 7.8: an empty one", 400, "GET / HTTP/1.1\r\nUpgrade:\r\n"},
		{"RFC 6585, 5: too many fields", 431, "GET / HTTP/1.1\r\n" + strings.Repeat("a:\r\n", 257)},
		{"RFC 9110, 15.5.15: a line without end", 414, "GET /" + strings.Repeat("a", MaxRequestHead-5)},
		{"RFC 6585, 5: a field without end", 431, "GET / HTTP/1.1\r\na:" + strings.Repeat(" ", MaxRequestHead-18)},
	} {
		for _, sizes := range [][]byte{nil, {1}, {100}} {
			r := NewReader(io.MultiReader(&cut{in: []byte(c.in), sizes: sizes}, forbidden{t, c.why}))
			var q Request
			err := r.ReadRequest(&q)
			wantStatus(t, err, c.status, c.why)
			if again := r.ReadRequest(&q); again != err {
				t.Errorf("%s: asked again, got %v", c.why, describe(again))
			}
		}
	}
}

// forbidden is an io.Reader that nobody should ask.
type forbidden struct {
	t   *testing.T
	why string
}

func (f forbidden) Read([]byte) (int, error) {
	f.t.Errorf("%s: the reader wants more", f.why)
	return 0, io.EOF
}

// TestEndsOfRequests: a connection may end between requests only.
func TestEndsOfRequests(t *testing.T) {
	whole := lines("POST / HTTP/1.1", host, "Content-Length: 3") + "abc"
	for n := range len(whole) {
		_, err := readRequest(chop([]byte(whole[:n])))
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if err != want {
			t.Errorf("cut behind %q: got %v, want %v", whole[:n], err, want)
		}
	}
	if _, err := readRequest(chop([]byte("\r\n"))); err != io.EOF {
		t.Errorf("an empty line only: got %v, want io.EOF", err)
	}
	r := chop([]byte(whole + "P"))
	if _, err := readRequest(r); err != nil {
		t.Error(describe(err))
	}
	if _, err := readRequest(r); err != io.ErrUnexpectedEOF {
		t.Errorf("the beginning of a second request: got %v, want io.ErrUnexpectedEOF", err)
	}
	var q Request
	if _, err := ParseRequest([]byte(whole[:20]), &q); err != io.ErrUnexpectedEOF {
		t.Errorf("half a head: got %v", err)
	}
	if n, err := ParseRequest([]byte(whole), &q); err != nil || n != len(whole)-3 {
		t.Errorf("a head of %d bytes: got %d, %v", len(whole)-3, n, err)
	}
}

// TestAppendTarget: an absolute target becomes what an origin server is sent.
func TestAppendTarget(t *testing.T) {
	for _, c := range []struct{ method, target, want, scheme string }{
		{"GET", "/a//b/../%2f?x=?&\"<>\\^`{|}", "/a//b/../%2f?x=?&\"<>\\^`{|}", ""},
		{"GET", "//a", "//a", ""},
		{"OPTIONS", "*", "*", ""},
		{"GET", "http://t.test", "/", "http"},
		{"GET", "HTTPS://t.test/", "/", "HTTPS"},
		{"GET", "http://t.test?q", "/?q", "http"},
		{"GET", "http://t.test/http://u.test", "/http://u.test", "http"},
		{"OPTIONS", "http://t.test", "*", "http"},
		{"OPTIONS", "http://t.test?q", "/?q", "http"},
	} {
		var q Request
		if _, err := ParseRequest([]byte(lines(c.method+" "+c.target+" HTTP/1.1", host)), &q); err != nil {
			t.Errorf("%s %s: %v", c.method, c.target, describe(err))
			continue
		}
		if got := string(q.AppendTarget(nil)); got != c.want {
			t.Errorf("%s %s is written %s, want %s", c.method, c.target, got, c.want)
		}
		if got := string(q.Scheme()); got != c.scheme {
			t.Errorf("%s %s has scheme %q, want %q", c.method, c.target, got, c.scheme)
		}
	}
}

func TestNamed(t *testing.T) {
	var q Request
	head := lines("GET / HTTP/1.1", host, "Connection: X-A ,x-b", "connection:,, HOST")
	if _, err := ParseRequest([]byte(head), &q); err != nil {
		t.Fatal(describe(err))
	}
	for name, want := range map[string]bool{"x-a": true, "X-B": true, "host": true, "X-": false, "connection": false} {
		if got := q.Named([]byte(name)); got != want {
			t.Errorf("Named(%q) = %t", name, got)
		}
	}
}

func TestValidHost(t *testing.T) {
	for host, want := range map[string]bool{
		"a": true, "a.b-c_d~!$&'()*+,;=": true, "a:": true, "a:65535": true, "a%2E": true, "1.2.3.4:80": true,
		"[::1]": true, "[::ffff:1.2.3.4]:8": true,
		"": false, ":80": false, "a:123456": false, "a:8a": false, "a:80:90": false, "a%2": false, "a%zz": false,
		"a@b": false, "a/b": false, "a b": false, "a\x80": false, "[a]": false, "[1.2.3.4]": false,
		"[::1": false, "[::1]a": false, "[::1%25eth0]": false, "[::1%eth0]": false, "[]": false, "a]": false,
	} {
		if got := ValidHost(host); got != want {
			t.Errorf("ValidHost(%q) = %t", host, got)
		}
	}
}

// TestDribble: a head is looked at once, and started over only when its buffer
// grows. Counted by what the parser is given to look at.
func TestDribble(t *testing.T) {
	var q Request
	head := []byte(lines("GET / HTTP/1.1", host, "A: "+strings.Repeat("a", 50_000)))
	var p parser
	p.request(&q)
	for n := range head {
		before := p.next
		if done, err := p.run(head[:n+1]); err != nil || done != (n+1 == len(head)) {
			t.Fatalf("at %d: %v, %v", n, done, describe(err))
		}
		if p.next < before || p.next < n {
			t.Fatalf("at %d: the parser is at %d, and was at %d", n, p.next, before)
		}
	}
	if !bytes.HasSuffix(q.Fields[1].Value, []byte("aaa")) {
		t.Error("the value is not there")
	}
}
