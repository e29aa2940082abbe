package h1_test

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/culvertd/culvert/internal/h1"
)

// Requests are read one behind the other, and written in the canonical spelling.
func Example() {
	r := h1.NewReader(strings.NewReader("POST http://Blog.test HTTP/1.1\r\nhost:blog.test\r\n" +
		"Connection: X-Secret\r\nX-Secret: 1\r\ntransfer-encoding:chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n"))
	defer r.Release()
	var q h1.Request
	for {
		if err := r.ReadRequest(&q); err == io.EOF {
			return
		} else if err != nil {
			fmt.Println(err)
			return
		}
		out := h1.AppendRequestLine(nil, q.Method, q.AppendTarget(nil))
		for _, f := range q.Fields {
			if !f.Kind.Hop() && f.Kind != h1.KindContentLength && !q.Named(f.Name) {
				out = h1.AppendField(out, f.Name, f.Value)
			}
		}
		out = h1.AppendEnd(h1.AppendLength(out, q.Length))
		for {
			b, err := r.Next()
			if err == io.EOF {
				break
			} else if err != nil { // no last chunk: the service must not take this for the whole
				fmt.Println(err)
				return
			}
			out = h1.AppendChunk(out, b)
		}
		out = h1.AppendLastChunk(out, r.Trailers())
		os.Stdout.WriteString(strings.ReplaceAll(string(out), "\r", ""))
	}
	// Output:
	// POST / HTTP/1.1
	// host: blog.test
	// Transfer-Encoding: chunked
	//
	// 5
	// hello
	// 0
}
