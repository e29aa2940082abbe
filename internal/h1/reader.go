package h1

import (
	"io"
	"net/http"
)

// How long a head may be, unless Reader.MaxHead says otherwise.
const (
	MaxRequestHead  = 64 << 10
	MaxResponseHead = 256 << 10
)

// A Reader takes the messages of one connection apart: a head, its body to the
// end, the next head. It never reads more than it can keep for the next
// message, so that pipelining works.
//
// An [*Error] is final, and so is io.ErrUnexpectedEOF, the end of a connection
// in the middle of a message. Every other error is the io.Reader's, wrapped,
// and changes nothing: after a timeout, the same call goes on where it was.
//
// What a Reader holds is bounded: a block for the head, of 4 KiB or the next
// power of two up to MaxHead, another such for trailers, and while a body comes
// in a flood one of 32 KiB.
type Reader struct {
	// MaxHead bounds the bytes of a head, and those of a trailer section. Zero
	// means [MaxRequestHead] or [MaxResponseHead].
	MaxHead int

	src    io.Reader
	first  [1]byte // of what comes after Wait or Peek
	peeked bool    // first is the next byte, and stands nowhere else
	late   error   // came together with bytes, and is due when they are used up
	fatal  error   // what every further call returns

	blk  *block // what is read into, or nil
	r, w int    // blk.b[r:w] was not looked at yet
	full bool   // the last read brought as much as there was room for

	head    *block // has the last head until the next is asked for; may be blk
	headEnd int

	p      parser
	answer bool // the last head was asked for as one of an answer
	body   body
}

// NewReader returns a Reader of the messages that arrive on src. It reads
// nothing yet, and holds nothing.
func NewReader(src io.Reader) *Reader { return &Reader{src: src} }

// Reset makes r read the messages of src, and forgets all else but MaxHead.
func (r *Reader) Reset(src io.Reader) {
	r.Release()
	*r = Reader{MaxHead: r.MaxHead, src: src}
}

// Release gives the buffers back. Whatever the Reader returned is invalid from
// then on, and what it has not returned yet is lost.
func (r *Reader) Release() {
	if r.head != nil && r.head != r.blk {
		r.head.free()
	}
	if r.blk != nil {
		r.blk.free()
	}
	r.head, r.blk = nil, nil
	r.r, r.w = 0, 0
	r.body.trailers.Fields = cleared(r.body.trailers.Fields)
}

// Wait returns nil when a byte of the next message has arrived, and io.EOF when
// there will be none. It is for connections that may be idle for long: while
// nothing is there it holds no buffer, at the price of one more read; see also
// [Request.Clear]. The last message must have been read to its end and becomes
// invalid.
//
// Behind [Reader.Raw] it waits for the next byte of all that follows.
func (r *Reader) Wait() error {
	if r.fatal != nil {
		return r.fatal
	}
	if r.body.state != bodyDone && r.body.state != bodyRaw {
		panic("BUG: waiting for the next message in the middle of one")
	}
	if r.r < r.w {
		return nil
	}
	r.Release()
	n, err := r.read(r.first[:])
	if n == 0 {
		return r.failed("wait", err)
	}
	r.blk = newBlock(smallBlock)
	r.w = copy(r.blk.b, r.first[:])
	return nil
}

// Peek returns nil when a byte of the next message has arrived, and io.EOF when
// there will be none: so it finds out that a visitor has left who waits for an
// answer. Unlike [Reader.Wait] it leaves the last message as it is, the piece
// of its body that was returned last as well, so that others may go on to use
// them while Peek blocks; but not the Reader. The last message must have been
// read to its end.
func (r *Reader) Peek() error {
	if r.fatal != nil {
		return r.fatal
	}
	if r.body.state != bodyDone {
		panic("BUG: looking for the next message in the middle of one")
	}
	if r.r < r.w || r.peeked {
		return nil
	}
	n, err := r.read(r.first[:])
	if n == 0 {
		return r.failed("wait", err)
	}
	r.peeked = true
	return nil
}

// ReadRequest reads the head of the next request. q is valid until the next
// head is asked for; of the last message, everything is invalid as soon as this
// is called, and its body must have been read to the end.
//
// The error is io.EOF if the connection ended before a request began.
func (r *Reader) ReadRequest(q *Request) error {
	if r.fatal != nil {
		return r.fatal
	}
	r.begin(false)
	r.p.request(q)
	if err := r.readHead(MaxRequestHead); err != nil {
		return err
	}
	r.body.begin(q.Length)
	return nil
}

// ReadResponse reads the head of the next answer; toHEAD says that it is one to
// a request with that method. It is like [Reader.ReadRequest] in everything
// else. Interim answers are returned one by one, and it is for the caller to
// lose patience. A 101 has no body, and what comes behind it is read with
// [Reader.Raw].
func (r *Reader) ReadResponse(s *Response, toHEAD bool) error {
	if r.fatal != nil {
		return r.fatal
	}
	r.begin(true)
	r.p.response(s, toHEAD)
	if err := r.readHead(MaxResponseHead); err != nil {
		return err
	}
	r.body.begin(s.Length)
	return nil
}

// Buffered returns what has arrived and was not read yet. It is valid until the
// next call of another method.
func (r *Reader) Buffered() []byte {
	if r.blk == nil {
		return nil
	}
	return r.blk.b[r.r:r.w:r.w]
}

// begin makes r ready for another head. Of that, bytes may have come already; a
// big block that they hardly need goes.
func (r *Reader) begin(answer bool) {
	if r.body.state != bodyDone {
		panic("BUG: next head asked for before the end of the body")
	}
	r.answer = answer
	if r.head != nil && r.head != r.blk {
		r.head.free()
	}
	r.head = nil
	left := r.w - r.r
	if left == 0 {
		r.r, r.w = 0, 0
	}
	switch {
	case r.blk == nil || len(r.blk.b) == smallBlock:
	case left == 0:
		r.blk.free()
		r.blk = nil
	case left <= smallBlock:
		r.move(newBlock(smallBlock))
	}
}

// readHead lets the parser run until the head is whole, and pins it in its
// block.
func (r *Reader) readHead(most int) error {
	if err := r.parse("read head", most); err != nil {
		return err
	}
	r.head, r.headEnd = r.blk, r.r
	return nil
}

// parse lets the parser run over what is there and what arrives, until what it
// reads is whole, or longer than most or MaxHead.
func (r *Reader) parse(doing string, most int) error {
	if r.MaxHead > 0 {
		most = r.MaxHead
	}
	for {
		b := r.Buffered()
		b = b[:min(len(b), most)]
		done, err := r.p.run(b)
		switch {
		case err != nil:
			return r.fail(err)
		case done:
			r.r += r.p.next
			r.p = parser{} // the caller's Request is no longer ours
			return nil
		case len(b) == most && r.p.state < atField && !r.answer:
			return r.fail(refuse(false, http.StatusRequestURITooLong, "request line too long"))
		case len(b) == most:
			return r.fail(refuse(r.answer, http.StatusRequestHeaderFieldsTooLarge, "fields too long"))
		}
		// What may end is a connection between messages, but for an empty line.
		began := r.p.trailer || len(b) > 0 && r.p.state != atRequest
		if r.makeRoom() {
			r.p.restart()
		}
		if err := r.fill(); err != nil {
			if err == io.EOF && began {
				err = io.ErrUnexpectedEOF
			}
			return r.failed(doing, err)
		}
	}
}

// makeRoom prepares the block for a read that goes on with what is not whole
// yet, and says whether that has moved. It does so when its block is full, and
// from the second time on the next is twice as big as the last: so that
// starting over costs no more than reading did.
func (r *Reader) makeRoom() (moved bool) {
	if r.blk != nil && r.w < len(r.blk.b) {
		return false
	}
	moved = r.w > r.r
	r.move(newBlock(2 * max(r.w-r.r, smallBlock/2)))
	return moved
}
