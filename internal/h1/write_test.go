package h1

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestTargetsComeThrough: whatever target a visitor may send, the service gets
// byte for byte.
func TestTargetsComeThrough(t *testing.T) {
	target := rapid.StringMatching("/[!-\"$-~]{0,200}")
	method := rapid.StringMatching("[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}").Filter(func(m string) bool {
		return m != "CONNECT" && m != "PRI"
	})
	sizes := rapid.SliceOfN(rapid.Byte(), 1, 5)
	check := func(rt *rapid.T) {
		for range 50 { // 100 checks, unless told otherwise
			m, want := method.Draw(rt, "method"), target.Draw(rt, "target")
			written := AppendEnd(AppendField(AppendRequestLine(nil, m, want), "Host", "t.test"))
			var q Request
			if err := chop(written, sizes.Draw(rt, "sizes")...).ReadRequest(&q); err != nil {
				rt.Fatalf("%q: %v", written, describe(err))
			}
			if got := string(q.AppendTarget(nil)); got != want || string(q.Method) != m {
				rt.Fatalf("got %s %s, want %s %s", q.Method, got, m, want)
			}
		}
	}
	rapid.Check(t, check)
}

// TestWhatIsWritten is the canonical spelling.
func TestWhatIsWritten(t *testing.T) {
	b := AppendRequestLine(nil, "POST", []byte("/a?b"))
	b = AppendField(b, "A", "")
	b = AppendField(b, []byte("b"), "1\t\xff 2")
	b = AppendLength(b, Chunked)
	b = AppendLength(b, UntilClose)
	b = AppendLength(b, 0)
	b = AppendEnd(b)
	b = AppendChunk(b, "0123456789abcdef")
	b = AppendEnd(append(AppendChunkSize(b, 1), 'x'))
	b = AppendLastChunk(b, []Field{{Name: []byte("T"), Value: []byte("v")}})
	b = AppendStatusLine(b, 200, "All right")
	b = AppendStatusLine(b, 599, "")
	want := "POST /a?b HTTP/1.1\r\nA: \r\nb: 1\t\xff 2\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n" +
		"10\r\n0123456789abcdef\r\n1\r\nx\r\n0\r\nT: v\r\n\r\nHTTP/1.1 200 All right\r\nHTTP/1.1 599 \r\n"
	if string(b) != want {
		t.Errorf("got\n%q\nwant\n%q", b, want)
	}
}

// TestBugs: nothing is written that another parser could read in another way.
func TestBugs(t *testing.T) {
	for why, write := range map[string]func(){
		"a method with a space":       func() { AppendRequestLine(nil, "GET /", "/") },
		"no method":                   func() { AppendRequestLine(nil, "", "/") },
		"CONNECT":                     func() { AppendRequestLine(nil, "CONNECT", "/") },
		"a target with a space":       func() { AppendRequestLine(nil, "GET", "/ HTTP/1.1") },
		"a target with a fragment":    func() { AppendRequestLine(nil, "GET", "/#") },
		"no target":                   func() { AppendRequestLine(nil, "GET", "") },
		"absolute form":               func() { AppendRequestLine(nil, "GET", "http://t.test/") },
		"asterisk without OPTIONS":    func() { AppendRequestLine(nil, "GET", "*") },
		"status 99":                   func() { AppendStatusLine(nil, 99, "") },
		"status 600":                  func() { AppendStatusLine(nil, 600, "") },
		"a reason of two lines":       func() { AppendStatusLine(nil, 200, "a\r\nb: c") },
		"a name with a colon":         func() { AppendField(nil, "a:", "") },
		"no name":                     func() { AppendField(nil, "", "") },
		"a value of two lines":        func() { AppendField(nil, "a", "b\r\nc: d") },
		"a value with NUL":            func() { AppendField(nil, "a", "\x00") },
		"a value with a space at end": func() { AppendField(nil, "a", "b ") },
		"a value that begins with it": func() { AppendField(nil, "a", "\tb") },
		"a negative length":           func() { AppendLength(nil, -3) },
		"an empty chunk":              func() { AppendChunk(nil, "") },
		"framing in a trailer":        func() { AppendLastChunk(nil, []Field{{Name: []byte("Content-Length")}}) },
	} {
		func() {
			defer func() {
				if text, ok := recover().(string); !ok || !strings.HasPrefix(text, "BUG: ") {
					t.Errorf("%s: got %q, want a panic", why, text)
				}
			}()
			write()
		}()
	}
}

// TestValid: the Valid functions say yes exactly where the Append functions do
// not panic, byte by byte and in every place of a word.
func TestValid(t *testing.T) {
	panics := func(f func()) (did bool) {
		defer func() { did = recover() != nil }()
		f()
		return false
	}
	for c := range 256 {
		for at := range 12 {
			s := "aaaaaaaaaaaa"
			s = s[:at] + string([]byte{byte(c)}) + s[at:]
			if got := ValidName(s); got == panics(func() { AppendField(nil, s, "") }) {
				t.Errorf("ValidName(%q) = %t", s, got)
			}
			if got := ValidValue(s); got == panics(func() { AppendField(nil, "a", s) }) {
				t.Errorf("ValidValue(%q) = %t", s, got)
			}
			if got := ValidMethod(s); got == panics(func() { AppendRequestLine(nil, s, "/") }) {
				t.Errorf("ValidMethod(%q) = %t", s, got)
			}
			if got, _ := ParseRequest([]byte(lines("GET /"+s+" HTTP/1.1", host)), new(Request)); ValidTarget("GET", "/"+s) != (got > 0) {
				t.Errorf("ValidTarget(%q) = %t", "/"+s, !(got > 0))
			}
		}
	}
}

func TestMayTrail(t *testing.T) {
	for _, name := range []string{"Grpc-Status", "server-timing", "X-A", "Content-Digest", "Repr-Digest", "ETag", "link"} {
		if !MayTrail(name) {
			t.Errorf("%s may trail", name)
		}
	}
	for _, name := range []string{
		"Transfer-Encoding", "CONTENT-LENGTH", "host", "Connection", "TE", "Trailer", "Upgrade", "Expect", "Keep-Alive",
		"Content-Type", "content-encoding", "Content-Range", "Authorization", "Proxy-Anything", "Set-Cookie", "cookie",
		"If-Match", "Cache-Control", "Range", "Location", "Vary", "Max-Forwards", "Date",
	} {
		if MayTrail(name) {
			t.Errorf("%s may not trail", name)
		}
	}
}
