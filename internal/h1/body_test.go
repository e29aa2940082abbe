package h1

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
)

// TestPipelining: messages of all kinds behind one another, cut anywhere.
func TestPipelining(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 8<<10)
	stream := "\r\n" + browserHead +
		lines("POST /1 HTTP/1.1", host, "Content-Length: 3") + "abc" +
		lines("POST /2 HTTP/1.1", host, "Transfer-Encoding: chunked") +
		"2\r\nab\r\n1;x=y\r\nc\r\n0\r\nX-Sum: 3\r\nHost: evil\r\n\r\n" +
		lines("POST /3 HTTP/1.1", host, "Content-Length: 131072") + big +
		lines("GET /4 HTTP/1.1", host, "Cookie: "+big[:20_000]) +
		lines("POST /5 HTTP/1.1", host, "Transfer-Encoding: chunked") + string(AppendLastChunk(AppendChunk(nil, big), nil)) +
		lines("GET /6 HTTP/1.1", host)
	bodies := []string{"", "abc", "abc", big, "", big, ""}
	for _, sizes := range [][]byte{nil, {1}, {255}, {3, 0, 1}, {200, 7}} {
		r := chop([]byte(stream), sizes...)
		for i, body := range bodies {
			m, err := readRequest(r)
			if err != nil {
				t.Fatalf("pieces of %v: message %d: %v", sizes, i, describe(err))
			}
			if m.Body != body || !strings.HasPrefix(string(m.Request.Target), "/") || m.Fields[0][0] != "Host" {
				t.Fatalf("pieces of %v: message %d is %.300v", sizes, i, m)
			}
			if i == 2 && (len(m.Trailers) != 1 || m.Trailers[0] != [2]string{"X-Sum", "3"}) {
				t.Errorf("pieces of %v: trailers %q", sizes, m.Trailers)
			}
			if i == 4 && len(m.Fields[1][1]) != 20_000 {
				t.Errorf("pieces of %v: a cookie of %d bytes", sizes, len(m.Fields[1][1]))
			}
		}
		if _, err := readRequest(r); err != io.EOF {
			t.Errorf("pieces of %v: in the end %v", sizes, describe(err))
		}
	}
}

// TestManyReaders: Readers share the memory that nobody uses, and no other.
func TestManyReaders(t *testing.T) {
	for i := range 4 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			TestPipelining(t)
			TestHeadStays(t)
		})
	}
}

// readChunked reads framing as the body of an answer.
func readChunked(framing string, sizes ...byte) (aMessage, error) {
	return readResponse(chop([]byte(lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked")+framing), sizes...), false)
}

// TestBadChunks: RFC 9112, section 7.1.
func TestBadChunks(t *testing.T) {
	for why, in := range map[string]string{
		"no size":                            ";a\r\n",
		"a sign":                             "+1\r\n",
		"0x":                                 "0x1",
		"whitespace before the size":         " 1",
		"whitespace behind the size":         "1 \r",
		"16 digits":                          "0000000000000001",
		"a lone line feed":                   "1\n",
		"a lone carriage return":             "1\rX",
		"an extension without a name":        "1;\r",
		"an extension without a value":       "1;a=\r",
		"whitespace behind the extension":    "1;a \r",
		"a line feed in an extension":        "1;a\n",
		"a line feed in a quoted one":        "1;a=\"\n",
		"an escaped one":                     "1;a=\"\\\n",
		"NUL in an extension":                "1;a=\"\x00",
		"something behind a quoted one":      "1;a=\"b\"c",
		"a longer chunk":                     "1\r\nXY",
		"a lone line feed behind a chunk":    "1\r\nX\n",
		"a lone carriage return behind it":   "1\r\nX\r0",
		"a folded trailer":                   "0\r\nA: b\r\n ",
		"a trailer without end":              "0\r\nA: " + strings.Repeat("a", MaxResponseHead-3),
		"a lone line feed in a trailer":      "0\r\nA: b\n",
		"a lone line feed at the end":        "0\r\n\n",
		"something else at the end":          "0\r\nXX ",
		"CVE-2023-39326: a long line":        "1;" + strings.Repeat("a", maxChunkLine-1),
		"CVE-2023-39326: many long lines":    strings.Repeat("1;"+strings.Repeat("a", 996)+"\r\nX\r\n", 17),
		"CVE-2023-39326: too many in a line": strings.Repeat("1;aaaaaaaaaaaaaaa\r\nX\r\n", 16<<10),
		"too many trailers":                  "0\r\n" + strings.Repeat("Host:\r\n", 257),
	} {
		for _, sizes := range [][]byte{nil, {1}, {100}} {
			in := lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + in
			r := NewReader(io.MultiReader(&cut{in: []byte(in), sizes: sizes}, forbidden{t, why}))
			_, err := readResponse(r, false)
			wantStatus(t, err, 502, why)
		}
	}
}

// TestGoodChunks: what is odd, but allowed.
func TestGoodChunks(t *testing.T) {
	for why, c := range map[string]struct{ in, want string }{
		"zeros before the size":  {"000000000000003\r\nabc\r\n000\r\n\r\n", "abc"},
		"extensions":             {"3 \t; a ; b = c\t;d=\"\\\"\xff\t\" ;e\r\nabc\r\n0;f\r\n\r\n", "abc"},
		"a byte at a time":       {strings.Repeat("1\r\nX\r\n", 100_000) + "0\r\n\r\n", strings.Repeat("X", 100_000)},
		"a long line now and so": {strings.Repeat("1;"+strings.Repeat("a", 900)+"\r\nX\r\n", 10) + "0\r\n\r\n", strings.Repeat("X", 10)},
	} {
		m, err := readChunked(c.in)
		if err != nil || m.Body != c.want {
			t.Errorf("%s: got %.100q, %v", why, m.Body, describe(err))
		}
	}
}

// TestChunkDebt: the bound for framing is exact.
func TestChunkDebt(t *testing.T) {
	// line is the framing of a chunk of one byte, with the end of the last.
	line := func(n int) string { return "1;" + strings.Repeat("a", n-len("\r\n1;\r\n")) + "\r\nX\r\n" }
	const paid = chunkGrant + 2
	for _, over := range []int{0, 1} {
		framing := "1;aa" + strings.Repeat(line(1_000+paid), 16)[len("1;"):] + line(maxChunkDebt-16_000+paid+over) + "0\r\n\r\n"
		m, err := readChunked(framing)
		if over == 0 && (err != nil || len(m.Body) != 17) {
			t.Errorf("at the bound: %d bytes, %v", len(m.Body), describe(err))
		} else if over > 0 {
			wantStatus(t, err, 502, "one byte more than the bound")
		}
	}
}

// TestTimeout: an error of the io.Reader passes through and changes nothing.
func TestTimeout(t *testing.T) {
	in := lines("POST / HTTP/1.1", host, "Transfer-Encoding: chunked") + "3\r\nabc\r\n0\r\nA: b\r\n\r\n"
	for at := range len(in) {
		src := io.MultiReader(strings.NewReader(in[:at]), iotest.ErrReader(os.ErrDeadlineExceeded))
		r := NewReader(src)
		timeouts, body := 0, ""
		again := func(err error) bool {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return false
			}
			timeouts++
			r.src = strings.NewReader(in[at:])
			return true
		}
		var q Request
		err := r.ReadRequest(&q)
		if again(err) {
			err = r.ReadRequest(&q)
		}
		for err == nil {
			var b []byte
			b, err = r.Next()
			body += string(b)
			if again(err) {
				err = nil
			}
		}
		if err != io.EOF || timeouts != 1 || body != "abc" || len(r.Trailers()) != 1 || string(q.Host) != "t.test" {
			t.Errorf("timeout behind %q: body %q, %d timeouts, %v", in[:at], body, timeouts, describe(err))
		}
	}
}

// TestErrorWithBytes: an io.Reader may return both at once.
func TestErrorWithBytes(t *testing.T) {
	in := lines("POST / HTTP/1.1", host, "Content-Length: 3") + "abc"
	r := NewReader(iotest.DataErrReader(strings.NewReader(in)))
	if m, err := readRequest(r); err != nil || m.Body != "abc" {
		t.Errorf("got %q, %v", m.Body, err)
	}
	if _, err := readRequest(r); err != io.EOF {
		t.Errorf("got %v, want io.EOF", err)
	}
	r = NewReader(&once{in: in[:10], err: os.ErrDeadlineExceeded})
	if err := r.ReadRequest(new(Request)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an error that came with bytes, and only once: got %v", err)
	}
	if err := NewReader(stuck{}).ReadRequest(new(Request)); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("of a reader that does nothing: %v", err)
	}
}

// once is an io.Reader that returns its error together with its bytes, and not
// again.
type once struct {
	in  string
	err error
}

func (o *once) Read(p []byte) (n int, err error) {
	n, err = copy(p, o.in), o.err
	o.in, o.err = "", io.EOF
	return n, err
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// TestRead: the same bytes as Next, in the caller's memory.
func TestRead(t *testing.T) {
	r := chop(chunked64K(), 200)
	if err := r.ReadResponse(new(Response), false); err != nil {
		t.Fatal(describe(err))
	}
	if err := iotest.TestReader(r, bytes.Repeat([]byte("x"), 64<<10)); err != nil {
		t.Error(err)
	}
	if !r.Done() {
		t.Error("not done")
	}
}

// TestRaw: what comes behind an upgrade is another protocol's, also what has
// come already.
func TestRaw(t *testing.T) {
	in := lines("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: x") + "\x00\x01" + strings.Repeat("y", 100_000)
	for _, sizes := range [][]byte{nil, {1}, {250}} {
		r := chop([]byte(in), sizes...)
		var s Response
		if err := r.ReadResponse(&s, false); err != nil {
			t.Fatal(describe(err))
		}
		if sizes == nil && !bytes.HasPrefix(r.Buffered(), []byte("\x00\x01y")) {
			t.Errorf("buffered: %q", r.Buffered())
		}
		r.Raw()
		if err := r.Wait(); err != nil {
			t.Error(err)
		}
		got, err := io.ReadAll(r)
		if string(got) != in[len(in)-100_002:] || err != nil {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if err := r.Wait(); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
	}
}

// held is how much memory r holds.
func (r *Reader) held() (n int) {
	if r.blk != nil {
		n += len(r.blk.b)
	}
	if r.head != nil && r.head != r.blk {
		n += len(r.head.b)
	}
	return n
}

// TestMemory: how much is held, and when.
func TestMemory(t *testing.T) {
	client, server := io.Pipe()
	r := NewReader(client)
	want := func(n int, why string) {
		t.Helper()
		if held := r.held(); held != n {
			t.Errorf("%s: holds %d bytes, want %d", why, held, n)
		}
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		io.WriteString(server, lines("POST / HTTP/1.1", host, "Transfer-Encoding: chunked"))
		for _, n := range []int{10, 100 << 10, 10, 10} {
			server.Write(AppendChunk(nil, strings.Repeat("x", n)))
		}
		server.Write(AppendLastChunk(nil, nil))
		io.WriteString(server, lines("GET / HTTP/1.1", host, "A: "+strings.Repeat("a", 5_000)))
		server.Close()
	}()
	var q Request
	want(0, "a new one")
	if err := r.Wait(); err != nil {
		t.Fatal(err)
	}
	want(smallBlock, "a byte has come")
	if err := r.ReadRequest(&q); err != nil {
		t.Fatal(describe(err))
	}
	want(smallBlock, "a head")
	if b, err := r.Next(); err != nil || len(b) != 10 {
		t.Fatal(len(b), err)
	}
	want(smallBlock, "a drop of a body")
	most := 0
	for n := 0; n < 100<<10+20; {
		b, err := r.Next()
		if err != nil {
			t.Fatal(describe(err))
		}
		n += len(b)
		most = max(most, r.held())
	}
	if most != smallBlock+bigBlock {
		t.Errorf("in a flood: held %d bytes, want %d", most, smallBlock+bigBlock)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Fatal(describe(err))
	}
	want(smallBlock, "a body that ended in drops")
	if err := r.ReadRequest(&q); err != nil {
		t.Fatal(describe(err))
	}
	want(2*smallBlock, "a long head")
	if err := r.Wait(); err != io.EOF {
		t.Fatal(err)
	}
	want(0, "idle")
	r.Release()
	<-done
}

// TestMisuse: bugs of callers, and what is none.
func TestMisuse(t *testing.T) {
	for why, f := range map[string]func(*Reader){
		"ReadRequest": func(r *Reader) { r.ReadRequest(new(Request)) },
		"Wait":        func(r *Reader) { r.Wait() },
		"Peek":        func(r *Reader) { r.Peek() },
		"Raw":         func(r *Reader) { r.Raw() },
	} {
		r := chop([]byte(lines("POST / HTTP/1.1", host, "Content-Length: 3") + "abc"))
		if err := r.ReadRequest(new(Request)); err != nil {
			t.Fatal(describe(err))
		}
		if r.Done() || r.Trailers() != nil {
			t.Error("done before the body")
		}
		func() {
			defer func() {
				if text, _ := recover().(string); !strings.HasPrefix(text, "BUG: ") {
					t.Errorf("%s before the end of the body: got %q, want a panic", why, text)
				}
			}()
			f(r)
		}()
		r.Reset(strings.NewReader(browserHead))
		if m, err := readRequest(r); err != nil || len(m.Fields) != 12 {
			t.Errorf("after a reset: %v", describe(err))
		}
	}
	broken := chop([]byte(lines("POST / HTTP/1.1", host, "Content-Length: 3") + "a"))
	if _, err := readRequest(broken); err != io.ErrUnexpectedEOF {
		t.Error(err)
	}
	if err := broken.ReadRequest(new(Request)); err != io.ErrUnexpectedEOF {
		t.Errorf("the next head behind a broken body: %v", err)
	}
}

// TestMaxHead: the bound is exact, for heads and for trailers.
func TestMaxHead(t *testing.T) {
	head := lines("GET / HTTP/1.1", host, "A: "+strings.Repeat("a", 10_000))
	for n, want := range map[int]int{len(head): 0, len(head) - 1: 431, 10: 414} {
		for _, sizes := range [][]byte{nil, {1}, {255}} {
			r := chop([]byte(head+head), sizes...)
			r.MaxHead = n
			_, err := readRequest(r)
			if err == nil {
				_, err = readRequest(r)
			}
			if want == 0 && err != nil || want != 0 && err == nil {
				t.Errorf("MaxHead %d: got %v", n, describe(err))
			} else if want != 0 {
				wantStatus(t, err, want, "too long")
			}
		}
	}
}

// TestPeek: while somebody waits for a visitor to leave, others use the head.
func TestPeek(t *testing.T) {
	for _, next := range []string{"", lines("GET /2 HTTP/1.1", host)} {
		client, server := io.Pipe()
		r := NewReader(client)
		go func() {
			io.WriteString(server, lines("POST / HTTP/1.1", host, "A: "+strings.Repeat("a", 4_020), "Content-Length: 1")+"x")
			io.WriteString(server, next)
			server.Close()
		}()
		var q Request
		if err := r.ReadRequest(&q); err != nil {
			t.Fatal(describe(err))
		}
		if _, err := r.WriteTo(io.Discard); err != nil {
			t.Fatal(describe(err))
		}
		peeked := make(chan error)
		go func() { peeked <- r.Peek() }()
		if string(q.Host) != "t.test" || len(q.Fields[1].Value) != 4_020 {
			t.Errorf("the head became %q", q.Fields)
		}
		if err := <-peeked; (err == io.EOF) != (next == "") {
			t.Errorf("%d bytes are coming: %v", len(next), err)
		}
		if next == "" {
			continue
		}
		if err := r.Peek(); err != nil {
			t.Errorf("again: %v", err)
		}
		if m, err := readRequest(r); err != nil || string(m.Request.Target) != "/2" {
			t.Errorf("the next one is %v, %v", m, describe(err))
		}
	}
	r := NewReader(iotest.ErrReader(os.ErrDeadlineExceeded))
	if err := r.Peek(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("timeout: %v", err)
	}
}

// TestSmallRests: a big block is not kept, or taken, for little.
func TestSmallRests(t *testing.T) {
	post := func(n int) string {
		return lines("POST / HTTP/1.1", host, "Content-Length: "+strconv.Itoa(n)) + strings.Repeat("x", n)
	}
	r := chop([]byte(post(100_000) + lines("GET / HTTP/1.1", host)))
	if _, err := readRequest(r); err != nil || r.held() != smallBlock+bigBlock {
		t.Errorf("a big body: holds %d, %v", r.held(), describe(err))
	}
	if _, err := readRequest(r); err != nil || r.held() != smallBlock {
		t.Errorf("the head that came with its end: holds %d, %v", r.held(), describe(err))
	}
	r = chop([]byte(post(5_000)))
	if _, err := readRequest(r); err != nil || r.held() != smallBlock {
		t.Errorf("a body whose rest is small: holds %d, %v", r.held(), describe(err))
	}
	long := lines("POST / HTTP/1.1", host, "Content-Length: 200", "A: "+strings.Repeat("a", 4_000))
	r = NewReader(io.MultiReader(strings.NewReader(long), strings.NewReader(post(200)[len(post(200))-200:])))
	if err := r.ReadRequest(new(Request)); err != nil {
		t.Fatal(describe(err))
	}
	if b, err := r.Next(); len(b) != 200 || err != nil {
		t.Errorf("a body behind a head that fills its block: %d bytes at once, %v", len(b), describe(err))
	}
}

// TestHeadStays: the head is valid to the end of the trailers, whatever moves
// while both grow.
func TestHeadStays(t *testing.T) {
	in := lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "A: b", "Long: "+strings.Repeat("l", 50_000)) + "1\r\nx\r\n0\r\nT: " + strings.Repeat("t", 50_000) + "\r\n\r\n"
	for _, sizes := range [][]byte{nil, {100}} {
		r := chop([]byte(in), sizes...)
		var s Response
		if err := r.ReadResponse(&s, false); err != nil {
			t.Fatal(describe(err))
		}
		if _, err := r.WriteTo(io.Discard); err != nil || len(r.Trailers()) != 1 {
			t.Fatal(r.Trailers(), describe(err))
		}
		for i := range 40 { // somebody else takes what was given back, and writes there
			clear(newBlock(smallBlock << (i % 4)).b)
		}
		if string(s.Fields[1].Value) != "b" || len(r.Trailers()[0].Value) != 50_000 {
			t.Errorf("the head became %q", s.Fields)
		}
		r.Release()
	}
}

// TestClear: a Request that is cleared points to nothing, and one that was big
// is not kept.
func TestClear(t *testing.T) {
	var q Request
	if _, err := ParseRequest([]byte(browserHead), &q); err != nil {
		t.Fatal(describe(err))
	}
	q.Clear()
	if q.Target != nil || cap(q.Fields) == 0 || q.Fields[:1][0].Name != nil {
		t.Errorf("left: %+v", q)
	}
	if _, err := ParseRequest([]byte("GET / HTTP/1.0\r\n"+strings.Repeat("a:\r\n", 200)+"\r\n"), &q); err != nil {
		t.Fatal(describe(err))
	}
	if q.Clear(); cap(q.Fields) > 100 {
		t.Errorf("room for %d fields is kept", cap(q.Fields))
	}
}
