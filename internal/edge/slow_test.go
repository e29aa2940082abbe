package edge

import (
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestNothingIsTaken: a visitor of HTTP/2 who takes nothing is cut off, however
// lively he is otherwise, and what was for him ends. As long as he sent a frame
// now and then, all his visits waited for him.
func TestNothingIsTaken(t *testing.T) {
	const huge = 1<<31 - 1
	for name, test := range map[string]struct {
		window uint32 // of each stream
		reads  bool   // what comes on the connection
	}{
		"no bytes":  {huge, false},
		"no window": {0, true},
	} {
		for of, host := range map[string]string{"a service": blog, "the edge": "unknown." + domain} {
			if !test.reads && host != blog {
				continue // of refusals there are never so many that they fill a socket
			}
			t.Run(name+" of "+of, inBubble(func(t *testing.T) {
				w := newWorld(t, nil)
				w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
					for {
						if _, err := rw.Write(make([]byte, 100<<10)); err != nil {
							return
						}
					}
				}))
				f := w.frames(setting(settingWindow, test.window)...)
				f.write(frameWindow, 0, 0, number(huge-65535))
				for i := range uint32(8) {
					f.get(2*i+1, host)
				}
				if test.reads {
					go io.Copy(io.Discard, f)
				}
				done := make(chan struct{})
				var wg sync.WaitGroup
				wg.Go(func() {
					for {
						select {
						case <-done:
							return
						case <-time.After(10 * time.Second):
							f.write(frameWindow, 0, 0, number(1)) // too little, but it is something
						}
					}
				})
				time.Sleep(2*slowFor + 2*lateBy)
				synctest.Wait()
				d := w.door()
				if conns, visits := d.conns.add(0), d.visits.add(0); visits != 0 || !test.reads && conns != 0 {
					t.Errorf("after %v, %d connections and %d visits go on", 2*slowFor, conns, visits)
				}
				stacks := make([]byte, 1<<20)
				stacks = stacks[:runtime.Stack(stacks, true)]
				if n := strings.Count(string(stacks), "runHandler("); n != 0 { // of the standard library
					t.Errorf("%d handlers have not returned", n)
				}
				close(done)
				f.Conn.(interface{ NetConn() net.Conn }).NetConn().Close()
				wg.Wait()
			}))
		}
	}
}

// TestHeldBackBody: a visitor who waits for leave to send is not slow, however
// long the service thinks about it.
func TestHeldBackBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
			time.Sleep(40 * time.Second)
			io.Copy(rw, r.Body)
		}))
		v := w.raw(blog)
		v.send("POST / HTTP/1.1\nHost: %s\nExpect: 100-continue\nContent-Length: 5\n\n", blog)
		if res := v.answer("POST"); res.StatusCode != http.StatusContinue {
			t.Fatalf("got %d want 100", res.StatusCode)
		}
		v.send("hello")
		if res := v.answer("POST"); res.StatusCode != 200 || read(t, res) != "hello" {
			t.Errorf("got %d", res.StatusCode)
		}
	})
}

// TestPauses: who says how much he will send has to do so. Who does not may be
// in a conversation, and think before he says more.
func TestPauses(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		for name, test := range map[string]struct {
			length int64
			pause  time.Duration
			status int
		}{
			"conversation": {-1, time.Minute, 200},
			"upload":       {8 << 10, time.Second, 408},
		} {
			t.Run(name, inBubble(func(t *testing.T) {
				w := newWorld(t, nil)
				w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) { io.Copy(rw, r.Body) }))
				in, out := io.Pipe()
				stop := make(chan struct{})
				var wg sync.WaitGroup
				wg.Go(func() {
					defer out.Close()
					for range 5 {
						io.WriteString(out, "x")
						select {
						case <-time.After(test.pause):
						case <-stop:
							return
						}
					}
					for test.length > 0 {
						select {
						case <-time.After(test.pause):
							io.WriteString(out, "x")
						case <-stop:
							return
						}
					}
				})
				r, _ := http.NewRequest("POST", "https://"+blog, in)
				r.ContentLength = test.length
				start := time.Now()
				res, err := w.visitor(h2).Do(r)
				if err != nil {
					t.Fatal(err)
				}
				if test.status == 408 && time.Since(start) > slowFor+lateBy {
					t.Errorf("the answer came after %v", time.Since(start))
				}
				if test.status == 408 {
					close(stop)
				}
				if got := read(t, res); res.StatusCode != test.status || test.status == 200 && got != "xxxxx" {
					t.Errorf("got %d %q; want %d", res.StatusCode, got, test.status)
				}
				in.Close()
				wg.Wait()
			}))
		}
	})
}
