//go:build linux

package chaos

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// The service is stopped: its visitors are told at once, and let in at once when
// it is back.
func stopService(t *testing.T, f *finding) {
	w := newWorld(t, road{})
	n, s := w.startNode(), w.startService("blog")
	n.startAgent("blog", s.target)
	n.works(t, "blog")
	v := n.visitor(false, true)
	var told, back time.Duration
	for range 5 {
		s.http.Close()
		for range 4 {
			began := time.Now()
			status, header, body, err := fetch(t.Context(), v, url("blog")+"/", nil)
			if err != nil || status != 502 || header.Get("Culvert-Error") == "" {
				t.Errorf("without a service: %d %v %q %v", status, header, body, err)
			}
			told = max(told, time.Since(began))
		}
		s = w.startServiceAt("blog", "127.0.0.1:"+s.target)
		began := time.Now()
		if err := answers(v, "blog"); err != nil {
			t.Errorf("the first request when it is back: %v", err)
		}
		back = max(back, time.Since(began))
	}
	f.within("502", told, 100*time.Millisecond)
	f.within("first answer when it is back", back, 100*time.Millisecond)
}

// The service takes a connection and says nothing: its visitors are told at the
// limit, and it learns that a visitor has left.
func hang(t *testing.T, f *finding) {
	const limit = 3 * time.Second
	w := newWorld(t, road{})
	n := w.startNode()
	ln := listen(t, w.ag, "127.0.0.1:0")
	defer ln.Close()
	closed := make(chan time.Time, 100)
	asked := make(chan struct{}, 100)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func(c net.Conn) {
				b := make([]byte, 4096)
				if _, err := c.Read(b); err == nil {
					asked <- struct{}{}
				}
				io.Copy(io.Discard, c)
				closed <- time.Now()
				c.Close()
			}(c)
		}
	}()
	n.startAgent("blog", port(ln), "--service-timeout", limit.String())
	for _, http2 := range []bool{false, true} {
		v := n.visitor(http2, true)
		began := time.Now()
		status, header, body, err := fetch(t.Context(), v, url("blog")+"/", nil)
		took := time.Since(began)
		if err != nil || status != 504 || header.Get("Culvert-Error") != "service_timeout" || took < limit {
			t.Errorf("after %v: %d %v %q %v", took, status, header, body, err)
		}
		<-asked
		f.within("504 for a limit of 3s", took, limit+time.Second)
		f.within("service knew", (<-closed).Sub(began.Add(took)), time.Second)

		// One leaves soon, and one after a while.
		var knew time.Duration
		for _, stays := range []time.Duration{200 * time.Millisecond, 2 * time.Second} {
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-asked
				time.Sleep(stays)
				cancel()
			}()
			if _, _, _, err = fetch(ctx, v, url("blog")+"/", nil); err == nil {
				t.Error("an answer of a service that says nothing")
			}
			left := time.Now()
			knew = max(knew, (<-closed).Sub(left))
		}
		f.within(fmt.Sprintf("service knew that a visitor of HTTP/%d left", map[bool]int{false: 1, true: 2}[http2]), knew, time.Second)
	}
}
