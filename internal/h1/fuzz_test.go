package h1

import (
	"bytes"
	"io"
	"testing"
)

// FuzzRequest: however a stream of requests comes in, it is read the same; the
// naive parser takes what we take, and sees the same in it; and so it does, and
// so do we, in what we write.
func FuzzRequest(f *testing.F) {
	for _, c := range readCorpus(f) {
		if len(c.raw) < 8<<10 {
			f.Add(c.raw, []byte{1, 20})
		}
	}
	f.Fuzz(func(t *testing.T, in, sizes []byte) {
		read := func(r *Reader) (aMessage, error) { return readRequest(r) }
		naive := func(in []byte) (naiveMessage, error) {
			if len(in) >= 2 && string(in[:2]) == "\r\n" {
				in = in[2:]
			}
			return naiveRequest(in)
		}
		checkStream(t, in, sizes, read, naive)
	})
}

// FuzzResponse is the same of answers; which of them are to HEAD is up to the
// input.
func FuzzResponse(f *testing.F) {
	for _, seed := range []string{
		lines("HTTP/1.1 200 OK", "Content-Length: 2") + "ok" + lines("HTTP/1.1 404 Not Found", "Content-Length: 0"),
		lines("HTTP/1.1 103 Early Hints", "Link: </a>") + lines("HTTP/1.0 200") + "until close",
		lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Trailer: A") + "5;x=\"\\\"\"\r\nhello\r\n0\r\nA: b\r\nHost: c\r\n\r\n",
		lines("HTTP/1.1 304 ", "Content-Length: 2") + lines("HTTP/1.1 204 ", "Connection: close"),
		lines("HTTP/1.1 101 Switching Protocols", "Upgrade: a/1, b", "Connection: upgrade") + "\x00\x01",
		lines("HTTP/1.0 200 OK", "Connection: keep-alive", "Content-Length: 1") + "a",
	} {
		f.Add([]byte(seed), []byte{1, 20}, false)
		f.Add([]byte(seed), []byte{}, true)
	}
	f.Fuzz(func(t *testing.T, in, sizes []byte, toHEAD bool) {
		read := func(r *Reader) (aMessage, error) { return readResponse(r, toHEAD) }
		naive := func(in []byte) (naiveMessage, error) { return naiveResponse(in, toHEAD) }
		checkStream(t, in, sizes, read, naive)
	})
}

// checkStream reads in to its end or to the first error, in two ways, and looks
// at each message.
func checkStream(t *testing.T, in, sizes []byte, read func(*Reader) (aMessage, error), naive func([]byte) (naiveMessage, error)) {
	whole, pieces := chop(in), chop(in, sizes...)
	for left := in; ; {
		m, err := read(whole)
		m2, err2 := read(pieces)
		if describe(err) != describe(err2) || err == nil && m.String() != m2.String() {
			t.Fatalf("in one piece\n%v %v\nin pieces of %v\n%v %v", m, describe(err), sizes, m2, describe(err2))
		}
		if err != nil {
			if err == io.EOF && len(bytes.TrimPrefix(left, []byte("\r\n"))) > 0 {
				t.Fatalf("a clean end with %q left", left)
			}
			return
		}
		n, err := naive(left)
		if err != nil {
			t.Fatalf("we read\n%v\nwhere the naive parser refuses\n%q", m, left)
		}
		n.trailers = allowed(n.trailers)
		if got, want := m.naively(), n.essence(); got != want {
			t.Fatalf("we read\n%s\nthe naive parser\n%s\nof\n%q", got, want, left)
		}
		if m.Response.Status == 101 {
			return
		}
		left = []byte(n.rest)
		if m.Request.Method == nil || m.Request.Host != nil {
			checkForwarded(t, m)
		}
	}
}

// allowed leaves out trailers that may not stand there.
func allowed(trailers [][2]string) (kept [][2]string) {
	for _, f := range trailers {
		if MayTrail(f[0]) {
			kept = append(kept, f)
		}
	}
	return kept
}

// FuzzChunked: body and trailers are the naive decoder's, or both refuse; but
// for what only we bound.
func FuzzChunked(f *testing.F) {
	for _, seed := range []string{
		"0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\nrest", "a;b\r\n0123456789\r\n000\r\nA: b\r\n\r\n",
		"1 ; a = \"\\\"\t\xff\" ;c\t=d;e\r\nX\r\n0;x\r\nA:\r\nHost: a\r\nb: \xff\r\n\r\n",
		"1;\r\nX\r\n0\r\n\r\n", "1 \r\nX\r\n0\r\n\r\n", "1;a \r\nX\r\n0\r\n\r\n", "1\nX\r\n0\r\n\r\n", "fffffffffffffff\r\n", "1\r\nX\n0\r\n\r\n",
	} {
		f.Add([]byte(seed), []byte{1})
		f.Add([]byte(seed), []byte{})
	}
	const head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	f.Fuzz(func(t *testing.T, in, sizes []byte) {
		in = append([]byte(head), in...)
		n, naiveErr := naiveResponse(in, false)
		for _, r := range []*Reader{chop(in), chop(in, sizes...)} {
			m, err := readResponse(r, false)
			if err != nil {
				if naiveErr == nil && !bounded(err) {
					t.Fatalf("we refuse %q: %v", in, describe(err))
				}
				continue
			}
			if naiveErr != nil {
				t.Fatalf("the naive decoder refuses %q, where we read %v", in, m)
			}
			n.trailers = allowed(n.trailers)
			if got, want := m.naively(), n.essence(); got != want {
				t.Fatalf("we read\n%s\nthe naive decoder\n%s\nof %q", got, want, in)
			}
			if rest, err := io.ReadAll(io.MultiReader(bytes.NewReader(r.Buffered()), r.src)); err != nil || string(rest) != n.rest {
				t.Fatalf("%q follows, want %q", rest, n.rest)
			}
		}
	})
}

// bounded says whether err is about a bound that the naive decoder does not
// have.
func bounded(err error) bool {
	switch describe(err) {
	case "502 chunk line too long", "502 more framing than body", "502 too many fields", "502 fields too long":
		return true
	}
	return false
}
