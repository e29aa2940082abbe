package h1

import (
	"io"
	"strings"
	"testing"
)

// TestResponses: what is accepted, and what it means.
func TestResponses(t *testing.T) {
	for _, c := range []struct {
		why    string
		toHEAD bool
		in     string
		want   string // status, reason and framing
		body   string
	}{
		{"RFC 9112, 4: a status line", false, lines("HTTP/1.1 200 OK", "Content-Length: 2") + "ok",
			`200 "OK" minor 1 length 2 declared 2 close false upgrade ""`, "ok"},
		{"RFC 9112, 4: a reason of any kind", false, lines("HTTP/1.1 200 \tN\xf6 , \"x\" ", "Content-Length: 0"),
			`200 "\tN\xf6 , \"x\" " minor 1 length 0 declared 0 close false upgrade ""`, ""},
		{"RFC 9112, 4: no reason", false, lines("HTTP/1.1 200 ", "Content-Length: 0"),
			`200 "" minor 1 length 0 declared 0 close false upgrade ""`, ""},
		{"RFC 9112, 4: and no space before it", false, lines("HTTP/1.1 599", "Content-Length: 0"),
			`599 "" minor 1 length 0 declared 0 close false upgrade ""`, ""},
		{"RFC 9112, 6.3: until close", false, lines("HTTP/1.1 200 OK") + "all\r\n\r\nof it",
			`200 "OK" minor 1 length -2 declared -1 close true upgrade ""`, "all\r\n\r\nof it"},
		{"RFC 9112, 9.3: HTTP/1.0 closes", false, lines("HTTP/1.0 200 OK", "Content-Length: 1") + "a",
			`200 "OK" minor 0 length 1 declared 1 close true upgrade ""`, "a"},
		{"RFC 9112, 9.3: unless it says otherwise", false, lines("HTTP/1.0 200 OK", "Content-Length: 1", "Connection: keep-alive") + "a",
			`200 "OK" minor 0 length 1 declared 1 close false upgrade ""`, "a"},
		{"RFC 9112, 7.1: chunked", false, lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "3\r\nabc\r\n0\r\n\r\n",
			`200 "OK" minor 1 length -1 declared -1 close false upgrade ""`, "abc"},
		{"RFC 9112, 6.3: no body for HEAD", true, lines("HTTP/1.1 200 OK", "Content-Length: 2"),
			`200 "OK" minor 1 length 0 declared 2 close false upgrade ""`, ""},
		{"RFC 9112, 6.1: chunked to HEAD", true, lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"),
			`200 "OK" minor 1 length 0 declared -1 close false upgrade ""`, ""},
		{"RFC 9112, 6.3: no body in 304", false, lines("HTTP/1.1 304 Not Modified", "Content-Length: 2"),
			`304 "Not Modified" minor 1 length 0 declared 2 close false upgrade ""`, ""},
		{"RFC 9112, 6.3: no body in 204", false, lines("HTTP/1.1 204 No Content"),
			`204 "No Content" minor 1 length 0 declared -1 close false upgrade ""`, ""},
		{"RFC 9110, 8.6: no length in 204, but many say 0", false, lines("HTTP/1.1 204 No Content", "Content-Length: 0"),
			`204 "No Content" minor 1 length 0 declared 0 close false upgrade ""`, ""},
		{"RFC 9110, 8.6: whoever says more is not believed again", false, lines("HTTP/1.1 204 No Content", "Content-Length: 2"),
			`204 "No Content" minor 1 length 0 declared 2 close true upgrade ""`, ""},
		{"RFC 9110, 15.2: an interim answer", false, lines("HTTP/1.1 103 Early Hints", "Link: </a>"),
			`103 "Early Hints" minor 1 length 0 declared -1 close false upgrade ""`, ""},
		{"RFC 9110, 15.2.2: another protocol", false, lines("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"),
			`101 "Switching Protocols" minor 1 length 0 declared -1 close false upgrade "websocket"`, ""},
		{"Host and Expect mean nothing", false, lines("HTTP/1.1 200 OK", "Content-Length: 0", "Host: a b", "Host: c", "Expect: x"),
			`200 "OK" minor 1 length 0 declared 0 close false upgrade ""`, ""},
	} {
		for _, sizes := range [][]byte{nil, {1}} {
			r := chop([]byte(c.in), sizes...)
			m, err := readResponse(r, c.toHEAD)
			if err != nil {
				t.Errorf("%s: refused: %s", c.why, describe(err))
				continue
			}
			if got := strings.Split(m.String(), "\n")[1]; got != c.want || m.Body != c.body {
				t.Errorf("%s:\ngot  %s %q\nwant %s %q", c.why, got, m.Body, c.want, c.body)
			}
			if err := r.ReadResponse(new(Response), false); err != io.EOF {
				t.Errorf("%s: behind it: %v, want io.EOF", c.why, describe(err))
			}
			if !c.toHEAD {
				checkForwarded(t, m)
			}
		}
	}
}

// TestRefusedResponses: all are a bad gateway, and no later than when the last
// byte has come.
func TestRefusedResponses(t *testing.T) {
	for _, c := range []struct{ why, in string }{
		{"something else", "I"},
		{"RFC 9112, 2.2: an empty line is for requests", "\r"},
		{"lower case", "h"},
		{"HTTP/2", "HTTP/2.0 "},
		{"HTTP/1.2", "HTTP/1.2 "},
		{"no minor", "HTTP/1 "},
		{"two spaces", "HTTP/1.1  "},
		{"RFC 9110, 15: a status below 100", "HTTP/1.1 0"},
		{"RFC 9110, 15: a status above 599", "HTTP/1.1 6"},
		{"a short status", "HTTP/1.1 20 "},
		{"a long status", "HTTP/1.1 2000"},
		{"a tab", "HTTP/1.1 200\t"},
		{"NUL in the reason", "HTTP/1.1 200 \x00"},
		{"a lone line feed behind the status", "HTTP/1.1 200\n"},
		{"a lone line feed behind the reason", "HTTP/1.1 200 OK\n"},
		{"a folded line", "HTTP/1.1 200 OK\r\nA: b\r\n "},
		{"a lone line feed", "HTTP/1.1 200 OK\r\nA: b\n"},
		{"NUL", "HTTP/1.1 200 OK\r\nA: \x00"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n"},
		{"a bad length where none counts", "HTTP/1.1 304 OK\r\nContent-Length: x\r\n"},
		{"both framings", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n"},
		{"RFC 9112, 6.1: a coding that nobody asked for", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n"},
		{"RFC 9112, 6.1: chunked in HTTP/1.0", lines("HTTP/1.0 200 OK", "Transfer-Encoding: chunked")},
		{"RFC 9112, 6.1: chunked in 204", lines("HTTP/1.1 204 OK", "Transfer-Encoding: chunked")},
		{"RFC 9112, 6.1: chunked in 103", lines("HTTP/1.1 103 OK", "Transfer-Encoding: chunked")},
		{"RFC 9110, 15.2.2: 101 to nothing", lines("HTTP/1.1 101 OK", "Upgrade: a")},
		{"RFC 9110, 15.2.2: 101 to what", lines("HTTP/1.1 101 OK", "Connection: upgrade")},
		{"RFC 9110, 15.2.2: 101 in HTTP/1.0", lines("HTTP/1.0 101 OK", "Connection: upgrade", "Upgrade: a")},
		{"too many fields", "HTTP/1.1 200 OK\r\n" + strings.Repeat("a:\r\n", 257)},
		{"a reason without end", "HTTP/1.1 200 " + strings.Repeat("a", MaxResponseHead-13)},
		{"a field without end", "HTTP/1.1 200 \r\na: " + strings.Repeat("a", MaxResponseHead-18)},
	} {
		for _, sizes := range [][]byte{nil, {1}, {100}} {
			r := NewReader(io.MultiReader(&cut{in: []byte(c.in), sizes: sizes}, forbidden{t, c.why}))
			wantStatus(t, r.ReadResponse(new(Response), false), 502, c.why)
		}
	}
}

// TestEndsOfResponses: only a body that has no other end may end with the
// connection.
func TestEndsOfResponses(t *testing.T) {
	for _, whole := range []string{
		lines("HTTP/1.1 200 OK", "Content-Length: 3") + "abc",
		lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "2;a=\"b\"\r\nab\r\n0\r\nA: b\r\n\r\n",
	} {
		for n := range len(whole) {
			_, err := readResponse(chop([]byte(whole[:n])), false)
			want := io.ErrUnexpectedEOF
			if n == 0 {
				want = io.EOF
			}
			if err != want {
				t.Errorf("cut behind %q: got %v, want %v", whole[:n], err, want)
			}
		}
	}
}
