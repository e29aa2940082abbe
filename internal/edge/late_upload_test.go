package edge

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/router"
)

// slowWrites is a service whose streams say that they have taken something when
// it has long arrived.
type slowWrites struct{ *service }

func (s slowWrites) Open(ctx context.Context, v router.Visit) (net.Conn, error) {
	c, err := s.service.Open(ctx, v)
	return slowWriter{c.(*testStream)}, err
}

type slowWriter struct{ *testStream }

func (c slowWriter) Write(p []byte) (int, error) {
	n, err := c.testStream.Write(p)
	time.Sleep(lastWrite / 2)
	return n, err
}

// TestAnswerOvertakesTheBody: a service may answer the last byte of a request
// before we noticed that it was the last. The connection goes on, and so does
// the stream.
func TestAnswerOvertakesTheBody(t *testing.T) {
	for name, body := range map[string][2]string{
		"length": {"Content-Length: 10\n", "helloworld"},
		"chunks": {"Transfer-Encoding: chunked\n", "a\nhelloworld\n0\n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				s := newService(func(rw http.ResponseWriter, r *http.Request) {
					io.ReadFull(r.Body, make([]byte, 10))
					rw.Header().Set("Content-Length", "2")
					io.WriteString(rw, "ok")
				})
				w.bind(blog, s)
				w.routes.Add(blog, slowWrites{s}, router.Options{})
				v := w.raw(blog)
				for i := range 3 {
					v.send("POST / HTTP/1.1\nHost: %s\n%s\n", blog, body[0])
					time.Sleep(100 * time.Millisecond)
					v.send("%s", body[1])
					res := v.answer("POST")
					if got := read(t, res); got != "ok" || res.Close {
						t.Fatalf("request %d: got %v %q", i, res, got)
					}
					time.Sleep(100 * time.Millisecond)
				}
				if n := s.aborted.Load(); n != 0 {
					t.Errorf("%d streams aborted", n)
				}
			})
		})
	}
}
