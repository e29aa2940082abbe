package edge

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/culvertd/culvert/internal/router"
)

// A canned conn says the same thing over and over: as a visitor n times, as a
// service once for each thing that it is told. It takes no time of its own.
type canned struct {
	net.Conn // nil
	says     []byte
	left     int // of says, for this time
	times    int // that says will still be said; -1 means when it is spoken to
	heard    int // bytes
}

func (c *canned) Read(p []byte) (int, error) {
	if c.left == 0 {
		if c.times == 0 {
			return 0, io.EOF
		}
		c.times--
		c.left = len(c.says)
	}
	n := copy(p, c.says[len(c.says)-c.left:])
	c.left -= n
	return n, nil
}

func (c *canned) Write(p []byte) (int, error) {
	c.heard += len(p)
	return len(p), nil
}

func (c *canned) Close() error                    { return nil }
func (c *canned) Quiet() bool                     { return true }
func (c *canned) RemoteAddr() net.Addr            { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 4711} }
func (c *canned) SetDeadline(time.Time) error     { return nil }
func (c *canned) SetReadDeadline(time.Time) error { return nil }

type cannedService struct{ says []byte }

func (s *cannedService) Open(context.Context, router.Visit) (net.Conn, error) {
	return &canned{says: s.says, times: 1 << 62}, nil
}

const (
	browserAsks = "GET /a/page?x=1 HTTP/1.1\r\nHost: " + blog + "\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" +
		"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n" +
		"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n" +
		"Connection: keep-alive\r\nCookie: session=0123456789abcdef0123456789abcdef\r\n\r\n"
	nginxAnswers = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Tue, 24 Nov 2026 16:48:28 GMT\r\n" +
		"Content-Type: application/octet-stream\r\nContent-Length: 1024\r\n" +
		"Last-Modified: Tue, 24 Nov 2026 16:00:00 GMT\r\nConnection: keep-alive\r\nETag: \"69248e80-400\"\r\n" +
		"Accept-Ranges: bytes\r\n\r\n"
)

// serveCanned carries n requests of one visitor.
func serveCanned(tb testing.TB, n int, asks, answers string) {
	routes := new(router.Router)
	routes.Add(blog, &cannedService{[]byte(answers)}, router.Options{})
	d := newDoor(tb.Context(), &Edge{Domain: domain, Visitors: routes}, domain, nil)
	defer d.cut()
	c := &canned{says: []byte(asks), times: n}
	d.serveH1(c, c, d.asker())
	if want := n * 1024; c.heard < want { // the bodies alone
		tb.Fatalf("the visitor heard %d bytes; want %d and more", c.heard, want)
	}
}

// BenchmarkRequest is what a request costs the edge, without the connections.
func BenchmarkRequest(b *testing.B) {
	kilobyte := strings.Repeat("x", 1024)
	for name, test := range map[string]struct{ asks, answers string }{
		"get":    {browserAsks, nginxAnswers + kilobyte},
		"post":   {strings.Replace(browserAsks, "GET /a/page?x=1 HTTP/1.1\r\n", "POST / HTTP/1.1\r\nContent-Length: 5\r\n", 1) + "hello", nginxAnswers + kilobyte},
		"chunks": {browserAsks, strings.Replace(nginxAnswers, "Content-Length: 1024", "Transfer-Encoding: chunked", 1) + "400\r\n" + kilobyte + "\r\n0\r\n\r\n"},
		"cookie": {browserAsks, strings.Replace(nginxAnswers, "ETag", "Set-Cookie: a=b; Path=/; HttpOnly\r\nETag", 1) + kilobyte},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			serveCanned(b, b.N, test.asks, test.answers)
		})
	}
}
