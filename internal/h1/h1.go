package h1

import "io"

// A Field is a line of a head or of a trailer section (RFC 9110, section 5).
type Field struct {
	Name  []byte // a token, as it was sent
	Value []byte // without the whitespace around it; may be empty
	Kind  Kind   // what Name means to the machinery of HTTP
}

// A Head is what the heads of requests and answers have in common. What it
// points to belongs to the Reader, or is part of what was parsed.
type Head struct {
	// Minor is that of the version: 0 or 1.
	Minor int

	// Fields are all fields, in their order. Those that were acted upon are
	// among them: the caller leaves out what must not be passed on.
	Fields []Field

	// Length is how many bytes the body has on this connection, or [Chunked]
	// or [UntilClose].
	Length int64

	// Declared is what Content-Length says, and -1 without one. It differs
	// from Length where an answer has no body whatever its fields say.
	Declared int64

	// Close says that this is the last message of its sender's on the
	// connection (RFC 9112, section 9.3).
	Close bool

	// Upgrade is the list of protocols in the Upgrade field, if there is one,
	// Connection names it and the version is 1.1; otherwise such fields mean
	// nothing and this is nil (RFC 9110, section 7.8).
	Upgrade []byte
}

// What Head.Length says of bodies whose end is not a number of bytes away.
const (
	Chunked    = -1 // the body says itself where it ends
	UntilClose = -2 // of answers: the body ends with the connection
)

// A Request is the head of a request. The zero value is ready to be read into,
// and reading again into the same Request saves the memory of its fields.
type Request struct {
	Head

	// Method is a token. It is neither CONNECT nor PRI.
	Method []byte

	// Target is what stands in the request line, and Form what kind of
	// target it is.
	Target []byte
	Form   Form

	// Host is the value of the Host field: uri-host [":" port] of RFC 9110,
	// section 7.2, and never empty. It is nil if a request of HTTP/1.0 has none.
	Host []byte

	// ExpectContinue says that the visitor may be waiting for a 100 before it
	// sends the body (RFC 9110, section 10.1.1).
	ExpectContinue bool

	rest int // of Target in absolute form: where its path begins
}

// A Response is the head of an answer. The zero value is ready to be read into,
// and reading again into the same Response saves the memory of its fields.
type Response struct {
	Head

	// Status is 100 to 599. An answer below 200 is an interim one, and the
	// final one follows it; but behind 101 follows another protocol, which
	// Upgrade names.
	Status int

	// Reason is what stands behind the status; it may be empty.
	Reason []byte
}

// ParseRequest reads the head of a request from the beginning of b and returns
// its length. q points into b afterwards. The error is io.ErrUnexpectedEOF if
// the head does not end in b, and otherwise an [*Error]; q means nothing then.
// Only the number of fields is bounded, not their size.
func ParseRequest(b []byte, q *Request) (n int, err error) {
	var p parser
	p.request(q)
	return p.all(b)
}

// ParseResponse reads the head of an answer from the beginning of b and returns
// its length; toHEAD says that it answers a request with that method. It is
// like [ParseRequest] in everything else.
func ParseResponse(b []byte, toHEAD bool, s *Response) (n int, err error) {
	var p parser
	p.response(s, toHEAD)
	return p.all(b)
}

func (p *parser) all(b []byte) (int, error) {
	switch done, err := p.run(b); {
	case err != nil:
		return 0, err
	case !done:
		return 0, io.ErrUnexpectedEOF
	}
	return p.next, nil
}

// Clear forgets what q says. It is for a Request that is kept while there is
// none: buffers that were given back are not free as long as it points to them.
func (q *Request) Clear() { *q = Request{Head: Head{Fields: cleared(q.Fields)}} }

// Clear forgets what s says, as that of [Request] does.
func (s *Response) Clear() { *s = Response{Head: Head{Fields: cleared(s.Fields)}} }

// cleared is the memory of fields, if it is not unusually much.
func cleared(fields []Field) []Field {
	if cap(fields) > 4*usualFields {
		return nil
	}
	fields = fields[:cap(fields)]
	clear(fields)
	return fields[:0]
}

// reset prepares h for another head. It keeps the memory of its fields.
func (h *Head) reset() {
	*h = Head{Fields: h.Fields[:0], Declared: -1}
}

// Named says whether a Connection field names the field name, which then is for
// this hop only (RFC 9110, section 7.6.1). It may well name fields that the
// next hop needs, such as Host: what is kept all the same is the caller's to
// decide.
func (h *Head) Named(name []byte) bool {
	for i := range h.Fields {
		f := &h.Fields[i]
		if f.Kind != KindConnection {
			continue
		}
		for list := f.Value; len(list) > 0; {
			var option []byte
			if option, list, _ = cutElement(list); equalFold(option, name) {
				return true
			}
		}
	}
	return false
}
