package h1

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// browserHead is what a browser sends for a page: about 600 bytes, 12 fields.
var browserHead = lines(
	"GET /assets/app/index.html?v=20240817&lang=en HTTP/1.1",
	"Host: blog.tunnel.example.com",
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
	"Accept-Language: en-US,en;q=0.5",
	"Accept-Encoding: gzip, deflate, br, zstd",
	"Referer: https://blog.tunnel.example.com/",
	"Connection: keep-alive",
	"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark",
	"Sec-Fetch-Dest: document",
	"Sec-Fetch-Mode: navigate",
	"Sec-Fetch-Site: same-origin",
	"Priority: u=0, i",
)

var smallHead = lines("HTTP/1.1 200 OK", "Date: Mon, 01 Jan 2024 00:00:00 GMT", "Content-Type: text/plain", "Content-Length: 2") + "ok"

// forever is an io.Reader that repeats b without end, and never reads beyond a
// repetition at once: like a peer that waits for an answer.
type forever struct {
	b []byte
	i int
}

func (f *forever) Read(p []byte) (int, error) {
	n := copy(p, f.b[f.i:])
	f.i = (f.i + n) % len(f.b)
	return n, nil
}

func BenchmarkRequestHead(b *testing.B) {
	r := NewReader(&forever{b: []byte(browserHead)})
	var q Request
	b.SetBytes(int64(len(browserHead)))
	b.ReportAllocs()
	for b.Loop() {
		if err := r.ReadRequest(&q); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseRequest(b *testing.B) {
	in := []byte(browserHead)
	var q Request
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseRequest(in, &q); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkResponse(b *testing.B) {
	r := NewReader(&forever{b: []byte(smallHead)})
	var s Response
	b.SetBytes(int64(len(smallHead)))
	b.ReportAllocs()
	for b.Loop() {
		if err := r.ReadResponse(&s, false); err != nil {
			b.Fatal(err)
		}
		if _, err := r.WriteTo(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

// chunked64K is an answer of 64 KiB in chunks of 8.
func chunked64K() []byte {
	out := []byte(lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"))
	for range 8 {
		out = AppendChunk(out, strings.Repeat("x", 8<<10))
	}
	return AppendLastChunk(out, nil)
}

func BenchmarkChunked64K(b *testing.B) { benchmarkBody(b, chunked64K()) }

func BenchmarkLength64K(b *testing.B) {
	benchmarkBody(b, []byte(lines("HTTP/1.1 200 OK", "Content-Length: 65536")+strings.Repeat("x", 64<<10)))
}

func benchmarkBody(b *testing.B, in []byte) {
	r := NewReader(&forever{b: in})
	var s Response
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if err := r.ReadResponse(&s, false); err != nil {
			b.Fatal(err)
		}
		if n, err := r.WriteTo(io.Discard); err != nil || n != 64<<10 {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkWriteHead writes the browser's head again.
func BenchmarkWriteHead(b *testing.B) {
	var q Request
	if _, err := ParseRequest([]byte(browserHead), &q); err != nil {
		b.Fatal(err)
	}
	var out []byte
	b.SetBytes(int64(len(browserHead)))
	b.ReportAllocs()
	for b.Loop() {
		out = AppendRequestLine(out[:0], q.Method, q.Target)
		for i := range q.Fields {
			out = AppendField(out, q.Fields[i].Name, q.Fields[i].Value)
		}
		out = AppendEnd(out)
	}
	if !bytes.Equal(out, []byte(browserHead)) {
		b.Errorf("got %q", out)
	}
}
