package edge

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestForward(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		w := newWorld(t, nil)
		seen := make(chan *http.Request, 1)
		w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			seen <- r
			rw.Header().Set("X-Service", "yes")
			rw.WriteHeader(http.StatusTeapot)
			rw.Write(bytes.ToUpper(body))
		}))
		r, _ := http.NewRequest("PATCH", "https://"+blog+":8443/a/b?c=d;e", strings.NewReader("hello"))
		r.Header.Set("Accept", "x/y")
		res, err := w.visitor(h2).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, res); res.StatusCode != http.StatusTeapot || got != "HELLO" || res.Header.Get("X-Service") != "yes" {
			t.Errorf("visitor got %d %q %v", res.StatusCode, got, res.Header)
		}
		if want := map[bool]int{false: 1, true: 2}[h2]; res.ProtoMajor != want {
			t.Errorf("spoke HTTP/%d; want %d", res.ProtoMajor, want)
		}
		got := within(t, "request", seen)
		if got.Method != "PATCH" || got.RequestURI != "/a/b?c=d;e" || got.Host != blog+":8443" || got.ContentLength != 5 {
			t.Errorf("service got %s %s of %s, %d bytes", got.Method, got.RequestURI, got.Host, got.ContentLength)
		}
	})
}

// TestAnswersPassUntouched: what the service does not say is not said for it.
func TestAnswersPassUntouched(t *testing.T) {
	w := newWorld(t, nil)
	w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
		h := rw.Header()
		h["Date"] = nil
		h["Content-Type"] = nil
		switch r.URL.Path {
		case "/untyped":
			io.WriteString(rw, "<html>")
		case "/304":
			h.Set("Etag", `"x"`)
			rw.WriteHeader(304)
		case "/204":
			rw.WriteHeader(204)
		case "/head":
			h.Set("Content-Length", "12345")
		case "/ours":
			h.Set("Alt-Svc", `h3=":443"`)
			h.Set("Culvert-Error", "tunnel_offline")
			h.Add("Set-Cookie", "a=b")
			h.Add("Set-Cookie", "c=d")
		case "/599":
			rw.WriteHeader(599)
		}
	}))
	both(t, func(t *testing.T, h2 bool) {
		c := w.visitor(h2)
		for _, test := range []struct {
			method, path string
			status       int
			length       int64
			want, absent string
		}{
			{"GET", "/untyped", 200, 6, "", "Content-Type"},
			{"GET", "/304", 304, -1, "Etag", "Content-Length"},
			{"GET", "/204", 204, -1, "", "Content-Length"},
			{"HEAD", "/head", 200, 12345, "", ""},
			{"GET", "/ours", 200, 0, "Set-Cookie", "Culvert-Error"},
			{"GET", "/ours", 200, 0, "", "Alt-Svc"},
			{"GET", "/599", 599, 0, "", "Culvert-Error"},
		} {
			r, _ := http.NewRequest(test.method, "https://"+blog+test.path, nil)
			res, err := c.Do(r)
			if err != nil {
				t.Fatalf("%s: %v", test.path, err)
			}
			read(t, res)
			if res.StatusCode != test.status || test.length >= 0 && res.ContentLength != test.length {
				t.Errorf("%s: got %d, length %d; want %d, %d", test.path, res.StatusCode, res.ContentLength, test.status, test.length)
			}
			if test.want != "" && res.Header[test.want] == nil || test.absent != "" && res.Header[test.absent] != nil {
				t.Errorf("%s: got %v; want %q and not %q", test.path, res.Header, test.want, test.absent)
			}
		}
	})
}

func TestTrailers(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		w := newWorld(t, nil)
		seen := make(chan http.Header, 1)
		w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Trailer", "X-Sum, Alt-Svc, Culvert-Error")
			io.Copy(rw, r.Body)
			seen <- maps.Clone(r.Trailer)
			rw.Header().Set("X-Sum", "42")
			rw.Header().Set("Alt-Svc", `h3=":1"`)
			rw.Header().Set("Culvert-Error", "forged")
			rw.Header().Set(http.TrailerPrefix+"Culvert-Late", "forged")
			rw.Header().Set(http.TrailerPrefix+"X-Late", "43")
		}))
		r, _ := http.NewRequest("POST", "https://"+blog, io.MultiReader(strings.NewReader("body")))
		r.Trailer = http.Header{"X-Asked": {"1"}, "X-Forwarded-For": {"6.6.6.6"}}
		res, err := w.visitor(h2).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, res); got != "body" {
			t.Errorf("got %q", got)
		}
		if got := within(t, "trailers", seen); got.Get("X-Asked") != "1" || len(got) != 1 {
			t.Errorf("service got trailers %v; want only X-Asked", got)
		}
		if res.Trailer.Get("X-Sum") != "42" || res.Trailer.Get("X-Late") != "43" {
			t.Errorf("visitor got trailers %v", res.Trailer)
		}
		for key := range res.Trailer {
			if key != "X-Sum" && key != "X-Late" {
				t.Errorf("a service spoke for the node in the trailer %s", key)
			}
		}
	})
}

func TestEarlyHints(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		w := newWorld(t, nil)
		w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Link", "</style.css>")
			rw.Header().Set("Culvert-Error", "x")
			rw.Header().Set("Keep-Alive", "timeout=5") // HTTP/2 would call it malformed
			rw.WriteHeader(http.StatusEarlyHints)
			rw.Header().Del("Link")
			io.WriteString(rw, "done")
		}))
		var hints []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				hints = append(hints, fmt.Sprint(code, h["Link"], h["Culvert-Error"], h["Keep-Alive"]))
				return nil
			},
		})
		r, _ := http.NewRequestWithContext(ctx, "GET", "https://"+blog, nil)
		res, err := w.visitor(h2).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, res); got != "done" || res.Header.Get("Link") != "" {
			t.Errorf("got %q %v", got, res.Header)
		}
		if want := []string{"103 [</style.css>] [] []"}; !slices.Equal(hints, want) {
			t.Errorf("got hints %q want %q", hints, want)
		}
	})
}

func TestEndlessInterimAnswers(t *testing.T) {
	w := newWorld(t, nil)
	w.bind(blog, rawService(func(c net.Conn) {
		for {
			if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n"); err != nil {
				return
			}
		}
	}))
	v := w.raw(blog)
	v.send("GET / HTTP/1.1\nHost: %s\n\n", blog)
	for n := 0; ; n++ {
		if res := v.answer("GET"); res.StatusCode != 103 {
			if got := res.Header.Get("Culvert-Error"); got != "service_bad_response" || n > maxInterim+1 {
				t.Errorf("after %d interim answers: got %d %q", n, res.StatusCode, got)
			}
			return
		}
	}
}

// TestContinue: the service decides whether a body that the visitor holds back
// is sent, and the edge never says so for it.
func TestContinue(t *testing.T) {
	w := newWorld(t, nil)
	w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			rw.WriteHeader(http.StatusExpectationFailed)
			return
		}
		io.Copy(rw, r.Body)
	}))
	v := w.raw(blog)
	v.send("POST /yes HTTP/1.1\nHost: %s\nExpect: 100-continue\nContent-Length: 5\n\n", blog)
	if res := v.answer("POST"); res.StatusCode != 100 {
		t.Fatalf("got %d want 100", res.StatusCode)
	}
	v.send("hello")
	if res := v.answer("POST"); res.StatusCode != 200 || read(t, res) != "hello" {
		t.Errorf("got %d want 200", res.StatusCode)
	}
	v.send("POST /no HTTP/1.1\nHost: %s\nExpect: 100-continue\nContent-Length: 5\n\n", blog)
	if res := v.answer("POST"); res.StatusCode != 417 {
		t.Errorf("got %d want the service's 417, without 100 before it", res.StatusCode)
	}
}

// TestBothAtOnce: a conversation inside one request.
func TestBothAtOnce(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		w := newWorld(t, nil)
		w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(rw)
			rc.EnableFullDuplex()
			rc.Flush()
			buf := make([]byte, 64)
			for {
				n, err := r.Body.Read(buf)
				rw.Write(buf[:n])
				rc.Flush()
				if err != nil {
					return
				}
			}
		}))
		in, out := io.Pipe()
		r, _ := http.NewRequest("POST", "https://"+blog, in)
		res, err := w.visitor(h2).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			want := fmt.Sprintf("ping %d", i)
			io.WriteString(out, want)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != want {
				t.Fatalf("got %q, %v; want %q before the next is sent", got, err, want)
			}
		}
		out.Close()
		if rest := read(t, res); rest != "" {
			t.Errorf("got %q after the end", rest)
		}
	})
}

// TestEarlyAnswer: the service has heard enough, and the visitor has not
// finished, and perhaps never will.
func TestEarlyAnswer(t *testing.T) {
	early := func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Connection", "close")
		http.Error(rw, "too much", http.StatusRequestEntityTooLarge)
	}
	t.Run("visitor pauses", func(t *testing.T) {
		w := newWorld(t, nil)
		w.bind(blog, newService(early))
		v := w.raw(blog)
		v.send("POST / HTTP/1.1\nHost: %s\nContent-Length: 1000000\n\n", blog)
		v.send("%s", strings.Repeat("x", 10000))
		res := v.answer("POST")
		if got := read(t, res); res.StatusCode != 413 || got != "too much\n" {
			t.Errorf("got %d %q", res.StatusCode, got)
		}
		if _, err := v.r.ReadByte(); err != io.EOF {
			t.Errorf("got %v; want the connection to end", err)
		}
	})
	t.Run("visitor goes on", func(t *testing.T) {
		both(t, func(t *testing.T, h2 bool) {
			w := newWorld(t, nil)
			w.bind(blog, newService(early))
			res, err := w.visitor(h2).Post("https://"+blog, "x/y", io.LimitReader(rand.Reader, 50<<20))
			if err != nil {
				t.Fatal(err)
			}
			if got := read(t, res); res.StatusCode != 413 || got != "too much\n" {
				t.Errorf("got %d %q", res.StatusCode, got)
			}
		})
	})
	t.Run("service stops reading", func(t *testing.T) {
		both(t, func(t *testing.T, h2 bool) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				var s *service
				s = rawService(func(c net.Conn) {
					io.ReadFull(c, make([]byte, 4<<10))
					s.deaf.Store(true)
					time.Sleep(time.Second) // time for a write to fail
					io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\n\r\ntoo much")
					c.Read(make([]byte, 1))
				})
				w.bind(blog, s)
				res, err := w.visitor(h2).Post("https://"+blog, "x/y", io.LimitReader(rand.Reader, 50<<20))
				if err != nil {
					t.Fatal(err)
				}
				if got := read(t, res); res.StatusCode != 413 || got != "too much" {
					t.Errorf("got %d %q", res.StatusCode, got)
				}
			})
		})
	})
}

// TestEvents: every byte of the service reaches the visitor before the next.
func TestEvents(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		w := newWorld(t, nil)
		next := make(chan string)
		w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(rw)
			rc.Flush() // the head alone
			for event := range next {
				fmt.Fprintf(rw, "data: %s\n\n", event)
				rc.Flush()
			}
		}))
		res, err := w.visitor(h2).Get("https://" + blog) // returns with the head
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		for _, event := range []string{"a", "b"} {
			next <- event
			n, err := res.Body.Read(buf)
			if got, want := string(buf[:n]), "data: "+event+"\n\n"; got != want {
				t.Fatalf("got %q, %v; want %q", got, err, want)
			}
		}
		close(next)
		read(t, res)
	})
}

func TestManyBytes(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		w := newWorld(t, nil)
		w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
			http.NewResponseController(rw).EnableFullDuplex()
			io.Copy(rw, r.Body)
		}))
		const size = 16 << 20
		sent, got := sha256.New(), sha256.New()
		res, err := w.visitor(h2).Post("https://"+blog, "x/y", io.TeeReader(io.LimitReader(rand.Reader, size), sent))
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(got, res.Body)
		res.Body.Close()
		if err != nil || n != size || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
			t.Errorf("got %d bytes, %v; want the same %d back", n, err, size)
		}
	})
}

// TestVisitorLeaves: a visitor who is gone does not keep the service busy, and
// the service does not take what it has for all there was.
func TestVisitorLeaves(t *testing.T) {
	for _, when := range []string{"before the answer", "in the answer", "in the request"} {
		t.Run(when, func(t *testing.T) {
			both(t, func(t *testing.T, h2 bool) {
				w := newWorld(t, nil)
				started, ended := make(chan bool, 1), make(chan error, 1)
				s := newService(func(rw http.ResponseWriter, r *http.Request) {
					if when == "in the answer" {
						rw.WriteHeader(200)
						http.NewResponseController(rw).Flush()
					}
					started <- true
					if when == "in the request" {
						_, err := io.Copy(io.Discard, r.Body)
						ended <- err
						return
					}
					<-r.Context().Done()
					ended <- context.Cause(r.Context())
				})
				w.bind(blog, s)
				ctx, leave := context.WithCancel(t.Context())
				r, _ := http.NewRequestWithContext(ctx, "POST", "https://"+blog, nil)
				in, out := io.Pipe()
				if when == "in the request" {
					r.Body = in
				}
				go func() {
					<-started
					leave()
					out.CloseWithError(context.Canceled) // the Transport of this visitor waits for it
				}()
				res, err := w.visitor(h2).Do(r)
				if err == nil {
					_, err = io.ReadAll(res.Body)
					res.Body.Close()
				}
				if !errors.Is(err, context.Canceled) {
					t.Fatalf("visitor got %v", err)
				}
				if err := within(t, "end at the service", ended); err == nil {
					t.Error("the service saw a clean end")
				}
				if got := s.aborted.Load(); got != 1 {
					t.Errorf("%d streams aborted; want 1", got)
				}
			})
		})
	}
}

// TestTruncatedAnswer: a visitor never takes half an answer for the whole.
func TestTruncatedAnswer(t *testing.T) {
	for name, answer := range map[string]string{
		"length":         "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
		"chunked":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
		"until the end":  "HTTP/1.0 200 OK\r\n\r\nhalf",
		"until the end ": "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf",
	} {
		start := func() *service {
			return rawService(func(c net.Conn) {
				c.Read(make([]byte, 4096))
				io.WriteString(c, answer)
				c.Read(make([]byte, 1)) // until the test breaks it
			})
		}
		run := func(t *testing.T, w *world, body io.Reader, s *service) {
			half := make([]byte, 4)
			if _, err := io.ReadFull(body, half); err != nil || string(half) != "half" {
				t.Fatalf("got %q, %v", half, err)
			}
			s.breakAll()
			rest, err := io.ReadAll(body)
			if err == nil {
				t.Errorf("visitor took half an answer for the whole, and %q", rest)
			}
		}
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, h2 bool) {
				w := newWorld(t, nil)
				s := start()
				w.bind(blog, s)
				res, err := w.visitor(h2).Get("https://" + blog)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				run(t, w, res.Body, s)
			})
			for _, plain := range []bool{false, true} {
				t.Run(fmt.Sprintf("HTTP/1.0, plain %v", plain), func(t *testing.T) {
					w := newWorld(t, func(e *Edge) {
						if plain {
							e.GetCertificate = nil
						}
					})
					s := start()
					w.bind(blog, s)
					v := w.raw(blog)
					v.send("GET / HTTP/1.0\nHost: %s\n\n", blog)
					res := v.answer("GET")
					run(t, w, res.Body, s)
				})
			}
		})
	}
}
