//go:build !race

package edge

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/router"
)

// bindH2 puts a service of HTTP/2 behind the blog.
func (w *world) bindH2(s *service) {
	w.bind(blog, s)
	w.routes.Add(blog, s, router.Options{Proto: router.H2})
}

// TestEvilH2Service: what no peer of HTTP/2 may say costs its visitor at most
// a 502 or an answer that is visibly cut, and the next one nothing.
func TestEvilH2Service(t *testing.T) {
	head := func(fields ...string) func(*frames, uint32) {
		return func(s *frames, id uint32) {
			s.headers(id, false, fields...)
			s.write(frameData, flagEndStream, id, []byte("ok"))
		}
	}
	ok := []string{":status", "200"}
	then := func(kind, flags byte, stream int, payload string) func(*frames, uint32) {
		return func(s *frames, id uint32) {
			s.headers(id, false, ok...)
			s.write(frameData, 0, id, []byte("ok"))
			if stream < 0 {
				stream = int(id)
			}
			s.write(kind, flags, uint32(stream), []byte(payload))
		}
	}
	first := func(kind, flags byte, payload string) func(*frames, uint32) {
		return func(s *frames, id uint32) { s.write(kind, flags, id, []byte(payload)) }
	}
	hints := func(n int, fields ...string) func(*frames, uint32) {
		return func(s *frames, id uint32) {
			for range n {
				s.headers(id, false, append([]string{":status", "103"}, fields...)...)
			}
			head(ok...)(s, id)
		}
	}
	for _, e := range []struct {
		name   string
		answer func(s *frames, id uint32)
		want   fate
	}{
		{"no status", head("x", "y"), failed},
		{"status 999", head(":status", "999"), failed},
		{"status 600", head(":status", "600"), failed},
		{"status 099", head(":status", "099"), failed},
		{"status in letters", head(":status", "2OO"), failed},
		{"status with a reason", head(":status", "200 OK"), failed},
		{"status and a line", head(":status", "200\r\nX: y"), failed},
		{"two statuses", head(":status", "200", ":status", "201"), failed},
		{"status behind a field", head("x", "y", ":status", "200"), failed},
		{"status 101", func(s *frames, id uint32) {
			s.headers(id, false, ":status", "101", "upgrade", "websocket")
			head(ok...)(s, id)
		}, refused},
		{"a pseudo-field of requests", head(":status", "200", ":path", "/"), failed},
		{"a field in capitals", head(":status", "200", "Set-Cookie", "a=b"), failed},
		{"CR in a value", head(":status", "200", "x", "a\rb"), failed},
		{"LF in a value", head(":status", "200", "x", "a\nSet-Cookie: a=b"), failed},
		{"NUL in a value", head(":status", "200", "x", "a\x00b"), failed},
		{"colon in a name", head(":status", "200", "x:y", "z"), failed},
		{"space in a name", head(":status", "200", "x y", "z"), failed},
		{"CRLF in a name", head(":status", "200", "x\r\ny", "z"), failed},
		{"no name", head(":status", "200", "", "z"), failed},
		{"length too long", head(":status", "200", "content-length", "3"), cut},
		{"length too short", head(":status", "200", "content-length", "1"), whatever},
		{"length in words", head(":status", "200", "content-length", "two"), clean},
		{"two lengths", head(":status", "200", "content-length", "2", "content-length", "3"), clean},
		{"transfer-encoding", head(":status", "200", "transfer-encoding", "chunked"), clean},
		{"connection", head(":status", "200", "connection", "close, x", "x", "y", "keep-alive", "1"), clean},
		{"two MB of fields", head(":status", "200", "x", strings.Repeat("y", 2<<20)), failed},
		{"32 hints", hints(32), clean},
		{"33 hints", hints(33), refused},
		{"10,000 hints", hints(10_000), refused},
		{"long hints", hints(20, "x", strings.Repeat("y", 15_000)), refused},
		{"a hint with LF", hints(1, "x", "a\nb"), failed},
		{"a hint that is the end", func(s *frames, id uint32) { s.headers(id, true, ":status", "103") }, failed},
		{"only hints", func(s *frames, id uint32) {
			s.headers(id, false, ":status", "103")
			s.write(frameReset, 0, id, number(2))
		}, failed},
		{"bytes first", first(frameData, flagEndStream, "ok"), failed},
		{"reset", first(frameReset, 0, "\x00\x00\x00\x02"), failed},
		{"reset without a number", first(frameReset, 0, ""), failed},
		{"window update of nothing", first(frameWindow, 0, "\x00\x00\x00\x00"), failed},
		{"a promise", first(framePromise, flagEndHeaders, "\x00\x00\x00\x02\x88"), failed},
		{"continuation of nothing", first(frameContinuation, flagEndHeaders, "\x88"), failed},
		{"no fields that can be read", first(frameHeaders, flagEndHeaders, "\xff\xff\xff\xff\xff\xff\xff"), failed},
		{"HTTP/1.1", func(s *frames, id uint32) { io.WriteString(s, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") }, failed},
		{"hangs up", func(s *frames, id uint32) { s.Close() }, failed},
		{"reset in the answer", then(frameReset, 0, -1, "\x00\x00\x00\x02"), cut},
		{"reset in the answer, without error", then(frameReset, 0, -1, "\x00\x00\x00\x00"), cut},
		{"goes away", then(frameGoAway, 0, 0, "\x00\x00\x00\x00\x00\x00\x00\x02"), cut},
		{"bad settings", then(frameSettings, 0, 0, "\x00"), cut},
		{"settings of a stream", then(frameSettings, 0, 1, ""), cut},
		{"ping of a stream", then(framePing, 0, 1, "12345678"), cut},
		{"bytes on no stream", then(frameData, 0, 0, "x"), cut},
		{"bytes on an idle stream", then(frameData, 0, 99, "POISON"), cut},
		{"head on an idle stream", then(frameHeaders, flagEndHeaders, 99, "\x88"), cut},
		{"too much window", then(frameWindow, 0, -1, "\x7f\xff\xff\xff"), cut},
		{"padding longer than the frame", then(frameData, 0x8, -1, "\xffx"), cut},
		{"a second head", then(frameHeaders, flagEndHeaders, -1, "\x88"), cut},
		{"hangs up in the answer", func(s *frames, id uint32) {
			s.headers(id, false, ok...)
			s.write(frameData, 0, id, []byte("ok"))
			s.Close()
		}, cut},
		{"trailers with a status", func(s *frames, id uint32) {
			s.headers(id, false, ok...)
			s.write(frameData, 0, id, []byte("ok"))
			s.headers(id, true, ":status", "200")
		}, cut},
		{"trailers with LF", func(s *frames, id uint32) {
			s.headers(id, false, ok...)
			s.write(frameData, 0, id, []byte("ok"))
			s.headers(id, true, "x", "a\nb")
		}, cut},
		{"trailers that are none", func(s *frames, id uint32) {
			s.headers(id, false, ok...)
			s.write(frameData, 0, id, []byte("ok"))
			s.headers(id, true, "set-cookie", "a=b", "content-length", "7", "culvert-error", "x")
		}, clean},
	} {
		t.Run(e.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				for _, h2 := range []bool{false, true} {
					var first atomic.Bool
					w.bindH2(framesService(func(s *frames, g *frame) {
						if first.CompareAndSwap(false, true) {
							go e.answer(s, g.stream)
							return
						}
						s.headers(g.stream, false, ":status", "200")
						s.write(frameData, flagEndStream, g.stream, []byte(g.who()))
					}))
					c := w.visitor(h2)
					res, err := c.Get("https://" + blog + "/?who=first")
					var body []byte
					if err == nil {
						body, err = io.ReadAll(res.Body)
						res.Body.Close()
					}
					checkFate(t, evil{name: fmt.Sprint("h2 ", h2), want: e.want, body: "ok"}, res, string(body), err)
					if err == nil && res.Header.Get("Set-Cookie") != "" {
						t.Error("a field slipped in")
					}
					for _, who := range []string{"second", "third"} {
						if res, got := get(t, c, "https://"+blog+"/?who="+who); got != who {
							t.Errorf("h2 %v: the %s visitor got %d %q", h2, who, res.StatusCode, got)
						}
					}
				}
			})
		})
	}
}

// TestHintsToSomebodyWhoDoesNotRead: they are read where all answers of the
// service are, so nobody waits there for a visitor; and nobody writes to him
// when he has been given up. The nodes of both were one: it went down.
func TestHintsToSomebodyWhoDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(e *Edge) { e.GetCertificate = nil })
		w.bindH2(framesService(func(s *frames, g *frame) {
			if g.who() != "slow" {
				s.headers(g.stream, true, ":status", "204")
				return
			}
			for range 15 {
				s.headers(g.stream, false, ":status", "103", "x", strings.Repeat("y", 15_000))
			}
		}))
		slow := w.raw(blog)
		slow.send("GET /?who=slow HTTP/1.1\nHost: %s\n\n", blog)
		time.Sleep(time.Second)
		start := time.Now()
		v := w.raw(blog)
		v.send("GET /?who=quick HTTP/1.1\nHost: %s\n\n", blog)
		if res := v.answer("GET"); res.StatusCode != http.StatusNoContent || time.Since(start) > 0 {
			t.Errorf("meanwhile somebody else got %d after %v", res.StatusCode, time.Since(start))
		}
		time.Sleep(6 * slowFor)
		slow.socket.SetReadDeadline(time.Now().Add(time.Millisecond))
		if b, err := io.ReadAll(slow.r); err != nil && !strings.Contains(err.Error(), "reset") || len(b) > 100<<10 {
			t.Errorf("got %d bytes, %v; want to be cut off", len(b), err)
		}
	})
}

// TestBodyForNobodyIsCut: a service that answered before the end of a request
// does not take what it has for the whole.
func TestBodyForNobodyIsCut(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			ends := make(chan string, 8)
			s := framesService(func(s *frames, g *frame) {
				s.headers(g.stream, false, ":status", "200")
				s.write(frameData, flagEndStream, g.stream, []byte("ok"))
				for {
					f, err := s.next()
					switch {
					case err != nil:
						ends <- "hung up"
						return
					case f.kind == frameReset:
						ends <- "reset"
						return
					case f.flags&flagEndStream != 0:
						ends <- "as if it were whole"
						return
					}
				}
			})
			w.bindH2(s)
			in, out := io.Pipe()
			go io.WriteString(out, "half")
			res, err := w.visitor(h2).Post("https://"+blog, "x/y", in)
			if err != nil {
				t.Fatal(err)
			}
			if got := read(t, res); got != "ok" {
				t.Errorf("got %q", got)
			}
			if got := within(t, "end of the body", ends); got == "as if it were whole" {
				t.Errorf("the body ended %s", got)
			}
			out.Close()
		})
	})
}
