package h1

import "net/http"

const (
	// usualFields is how many fields a head has room for before it grows.
	usualFields = 16

	// maxFields bounds the fields of a head, and of a trailer section.
	maxFields = 256

	// maxMethod bounds the method. The longest that is registered has 17.
	maxMethod = 32
)

// A parser walks over a head. It can be stopped by the end of what has arrived,
// anywhere, and goes on from there: a byte is looked at once, however slowly
// they come, and refused when it is seen.
type parser struct {
	q       *Request  // the head is this one's,
	s       *Response // or this one's,
	h       *Head     // and this is what it has in common with others;
	toHEAD  bool      // s answers a request with that method
	trailer bool      // or it is no head but the trailer section of h
	answer  bool      // for errors: it comes from a service

	state state
	next  int  // the first byte that was not looked at
	mark  int  // where the element begins in which next is
	name  int  // where the name of the field begins,
	colon int  // and where it ends
	blank bool // an empty line stood before the request line
	known bool // the version is one of ours

	count int     // fields so far
	seen  meaning // what they said so far
}

type state uint8

const (
	atRequest  state = iota // the first byte
	afterBlank              // the line feed of an empty line
	inMethod
	inRequestTarget
	inVersion
	inStatus
	inReason
	lineEnd // the line feed of the first line
	atField // the first byte of a line
	inName
	atValue // whitespace before a value
	inFieldValue
	fieldEnd // the line feed of a field
	headEnd  // the last byte
	finished
)

// request makes p ready for the head of a request.
func (p *parser) request(q *Request) {
	*p = parser{q: q, h: &q.Head}
	p.restart()
}

// response makes p ready for the head of an answer.
func (p *parser) response(s *Response, toHEAD bool) {
	*p = parser{s: s, h: &s.Head, toHEAD: toHEAD, answer: true}
	p.restart()
}

// trailers makes p ready for a trailer section.
func (p *parser) trailers(h *Head, answer bool) {
	*p = parser{h: h, trailer: true, answer: answer}
	p.restart()
}

// restart makes p look at everything again: it has moved to another buffer.
func (p *parser) restart() {
	*p = parser{q: p.q, s: p.s, h: p.h, toHEAD: p.toHEAD, trailer: p.trailer, answer: p.answer}
	p.h.reset()
	switch {
	case p.q != nil:
		*p.q = Request{Head: p.q.Head}
		p.state = atRequest
	case p.s != nil:
		*p.s = Response{Head: p.s.Head}
		p.state = inVersion
	default:
		p.state = atField
	}
}

func (p *parser) refuse(reason string) error {
	return refuse(p.answer, http.StatusBadRequest, reason)
}

// run goes on in b, which begins where the head begins and has at least what it
// had the last time, in the same place. It returns true when the head is whole;
// p.next is its length then.
func (p *parser) run(b []byte) (bool, error) {
	for p.next < len(b) {
		var err error
		if p.state < atField {
			err = p.firstLine(b)
		} else {
			err = p.fieldLines(b)
		}
		if err != nil {
			return false, err
		}
		if p.state == finished {
			return true, nil
		}
	}
	return false, nil
}

// firstLine reads a request line or a status line, and what may stand before
// one (RFC 9112, sections 2.2, 3 and 4).
func (p *parser) firstLine(b []byte) error {
	for p.next < len(b) {
		c := b[p.next]
		switch p.state {
		case atRequest:
			if c == '\r' && !p.blank {
				p.state, p.blank = afterBlank, true
				p.next++
				continue
			}
			p.mark, p.state = p.next, inMethod

		case afterBlank:
			if c != '\n' {
				return p.refuse("carriage return without line feed")
			}
			p.state = atRequest
			p.next++

		case inMethod:
			p.next = tokenEnd(b, p.next)
			if p.next-p.mark > maxMethod {
				return refuse(p.answer, http.StatusNotImplemented, "method too long")
			}
			if p.next == len(b) {
				return nil
			}
			if b[p.next] != ' ' || p.next == p.mark {
				return p.refuse("malformed method")
			}
			if err := p.method(b[p.mark:p.next:p.next]); err != nil {
				return err
			}
			p.next++
			p.mark, p.state = p.next, inRequestTarget

		case inRequestTarget:
			p.next = targetEnd(b, p.next)
			if p.next == len(b) {
				return nil
			}
			if b[p.next] != ' ' {
				return p.refuse("forbidden character in target")
			}
			if err := p.target(b[p.mark:p.next:p.next]); err != nil {
				return err
			}
			p.next++
			p.mark, p.state = p.next, inVersion

		case inVersion:
			if err := p.version(c, p.next-p.mark); err != nil {
				return err
			}
			p.next++

		case inStatus:
			if err := p.status(c, p.next-p.mark); err != nil {
				return err
			}
			p.next++

		case inReason:
			p.next = valueEnd(b, p.next)
			if p.next == len(b) {
				return nil
			}
			if b[p.next] != '\r' {
				return p.refuse("forbidden character in reason")
			}
			p.s.Reason = b[p.mark:p.next:p.next]
			p.next++
			p.state = lineEnd

		case lineEnd:
			if c != '\n' {
				return p.refuse("carriage return without line feed")
			}
			p.next++
			p.state = atField
			return nil
		}
	}
	return nil
}

// version looks at byte i of the version, and at the byte behind it. Version
// 1.2 might be read as 1.1 (RFC 9110, section 2.5), but there is none, so its
// sender is no peer of ours.
func (p *parser) version(c byte, i int) error {
	const form = "HTTP/1.1"
	switch {
	case i == 5 || i == 7:
		if class[c]&inDigit == 0 {
			return p.refuse("malformed version")
		}
		if i == 5 {
			p.known = c == '1'
		} else {
			p.known = p.known && c <= '1'
			p.h.Minor = int(c - '0')
		}
	case i < 8:
		if c != form[i] {
			return p.refuse("malformed version")
		}
	case p.q != nil && c != '\r' || p.q == nil && c != ' ':
		return p.refuse("malformed version")
	case !p.known:
		return refuse(p.answer, http.StatusHTTPVersionNotSupported, "version not supported")
	case p.q != nil:
		p.state = lineEnd
	default:
		p.mark, p.state = p.next+1, inStatus
	}
	return nil
}

// status looks at byte i of a status, and at the byte behind it. The space
// before an empty reason must be sent, and may be missed: a recipient may
// ignore whitespace at the end of the line (RFC 9112, section 4), so it may
// also ignore that there is none.
func (p *parser) status(c byte, i int) error {
	switch {
	case i < 3:
		if class[c]&inDigit == 0 || i == 0 && (c < '1' || c > '5') {
			return p.refuse("malformed status")
		}
		p.s.Status = p.s.Status*10 + int(c-'0')
	case c == ' ':
		p.mark, p.state = p.next+1, inReason
	case c == '\r':
		p.state = lineEnd
	default:
		return p.refuse("malformed status")
	}
	return nil
}

// fieldLines reads fields to the empty line (RFC 9112, section 5).
func (p *parser) fieldLines(b []byte) error {
	i := p.next
	for i < len(b) {
		switch p.state {
		case atField:
			switch c := b[i]; {
			case c == '\r':
				i++
				p.state = headEnd
				continue
			case isSpace(c): // RFC 9112, section 5.2
				return p.refuse("folded line")
			case class[c]&inToken == 0:
				return p.refuse("malformed field name")
			}
			p.name, p.state = i, inName
			fallthrough

		case inName:
			if i = tokenEnd(b, i); i == len(b) {
				break
			}
			if b[i] != ':' { // whitespace would be as bad: RFC 9112, section 5.1
				return p.refuse("malformed field name")
			}
			p.colon = i
			i++
			p.state = atValue
			fallthrough

		case atValue:
			for i < len(b) && isSpace(b[i]) {
				i++
			}
			if i == len(b) {
				break
			}
			p.mark, p.state = i, inFieldValue
			fallthrough

		case inFieldValue:
			if i = valueEnd(b, i); i == len(b) {
				break
			}
			if b[i] != '\r' {
				return p.refuse("forbidden character in field value")
			}
			i++
			p.state = fieldEnd

		case fieldEnd:
			if b[i] != '\n' {
				return p.refuse("carriage return without line feed")
			}
			name := b[p.name:p.colon:p.colon]
			value := trimSpaceRight(b[p.mark : i-1 : i-1])
			i++
			if err := p.field(name, value); err != nil {
				return err
			}
			p.state = atField

		case headEnd:
			if b[i] != '\n' {
				return p.refuse("carriage return without line feed")
			}
			p.next = i + 1
			p.state = finished
			return p.finish()
		}
	}
	p.next = i
	return nil
}
