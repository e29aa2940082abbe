package h1

import (
	"bytes"
	"io"
	"math"
	"net/http"
)

// minBodyRoom is how much room there must be behind a head for the body to be
// read there.
const minBodyRoom = smallBlock / 2

// A body is how far the body of the current message was read.
type body struct {
	state    bodyState
	left     int64 // bytes until the end: of the body, or of the chunk
	chunks   chunks
	trailers Head // only its fields
}

type bodyState uint8

const (
	bodyDone       bodyState = iota // or there is none
	bodyLength                      // left bytes
	bodyChunks                      // see chunks
	bodyTrailers                    // the parser is in the trailer section
	bodyUntilClose                  // all that comes
	bodyRaw                         // the same, and it is no message any more
)

// begin prepares for a body of length n, which is one of Head.Length.
func (b *body) begin(n int64) {
	b.trailers.Fields = b.trailers.Fields[:0]
	switch {
	case n == Chunked:
		b.state, b.left, b.chunks = bodyChunks, 0, chunks{}
	case n == UntilClose:
		b.state, b.left = bodyUntilClose, math.MaxInt64
	case n > 0:
		b.state, b.left = bodyLength, n
	}
}

// Next returns the next bytes of the body, without framing. It blocks until
// there is at least one. They are valid until the next call of a method. Behind
// the last, and for a message without a body, the error is io.EOF; never before
// the body has come to the end that its head or its last chunk promised.
func (r *Reader) Next() ([]byte, error) { return r.upTo(math.MaxInt) }

// Read is [Reader.Next] for those who bring their own memory.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b, err := r.upTo(len(p))
	return copy(p, b), err
}

// WriteTo writes the rest of the body to w, piece by piece as it comes. Its
// error is w's or that of [Reader.Next], but nil instead of io.EOF.
func (r *Reader) WriteTo(w io.Writer) (n int64, err error) {
	for {
		b, err := r.Next()
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		m, err := w.Write(b)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
}

// Done says whether the body was read to its end, and with it the trailers:
// that Next would return io.EOF without reading.
func (r *Reader) Done() bool { return r.body.state == bodyDone }

// Ready says whether Next would return without reading from the io.Reader. What
// Next returned last stays valid.
func (r *Reader) Ready() bool {
	b := &r.body
	for {
		rest := r.Buffered()
		switch {
		case r.fatal != nil || b.state == bodyDone:
			return true
		case len(rest) == 0:
			return false
		case b.state == bodyChunks && b.left == 0:
			r.readFraming() // an error is final, and Next's to tell
		case b.state == bodyTrailers:
			if !bytes.HasPrefix(rest, crlf) && !bytes.Contains(rest, linesEnd) {
				return false
			}
			r.readTrailers()
		default:
			return true
		}
	}
}

var (
	crlf     = []byte("\r\n")
	linesEnd = []byte("\r\n\r\n")
)

// Trailers are the fields behind the last chunk, once Next has returned io.EOF;
// but not those that may not stand there (see [MayTrail]). They are valid until
// the next head is asked for.
func (r *Reader) Trailers() []Field {
	if r.body.state != bodyDone {
		return nil
	}
	return r.body.trailers.Fields
}

// Raw ends HTTP on this connection, as 101 does: all that follows is read like
// a body that ends with the connection. The body before must have been read to
// its end; the last head becomes invalid.
func (r *Reader) Raw() {
	if r.body.state != bodyDone {
		panic("BUG: connection taken over before the end of the body")
	}
	if r.head != nil && r.head != r.blk {
		r.head.free()
	}
	r.head = nil
	r.body.state, r.body.left = bodyRaw, math.MaxInt64
}

// upTo is Next for at most n bytes.
func (r *Reader) upTo(n int) ([]byte, error) {
	for {
		if r.fatal != nil {
			return nil, r.fatal
		}
		var err error
		switch r.body.state {
		case bodyDone:
			return nil, io.EOF
		case bodyTrailers:
			err = r.readTrailers()
		case bodyChunks:
			if r.body.left > 0 {
				return r.take(n)
			}
			err = r.readFraming()
		default:
			return r.take(n)
		}
		if err != nil {
			return nil, err
		}
	}
}

// take returns at most n bytes of those of which left counts.
func (r *Reader) take(n int) ([]byte, error) {
	b := &r.body
	if r.r == r.w {
		switch err := r.refill(); {
		case err == nil:
		case err == io.EOF && b.state >= bodyUntilClose:
			if b.state == bodyUntilClose {
				b.state = bodyDone
			}
			return nil, io.EOF
		default:
			return nil, err
		}
	}
	n = int(min(int64(n), int64(r.w-r.r), b.left))
	piece := r.blk.b[r.r : r.r+n : r.r+n]
	r.r += n
	if b.state < bodyUntilClose {
		b.left -= int64(n)
	}
	if b.left == 0 && b.state == bodyLength {
		b.state = bodyDone
	}
	return piece, nil
}

// readFraming reads on to the bytes of the next chunk, or through the last.
func (r *Reader) readFraming() error {
	b := &r.body
	if r.r == r.w {
		if err := r.refill(); err != nil {
			return err
		}
	}
	n, reason := b.chunks.frame(r.Buffered())
	r.r += n
	switch {
	case reason != "":
		return r.fail(refuse(r.answer, http.StatusBadRequest, reason))
	case b.chunks.state == inChunk:
		b.left = b.chunks.size
		b.chunks.state = afterChunk
	case b.chunks.state == afterLast:
		b.state = bodyTrailers
		r.p.trailers(&b.trailers, r.answer)
	}
	return nil
}

// readTrailers reads what is behind the last chunk (RFC 9112, section 7.1.2).
func (r *Reader) readTrailers() error {
	most := MaxRequestHead
	if r.answer {
		most = MaxResponseHead
	}
	if err := r.parse("read trailers", most); err != nil {
		return err
	}
	r.body.state = bodyDone
	return nil
}

// refill reads when all that was there is used up. Where to depends on what the
// last read brought: as long as it fills its room the body comes in a flood,
// and gets a big block. One that comes in drops is read behind the head.
func (r *Reader) refill() error {
	little := r.body.state == bodyDone || r.body.state == bodyLength && r.body.left <= smallBlock
	size := smallBlock
	if r.full && !little {
		size = bigBlock
	}
	begin := 0
	switch {
	case size == smallBlock && r.head != nil && len(r.head.b)-r.headEnd >= minBodyRoom:
		if r.blk != r.head {
			r.blk.free()
			r.blk = r.head
		}
		begin = r.headEnd
	case r.blk == nil || r.blk == r.head || len(r.blk.b) != size:
		if r.blk != nil && r.blk != r.head {
			r.blk.free()
		}
		r.blk = newBlock(size)
	}
	r.r, r.w = begin, begin
	err := r.fill()
	switch {
	case err == nil:
		return nil
	case r.body.state == bodyDone:
		return r.failed("wait", err)
	case err == io.EOF && r.body.state < bodyUntilClose:
		err = io.ErrUnexpectedEOF
	}
	return r.failed("read body", err)
}
