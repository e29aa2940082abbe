package edge

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvertd/culvert/internal/router"
)

// hung is a context that counts what hangs on it.
type hung struct {
	context.Context
	end chan struct{}
	n   atomic.Int32
}

func (h *hung) Done() <-chan struct{} { return h.end }

// AfterFunc is how package context hangs others on one that is not its own.
func (h *hung) AfterFunc(func()) (stop func() bool) {
	h.n.Add(1)
	return func() bool { h.n.Add(-1); return true }
}

// nobody is Visitors who are refused.
type nobody struct{ Visitors }

func (nobody) Open(context.Context, router.Visit) (net.Conn, error) { return nil, router.ErrOffline }

// TestOpeningLeavesNoContext: what a stream is opened in ends with the opening.
// A context hung on the door's for each stream, until the node ended.
func TestOpeningLeavesNoContext(t *testing.T) {
	s := newService(nil)
	defer s.close()
	routes := &router.Router{}
	route := router.Route{Host: blog, Epoch: routes.Add(blog, s, router.Options{})}
	for _, visitors := range []Visitors{routes, nobody{}} {
		for _, limit := range []time.Duration{0, time.Minute} {
			ctx := &hung{Context: t.Context(), end: make(chan struct{})}
			v := &visit{door: &door{ctx: ctx, edge: &Edge{Visitors: visitors}}, watch: new(watch), route: route}
			v.watch.limit(limit, 0)
			_, err := v.dial()
			if _, refused := visitors.(nobody); refused != (err != nil) {
				t.Errorf("dial: %v", err)
			}
			if n := ctx.n.Load(); n != 0 {
				t.Errorf("limit %v, %v: %d contexts are left", limit, err, n)
			}
		}
	}
}

// TestInterimAnswerWithALength: it has no body, but who says that it has one
// may go on to send it (RFC 9110, section 6.4.1). On such a stream nobody knows
// what the next answer is to.
func TestInterimAnswerWithALength(t *testing.T) {
	for length, streams := range map[string]int32{"": 1, "Content-Length: 0\r\n": 1, "Content-Length: 5\r\n": 2} {
		w := newWorld(t, nil)
		s := rawService(func(c net.Conn) {
			for r := bufio.NewReader(c); ; {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				fmt.Fprintf(c, "HTTP/1.1 103 Early Hints\r\n%s\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", length)
			}
		})
		w.bind(blog, s)
		c := w.visitor(false)
		for range 2 {
			if res, got := get(t, c, "https://"+blog); got != "ok" {
				t.Errorf("%q: got %d %q", length, res.StatusCode, got)
			}
		}
		if got := s.opened.Load(); got != streams {
			t.Errorf("%q: 2 requests took %d streams; want %d", length, got, streams)
		}
	}
}
