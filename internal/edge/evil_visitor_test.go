//go:build !race

package edge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// behaviours are how slow visitors spend their time, until they are cut off.
var behaviours = []struct {
	name   string
	most   time.Duration // until then
	behave func(net.Conn)
}{
	{"slow head", 11 * time.Second, func(c net.Conn) {
		go hangUpWhenTold(c)
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+blog+"\r\nX: ")
		for {
			time.Sleep(time.Second)
			if _, err := io.WriteString(c, "x"); err != nil {
				return
			}
		}
	}},
	{"slow body", slowFor + 2*lateBy, func(c net.Conn) {
		go hangUpWhenTold(c)
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: "+blog+"\r\nContent-Length: 8192\r\n\r\n")
		for {
			for range 100 {
				time.Sleep(100 * time.Millisecond)
				if _, err := c.Write(nil); err != nil {
					return
				}
			}
			io.WriteString(c, "x=y&z")
		}
	}},
	{"slow chunks", slowFor + lateBy, func(c net.Conn) {
		go hangUpWhenTold(c)
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: "+blog+"\r\nTransfer-Encoding: chunked\r\n\r\n")
		for {
			time.Sleep(10 * time.Millisecond)
			if _, err := io.WriteString(c, "1;"+strings.Repeat("x", 200)+"\r\nx\r\n"); err != nil {
				return
			}
		}
	}},
	// Where the kernel cannot be asked, what is being written may have been taken.
	{"slow reader", 70 * time.Second, func(c net.Conn) {
		io.WriteString(c, "GET /large HTTP/1.1\r\nHost: "+blog+"\r\n\r\n")
		for {
			time.Sleep(time.Second / 2)
			if _, err := c.Read(make([]byte, 5)); err != nil {
				return
			}
		}
	}},
	{"reader of nothing", 2 * slowFor, func(c net.Conn) {
		io.WriteString(c, "GET /large HTTP/1.1\r\nHost: "+blog+"\r\n\r\n")
		awaitCut(c)
	}},
	{"reader of no refusal", 2 * slowFor, func(c net.Conn) {
		for {
			if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: unknown."+domain+"\r\n\r\n"); err != nil {
				return
			}
		}
	}},
}

// hangUpWhenTold closes c when the edge has said anything about what came.
func hangUpWhenTold(c net.Conn) {
	c.Read(make([]byte, 1))
	c.Close()
}

// awaitCut returns when c has been cut off. It reads nothing.
func awaitCut(c net.Conn) {
	for {
		if _, err := c.Write(nil); err != nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// TestSlowVisitors: a thousand who are slow in every way cost nobody else
// anything, are cut off, and leave nothing behind (H1-11).
func TestSlowVisitors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(e *Edge) { e.GetCertificate, e.Log = nil, nil })
		large := make([]byte, 1<<20)
		s := rawService(func(c net.Conn) {
			for r := bufio.NewReader(c); ; {
				q, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				if _, err := io.Copy(io.Discard, q.Body); err != nil {
					return
				}
				body := []byte("ok")
				if q.URL.Path == "/large" {
					body = large
				}
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body))
				if _, err := c.Write(body); err != nil {
					return
				}
			}
		})
		w.bind(blog, s)
		honest := w.raw(blog)
		ask := func() {
			start := time.Now()
			honest.send("GET / HTTP/1.1\nHost: %s\n\n", blog)
			if res := honest.answer("GET"); read(t, res) != "ok" || time.Since(start) > 0 {
				t.Errorf("meanwhile an honest visitor got %d after %v", res.StatusCode, time.Since(start))
			}
		}
		ask()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		goroutines, heap := runtime.NumGoroutine(), heapNow()
		const each = 1000
		var longest [16]atomic.Int64
		var wg sync.WaitGroup
		start := time.Now()
		for i := range each {
			k := i % len(behaviours)
			c, err := w.step.dial(fmt.Sprintf("198.51.%d.%d:1", i/200, i%200))
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				behaviours[k].behave(c)
				for took := int64(time.Since(start)); ; {
					old := longest[k].Load()
					if old >= took || longest[k].CompareAndSwap(old, took) {
						break
					}
				}
				c.Close()
			})
		}
		for range 70 {
			time.Sleep(time.Second)
			if time.Since(start) == 9*time.Second {
				synctest.Wait()
				t.Logf("at most %d goroutines and %d KiB for each", (runtime.NumGoroutine()-goroutines)/each, (heapNow()-heap)>>10/each)
			}
			ask()
		}
		wg.Wait()
		for k, b := range behaviours {
			took := time.Duration(longest[k].Load())
			if took > b.most {
				t.Errorf("%s: cut off after %v; want %v at most", b.name, took, b.most)
			}
			t.Logf("%s: cut off after %v", b.name, took)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		s.mu.Lock()
		s.streams, s.visits = nil, nil // the test's own
		s.mu.Unlock()
		if now := runtime.NumGoroutine(); now > goroutines+5 {
			all := make([]byte, 64<<10)
			t.Errorf("%d goroutines, and %d before:\n%s", now, goroutines, all[:runtime.Stack(all, true)])
		}
		if now := heapNow(); now > heap+8<<20 {
			t.Errorf("%d KiB of memory, and %d before", now>>10, heap>>10)
		}
	})
}

func heapNow() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools keep what is free for one more
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}

// TestPipelineEndsAtABadOne: what is behind a bad request is not answered, and
// no service gets it.
func TestPipelineEndsAtABadOne(t *testing.T) {
	w := newWorld(t, func(e *Edge) { e.GetCertificate = nil })
	var asked atomic.Int32
	w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		io.WriteString(rw, r.URL.RawQuery)
	}))
	v := w.raw(blog)
	go func() {
		for i := range 1000 {
			colon := ":"
			if i == 700 {
				colon = " :"
			}
			fmt.Fprintf(v, "GET /?%d HTTP/1.1\r\nHost%s %s\r\n\r\n", i, colon, blog)
		}
	}()
	for i := range 700 {
		if res := v.answer("GET"); read(t, res) != fmt.Sprint(i) {
			t.Fatalf("request %d: got %v", i, res)
		}
	}
	if res := v.answer("GET"); res.StatusCode != 400 || !res.Close {
		t.Errorf("the bad one: got %v", res)
	} else {
		read(t, res)
	}
	if rest, _ := io.ReadAll(v.r); len(rest) > 0 || asked.Load() != 700 {
		t.Errorf("then came %q, and the service got %d; want nothing, and 700", rest, asked.Load())
	}
}

// TestRefusedExpectations: a thousand bodies that were held back and not wanted
// do not make one later request fail (H1-13, CVE-2024-24791).
func TestRefusedExpectations(t *testing.T) {
	w := newWorld(t, func(e *Edge) { e.GetCertificate = nil })
	w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			rw.WriteHeader(http.StatusForbidden)
			return
		}
		io.WriteString(rw, r.URL.RawQuery)
	}))
	v := w.raw(blog)
	for i := range 1000 {
		body := ""
		if i%3 == 0 {
			body = "GET /" // sent all the same
		}
		v.send("POST / HTTP/1.1\nHost: %s\nExpect: 100-continue\nContent-Length: 5\n\n%s", blog, body)
		res := v.answer("POST")
		if read(t, res); res.StatusCode != 403 {
			t.Fatalf("request %d: got %d", i, res.StatusCode)
		}
		if res.Close {
			v.Close()
			v = w.raw(blog)
		}
		v.send("GET /?%d HTTP/1.1\nHost: %s\n\n", i, blog)
		if res := v.answer("GET"); res.StatusCode != 200 || read(t, res) != fmt.Sprint(i) {
			t.Fatalf("behind request %d: got %v", i, res)
		}
	}
}

// TestPauseInABody: a visitor who has been given up may send what he likes, it
// is no request (H1-09).
func TestPauseInABody(t *testing.T) {
	for name, limit := range map[string]func(*Edge){
		"too slow":      func(e *Edge) {},
		"silent":        func(e *Edge) { e.MinRate, e.Silence = -1, 20*time.Second },
		"service late ": func(e *Edge) { e.ServiceTimeout = 5 * time.Second },
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			w := newWorld(t, limit)
			w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/" {
					t.Errorf("the service got %s", r.URL.Path)
				}
				io.Copy(io.Discard, r.Body)
			}))
			v := w.raw(blog)
			v.send("POST / HTTP/1.1\nHost: %s\nContent-Length: 100\n\n", blog)
			res := v.answer("POST")
			if read(t, res); res.StatusCode != 408 {
				t.Errorf("got %d", res.StatusCode)
			}
			fmt.Fprintf(v, "GET /smuggled HTTP/1.1\r\nHost: %s\r\n\r\n", blog)
			if rest, _ := io.ReadAll(v.r); len(rest) > 0 {
				t.Errorf("then came %q", rest)
			}
		}))
	}
}

// TestVisitorLeavesWhileTheServiceThinks: it hears of it within a second or so
// (LOC-02), however many there are, and nothing stays (LOC-06).
func TestVisitorLeavesWhileTheServiceThinks(t *testing.T) {
	for _, when := range []string{"before the answer", "in the answer"} {
		both(t, func(t *testing.T, h2 bool) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				var left atomic.Int64
				var heard atomic.Int64 // the latest
				var n atomic.Int32
				w.bind(blog, rawService(func(c net.Conn) {
					io.ReadAtLeast(c, make([]byte, 4<<10), 1)
					if when == "in the answer" {
						io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
						for {
							if _, err := c.Write(make([]byte, 1<<10)); err != nil {
								break
							}
							time.Sleep(100 * time.Millisecond)
						}
					} else {
						io.Copy(io.Discard, c)
					}
					heard.Store(max(heard.Load(), time.Now().UnixNano()))
					n.Add(1)
				}))
				time.Sleep(time.Second)
				synctest.Wait()
				before := runtime.NumGoroutine()
				const many = 200
				var conns []net.Conn
				for range many {
					if h2 {
						f := w.frames()
						f.get(1, blog)
						go io.Copy(io.Discard, f.Conn)
						conns = append(conns, f.Conn)
					} else {
						v := w.raw(blog)
						v.send("GET / HTTP/1.1\nHost: %s\n\n", blog)
						go io.Copy(io.Discard, v.Conn)
						conns = append(conns, v.Conn)
					}
				}
				time.Sleep(3 * time.Second)
				left.Store(time.Now().UnixNano())
				for _, c := range conns {
					c.Close()
				}
				time.Sleep(4 * time.Second)
				synctest.Wait()
				if took := time.Duration(heard.Load() - left.Load()); n.Load() != many || took > 1500*time.Millisecond {
					t.Errorf("%d of %d were heard of, the last after %v", n.Load(), many, took)
				} else {
					t.Logf("heard of after %v", took)
				}
				if now := runtime.NumGoroutine(); now > before+many/10 { // other tests end theirs meanwhile
					t.Errorf("%d goroutines, and %d before", now, before)
				}
			})
		})
	}
}
