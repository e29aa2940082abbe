package h1

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
)

// TestPeekLeavesThePiece: who looks whether a visitor has left reads one byte
// of what he says next. It went into the memory of the body that was being sent
// to the service, which got the next request in its place.
func TestPeekLeavesThePiece(t *testing.T) {
	next := lines("GET /next HTTP/1.1", host)
	for _, test := range []struct{ head, body int }{
		{0, 1}, {0, 10}, {0, smallBlock}, {0, 3 * bigBlock}, {smallBlock - 100, 10}, {3 * smallBlock, 1},
	} {
		body := strings.Repeat("b", test.body-1) + "e"
		q := AppendLength([]byte("POST / HTTP/1.1\r\n"+host+"\r\nA: "+strings.Repeat("a", test.head)+"\r\n"), int64(len(body)))
		in := append(AppendEnd(q), body...)
		checkPeek(t, slices.Concat(in, []byte(next)), []byte{0})
		r := NewReader(io.MultiReader(bytes.NewReader(in), strings.NewReader(next)))
		piece := checkMessage(t, r)
		if len(piece) == 0 || piece[len(piece)-1] != 'e' {
			t.Fatalf("%+v: the last piece is %q", test, piece)
		}
		if got := string(r.first[:]); got != "G" || r.Peek() != nil {
			t.Errorf("%+v: peeked %q", test, got)
		}
		if m, err := readRequest(r); err != nil || string(m.Request.Target) != "/next" {
			t.Errorf("%+v: then came %v, %v; want what was peeked, and the rest", test, m, describe(err))
		}
	}
}

// FuzzPeek: a message stays as it is while somebody peeks, and what comes next
// is read as if nobody did.
func FuzzPeek(f *testing.F) {
	for _, c := range readCorpus(f) {
		if len(c.raw) < 8<<10 {
			f.Add(append(bytes.Clone(c.raw), c.raw...), []byte{1, 20})
		}
	}
	f.Fuzz(checkPeek)
}

func checkPeek(t *testing.T, in, sizes []byte) {
	peeked, plain := chop(in, sizes...), chop(in, sizes...)
	for {
		m, err := readRequest(plain)
		if err != nil {
			return
		}
		var q Request
		if err := peeked.ReadRequest(&q); err != nil {
			t.Fatalf("behind Peek we refuse %q: %v", in, describe(err))
		}
		var got bytes.Buffer
		var piece []byte
		for !peeked.Done() {
			var err error
			if piece, err = peeked.Next(); err != nil && err != io.EOF {
				t.Fatalf("behind Peek: %v", describe(err))
			}
			got.Write(piece)
		}
		peeked.Peek() // what it finds out, the next message says as well
		if !bytes.HasSuffix(got.Bytes(), piece) {
			t.Fatalf("the last piece became %q; it was the end of %q", piece, got.Bytes())
		}
		p := aMessage{Request: keepRequest(q), Fields: textOf(q.Fields), Body: got.String(), Trailers: textOf(peeked.Trailers())}
		if p.String() != m.String() {
			t.Fatalf("while somebody peeks\n%v\nwithout\n%v", p, m)
		}
	}
}

// checkMessage reads a request, if there is one, and peeks behind it. It
// returns the last piece of its body as it is then.
func checkMessage(t *testing.T, r *Reader) (piece []byte) {
	t.Helper()
	var q Request
	if err := r.ReadRequest(&q); err != nil {
		return nil
	}
	for !r.Done() {
		var err error
		if piece, err = r.Next(); err != nil {
			return nil
		}
	}
	before := bytes.Clone(piece)
	r.Peek()
	if !bytes.Equal(piece, before) {
		t.Errorf("the last piece became %q; it was %q", piece, before)
	}
	return piece
}

// counted counts what is asked of an io.Reader.
type counted struct {
	io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	c.n++
	return c.Reader.Read(p)
}

// FuzzReady: Ready says whether Next reads, so that nobody holds a piece back
// for one that is not here, or sends it alone when it is; and it changes
// nothing.
func FuzzReady(f *testing.F) {
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, seed := range []string{
		chunked + "3\r\nabc\r\n0\r\n\r\n", chunked + "1;x\r\na\r\n2\r\nbc\r\n0\r\nA: b\r\nC: d\r\n\r\n",
		chunked + "0\r\n\r\n" + lines("HTTP/1.1 200 OK", "Content-Length: 2") + "ok",
		chunked + "1\r\nab", chunked + "1\r\na\r\nx", chunked + "0\r\nA b\r\n\r\n", chunked + "0\r\n\rA: b\r\n\r\n",
		lines("HTTP/1.1 200 OK", "Content-Length: 20") + "until it ends",
		lines("HTTP/1.0 200 OK") + "until it ends",
	} {
		f.Add([]byte(seed), []byte{})
		for size := range byte(12) {
			f.Add([]byte(seed), []byte{60, size + 1, 2})
			f.Add([]byte(seed), []byte{size + 1})
		}
	}
	f.Fuzz(func(t *testing.T, in, sizes []byte) {
		src := &counted{Reader: &cut{in: bytes.Clone(in), sizes: sizes}}
		r, plain := NewReader(src), chop(in, sizes...)
		for {
			m, wantErr := readResponse(plain, false)
			var s Response
			if err := r.ReadResponse(&s, false); err != nil {
				if describe(err) != describe(wantErr) {
					t.Fatalf("got %v want %v", describe(err), describe(wantErr))
				}
				return
			}
			var body, last, kept []byte
			for {
				before := src.n
				ready := r.Ready()
				if src.n != before {
					t.Fatal("Ready read")
				}
				if !bytes.Equal(last, kept) {
					t.Fatalf("what Next returned last became %q; it was %q", last, kept)
				}
				b, err := r.Next()
				_, bad := err.(*Error) // which may be seen before the end of a trailer section
				if read := src.n != before; read == ready && !bad {
					t.Fatalf("Ready said %v, and Next read: %v, in %q", ready, read, in)
				}
				if err == io.EOF {
					break
				}
				if err != nil {
					if describe(err) != describe(wantErr) {
						t.Fatalf("got %v want %v", describe(err), describe(wantErr))
					}
					return
				}
				body, last, kept = append(body, b...), b, bytes.Clone(b)
			}
			if wantErr != nil || string(body) != m.Body {
				t.Fatalf("got %q want %q, %v", body, m.Body, describe(wantErr))
			}
			if s.Status == 101 {
				return
			}
		}
	})
}
