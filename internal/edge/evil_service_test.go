//go:build !race

package edge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// What becomes of the visitor whom an evil service answers.
type fate int

const (
	refused  fate = iota // 502 service_bad_response
	failed               // 502, for whatever reason
	cut                  // an answer that nobody takes for the whole
	clean                // an answer that is right
	whatever             // nobody can say: what is declared, or an answer that is cut
)

// An evil is how a service answers, and what the visitor gets.
type evil struct {
	name   string
	answer string // in which \n is CRLF, and LF and CR are bare
	want   fate
	body   string // if clean
	method string // GET if empty
	ends   bool   // the service hangs up behind the answer
	again  bool   // the connection may be used again: nothing was wrong
}

// evils are the ways of evil services.
func evils() []evil {
	long := strings.Repeat("x", 2<<20)
	chunked := func(s string) string { return ok200 + "Transfer-Encoding: chunked\n\n" + s }
	var all []evil
	add := func(want fate, cases ...string) {
		for i := 0; i < len(cases); i += 2 {
			all = append(all, evil{name: cases[i], answer: cases[i+1], want: want})
		}
	}
	add(refused,
		"two lengths", ok200+"Content-Length: 2\nContent-Length: 3\n\nok!",
		"the same length twice", ok200+"Content-Length: 2\nContent-Length: 2\n\nok",
		"a list of lengths", ok200+"Content-Length: 2, 2\n\nok",
		"length with a sign", ok200+"Content-Length: +2\n\nok",
		"negative length", ok200+"Content-Length: -1\n\nok",
		"length in hex", ok200+"Content-Length: 0x2\n\nok",
		"empty length", ok200+"Content-Length:\n\nok",
		"length with a space", ok200+"Content-Length: 1 2\n\nok",
		"length of 19 digits", ok200+"Content-Length: 9223372036854775808\n\nok",
		"length beyond 64 bits", ok200+"Content-Length: 18446744073709551618\n\nok",
		"length and chunks", ok200+"Content-Length: 2\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n",
		"chunks and length", ok200+"Transfer-Encoding: chunked\nContent-Length: 2\n\n2\nok\n0\n\n",
		"identity", ok200+"Transfer-Encoding: identity\n\nok",
		"gzip and chunked", ok200+"Transfer-Encoding: gzip, chunked\n\n2\nok\n0\n\n",
		"chunked twice", ok200+"Transfer-Encoding: chunked, chunked\n\n2\nok\n0\n\n",
		"chunked in two fields", ok200+"Transfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n",
		"xchunked", ok200+"Transfer-Encoding: xchunked\n\n2\nok\n0\n\n",
		"quoted chunked", ok200+"Transfer-Encoding: \"chunked\"\n\n2\nok\n0\n\n",
		"chunked in HTTP/1.0", "HTTP/1.0 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n",
		"chunked 204", "HTTP/1.1 204 No\nTransfer-Encoding: chunked\n\n0\n\n",
		"chunked 103", "HTTP/1.1 103 Hm\nTransfer-Encoding: chunked\n\n"+ok200+"Content-Length: 2\n\nok",
		"folded", ok200+"X: a\n b\nContent-Length: 2\n\nok",
		"folded with a tab", ok200+"X: a\n\tb\nContent-Length: 2\n\nok",
		"folded at once", ok200+" X: a\nContent-Length: 2\n\nok",
		"lone LF", "HTTP/1.1 200 OKLFContent-Length: 2LFLFok",
		"lone LF in the head", ok200+"X: aLFContent-Length: 2\n\nok",
		"lone LF at the end", ok200+"Content-Length: 2\nLFok",
		"lone CR", ok200+"X: aCRSet-Cookie: b=c\nContent-Length: 2\n\nok",
		"lone CR at the end", ok200+"Content-Length: 2\nCRok",
		"CR CR LF", ok200+"X: aCR\nContent-Length: 2\n\nok",
		"split in the reason by CR", "HTTP/1.1 200 OKCRX: y\nContent-Length: 2\n\nok",
		"split in the reason by LF", "HTTP/1.1 200 OKLFX: y\nContent-Length: 2\n\nok",
		"NUL in the reason", "HTTP/1.1 200 O\x00K\nContent-Length: 2\n\nok",
		"NUL in a value", ok200+"X: a\x00b\nContent-Length: 2\n\nok",
		"NUL in a name", ok200+"X\x00: ab\nContent-Length: 2\n\nok",
		"DEL in a value", ok200+"X: a\x7fb\nContent-Length: 2\n\nok",
		"vertical tab in a value", ok200+"X: a\x0bb\nContent-Length: 2\n\nok",
		"space before the colon", ok200+"Content-Length : 2\n\nok",
		"space in a name", ok200+"Content Length: 2\n\nok",
		"umlaut in a name", ok200+"Gr\xfc\xdfe: 2\n\nok",
		"no colon", ok200+"Content-Length 2\n\nok",
		"no name", ok200+": x\nContent-Length: 2\n\nok",
		"two MB of fields", ok200+strings.Repeat("X: "+strings.Repeat("y", 1000)+"\n", 2000)+"\nok",
		"a field of two MB", ok200+"X: "+long+"\n\nok",
		"a name of two MB", ok200+long,
		"a reason of two MB", "HTTP/1.1 200 "+long+"\n\nok",
		"100,000 fields", ok200+strings.Repeat("X:\n", 100_000)+"\nok",
		"an endless first line", long,
		"status 999", "HTTP/1.1 999 Hm\nContent-Length: 2\n\nok",
		"status 600", "HTTP/1.1 600 Hm\nContent-Length: 2\n\nok",
		"status 099", "HTTP/1.1 099 Hm\nContent-Length: 2\n\nok",
		"status 000", "HTTP/1.1 000 Hm\nContent-Length: 2\n\nok",
		"status of two digits", "HTTP/1.1 20 OK\nContent-Length: 2\n\nok",
		"status of four digits", "HTTP/1.1 2000 OK\nContent-Length: 2\n\nok",
		"status in letters", "HTTP/1.1 2OO OK\nContent-Length: 2\n\nok",
		"negative status", "HTTP/1.1 -200 OK\nContent-Length: 2\n\nok",
		"status in Arabic digits", "HTTP/1.1 \u0662\u0660\u0660 OK\nContent-Length: 2\n\nok",
		"two spaces", "HTTP/1.1  200 OK\nContent-Length: 2\n\nok",
		"HTTP/0.9", "<html>hello world</html>\n",
		"HTTP/1.2", "HTTP/1.2 200 OK\nContent-Length: 2\n\nok",
		"HTTP/2.0", "HTTP/2.0 200 OK\nContent-Length: 2\n\nok",
		"HTTP/2 in frames", "\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"http/1.1 in small letters", "http/1.1 200 OK\nContent-Length: 2\n\nok",
		"no version", "200 OK\nContent-Length: 2\n\nok",
		"empty line first", "\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok",
		"SSH", "SSH-2.0-OpenSSH_9.9\n",
		"a TLS alert", "\x15\x03\x01\x00\x02\x02\x46",
		"101 that nobody asked for", "HTTP/1.1 101 Switching\nConnection: Upgrade\nUpgrade: websocket\n\nraw",
		"101 to nothing", "HTTP/1.1 101 Switching\n\nraw",
		"101 to a list", "HTTP/1.1 101 Switching\nConnection: Upgrade\nUpgrade: ,\n\nraw",
		"33 interim answers", strings.Repeat("HTTP/1.1 103 Hm\n\n", maxInterim+1)+ok200+"Content-Length: 2\n\nok",
		"10,000 interim answers", strings.Repeat("HTTP/1.1 103 Hm\n\n", 10_000)+ok200+"Content-Length: 2\n\nok",
		"100 without end", strings.Repeat("HTTP/1.1 100 Continue\n\n", 10_000),
		"199 without end", strings.Repeat("HTTP/1.1 199 Hm\n\n", 10_000),
		"bad Connection", ok200+"Connection: a b\nContent-Length: 2\n\nok",
	)
	add(cut,
		"chunk size in words", chunked("two\nok\n0\n\n"),
		"chunk size with 0x", chunked("0x2\nok\n0\n\n"),
		"negative chunk size", chunked("-2\nok\n0\n\n"),
		"chunk size with a sign", chunked("+2\nok\n0\n\n"),
		"empty chunk size", chunked("\nok\n0\n\n"),
		"space before a chunk size", chunked(" 2\nok\n0\n\n"),
		"chunk size beyond 64 bits", chunked("10000000000000002\nok\n0\n\n"),
		"chunk size beyond 63 bits", chunked("ffffffffffffffff\nok\n0\n\n"),
		"chunk size with an underscore", chunked("0_2\nok\n0\n\n"),
		"lone LF behind a size", chunked("2LFok\n0\n\n"),
		"lone CR behind a size", chunked("2CRok\n0\n\n"),
		"lone LF behind a chunk", chunked("2\nokLF0\n\n"),
		"nothing behind a chunk", chunked("2\nok0\n\n"),
		"more than the chunk has", chunked("2\nok!\n0\n\n"),
		"less than the chunk has", chunked("3\nok\n0\n\n"),
		"extension with LF", chunked("2;aLFb\nok\n0\n\n"),
		"extension with NUL", chunked("2;a\x00b\nok\n0\n\n"),
		"extension that is not closed", chunked("2;a=\"b\nok\n0\n\n"),
		"long extension", chunked("2;"+strings.Repeat("a", 64<<10)+"\nok\n0\n\n"),
		"extensions without end", chunked(strings.Repeat("1;"+strings.Repeat("a", 1000)+"\nx\n", 1000)+"0\n\n"),
		"folded trailer", chunked("2\nok\n0\nX: y\n z\n\n"),
		"trailer without a colon", chunked("2\nok\n0\nX\n\n"),
		"trailer with LF", chunked("2\nok\n0\nX: yLF\n\n"),
		"two MB of trailers", chunked("2\nok\n0\n"+strings.Repeat("X: "+strings.Repeat("y", 1000)+"\n", 2000)+"\n"),
		"last chunk with LF", chunked("2\nok\n0LFLF"),
	)
	for _, e := range []evil{
		{name: "length too short", answer: ok200 + "Content-Length: 3\n\nok"},
		{name: "no last chunk", answer: chunked("2\nok\n")},
		{name: "half a chunk", answer: chunked("ff\nok")},
		{name: "half a chunk size", answer: chunked("2\nok\n0")},
		{name: "half of the end", answer: chunked("2\nok\n0\n")},
		{name: "half a trailer", answer: chunked("2\nok\n0\nX: y")},
	} {
		e.want, e.ends = cut, true
		all = append(all, e)
	}
	for _, e := range []evil{
		{name: "nothing"},
		{name: "half a first line", answer: "HTTP/1.1 2"},
		{name: "half a head", answer: ok200 + "X: "},
		{name: "only an interim answer", answer: "HTTP/1.1 103 Hm\n\n"},
	} {
		e.want, e.ends = failed, true
		all = append(all, e)
	}
	another := ok200 + "Content-Length: 6\n\nPOISON"
	return append(all,
		evil{name: "no reason", answer: "HTTP/1.1 200\nContent-Length: 2\n\nok", want: clean, body: "ok", again: true},
		evil{name: "empty reason", answer: "HTTP/1.1 200 \nContent-Length: 2\n\nok", want: clean, body: "ok", again: true},
		evil{name: "odd reason", answer: "HTTP/1.1 200 <b>\t\xff: x\nContent-Length: 2\n\nok", want: clean, body: "ok", again: true},
		evil{name: "trailers that are none", answer: chunked("2\nok\n0\nSet-Cookie: a=b\nContent-Length: 9\nTransfer-Encoding: x\nHost: x\n\n"), want: clean, body: "ok", again: true},
		evil{name: "bytes behind the length", answer: ok200 + "Content-Length: 2\n\nok" + another, want: clean, body: "ok"},
		evil{name: "bytes behind the last chunk", answer: chunked("2\nok\n0\n\n" + another), want: clean, body: "ok"},
		evil{name: "an empty line behind", answer: ok200 + "Content-Length: 2\n\nok\n", want: clean, body: "ok"},
		evil{name: "length 0 and bytes", answer: ok200 + "Content-Length: 0\n\n" + another, want: clean},
		evil{name: "HEAD and a body", method: "HEAD", answer: ok200 + "Content-Length: 6\n\nPOISON", want: clean},
		evil{name: "HEAD and chunks", method: "HEAD", answer: chunked("6\nPOISON\n0\n\n"), want: clean},
		evil{name: "204 and a body", answer: "HTTP/1.1 204 No\n\nPOISON", want: clean},
		evil{name: "204 with a length", answer: "HTTP/1.1 204 No\nContent-Length: 6\n\n", want: clean},
		evil{name: "204 with a length and a body", answer: "HTTP/1.1 204 No\nContent-Length: 6\n\nPOISON", want: clean},
		evil{name: "304 and a body", answer: "HTTP/1.1 304 No\n\nPOISON", want: clean},
		evil{name: "close, and then more", answer: ok200 + "Content-Length: 2\nConnection: close\n\nok" + another, want: clean, body: "ok"},
		evil{name: "until the end", answer: ok200 + "\nok", want: clean, body: "ok", ends: true},
		evil{name: "until the end, a whole answer", answer: ok200 + "\n" + another, want: clean,
			body: strings.ReplaceAll(another, "\n", "\r\n"), ends: true},
	)
}

var spelling = strings.NewReplacer("\n", "\r\n", "LF", "\n", "CR", "\r")

// An evilService answers the first request as an evil does, and all others with
// who asked.
type evilService struct {
	*service
	used atomic.Bool // the connection with the evil answer got another request
}

func newEvilService(e evil, drips bool) *evilService {
	s := new(evilService)
	var first atomic.Bool
	s.service = rawService(func(c net.Conn) {
		r := bufio.NewReader(c)
		wicked := false
		for {
			q, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, q.Body)
			switch {
			case first.CompareAndSwap(false, true):
				wicked = true
				if drips {
					spelling.WriteString(c, e.answer) // line by line
				} else {
					io.WriteString(c, spelling.Replace(e.answer))
				}
				if e.ends {
					return
				}
			case wicked && !e.again:
				s.used.Store(true)
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON")
			default:
				who := q.URL.Query().Get("who")
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(who), who)
			}
		}
	})
	return s
}

// TestEvilService: whatever a service answers, its visitor gets something that
// is right or is told that it is wrong, and the next one nothing of it: that
// connection is not used again (H1-07).
func TestEvilService(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		all := evils()
		for i, e := range slices.Concat(all, all) {
			t.Run(e.name, inBubble(func(t *testing.T) {
				w := newWorld(t, nil)
				c := w.visitor(h2)
				s := newEvilService(e, i >= len(all))
				w.bind(blog, s.service)
				ask := func(method, who string) (*http.Response, string, error) {
					r, _ := http.NewRequest(method, "https://"+blog+"/?who="+who, nil)
					res, err := c.Do(r)
					if err != nil {
						return nil, "", err
					}
					defer res.Body.Close()
					body, err := io.ReadAll(res.Body)
					return res, string(body), err
				}
				method := e.method
				if method == "" {
					method = "GET"
				}
				c.CloseIdleConnections() // or this visitor would take a cut for a connection that was idle for too long, and ask again
				res, body, err := ask(method, "first")
				checkFate(t, e, res, body, err)
				time.Sleep(10 * time.Millisecond) // for what is still under way
				for _, who := range []string{"second", "third"} {
					if res, got, err := ask("GET", who); err != nil || res.StatusCode != 200 || got != who {
						t.Errorf("%s: the %s visitor got %q, %v; want his own answer", e.name, who, got, err)
					}
				}
				want := int32(2)
				if e.again {
					want = 1
				}
				if got := s.opened.Load(); got != want || s.used.Load() {
					t.Errorf("%s: %d streams were opened, used again %v; want %d", e.name, got, s.used.Load(), want)
				}
			}))
		}
	})
}

func checkFate(t *testing.T, e evil, res *http.Response, body string, err error) {
	t.Helper()
	code := ""
	if res != nil {
		code = res.Header.Get("Culvert-Error")
	}
	switch e.want {
	case refused:
		if err != nil || res.StatusCode != 502 || code != "service_bad_response" {
			t.Errorf("%s: got %v, %v; want 502 service_bad_response", e.name, res, err)
		}
	case failed:
		if err != nil || res.StatusCode != 502 || code == "" {
			t.Errorf("%s: got %v, %v; want 502", e.name, res, err)
		}
	case cut:
		if err == nil {
			t.Errorf("%s: got %d %q as if it were whole", e.name, res.StatusCode, body)
		}
	case clean:
		if err != nil || code != "" || body != e.body || len(res.Trailer) > 0 {
			t.Errorf("%s: got %v, %q, %v; want %q", e.name, res, body, err, e.body)
		}
	}
	if strings.Contains(body, "POISON") && e.body == "" {
		t.Errorf("%s: got %q", e.name, body)
	}
}

// TestAnswerBeforeTheRequest: what a service said before it was asked is not
// the answer to anything, or everybody would get the one meant for the visitor
// before him.
func TestAnswerBeforeTheRequest(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			w.bind(blog, rawService(func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")
				for r := bufio.NewReader(c); ; {
					q, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					who := q.URL.Query().Get("who")
					fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(who), who)
				}
			}))
			c := w.visitor(h2)
			for i := range 5 {
				time.Sleep(10 * time.Millisecond)
				who := fmt.Sprint("visitor", i)
				res, err := c.Get("https://" + blog + "/?who=" + who)
				if err != nil {
					continue
				}
				if got := read(t, res); got != "early" && got != who && res.StatusCode != 502 {
					t.Errorf("%s got %d %q", who, res.StatusCode, got)
				}
			}
		})
	})
}

// TestRefusedUpgradeIsHTTP: a 200 to a visitor who wanted another protocol is
// an answer like any other, to the end that it says it has (WS-05).
func TestRefusedUpgradeIsHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		s := newEvilService(evil{answer: ok200 + "Content-Length: 2\n\nok\x81\x06POISON"}, false)
		w.bind(blog, s.service)
		v := w.raw(blog)
		v.send("GET /?who=first HTTP/1.1\nHost: %s\nConnection: Upgrade\nUpgrade: websocket\n\n", blog)
		if res := v.answer("GET"); res.StatusCode != 200 || read(t, res) != "ok" {
			t.Errorf("got %v", res)
		}
		v.send("GET /?who=second HTTP/1.1\nHost: %s\n\n", blog)
		if res := v.answer("GET"); read(t, res) != "second" || s.used.Load() || s.opened.Load() != 2 {
			t.Errorf("got %v, of %d streams", res, s.opened.Load())
		}
	})
}
