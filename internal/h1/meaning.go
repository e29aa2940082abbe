package h1

import "net/http"

const (
	// maxOptions bounds the elements of all Connection fields of a head,
	// empty ones too.
	maxOptions = 64

	// maxLengthDigits keeps Content-Length within an int64.
	maxLengthDigits = 18
)

// meaning is what the fields of a head have said so far about framing and
// connection.
type meaning struct {
	chunked   bool   // Transfer-Encoding
	expect    bool   // Expect
	upgrades  int    // how many Upgrade fields there are,
	protocols []byte // and what the last one says

	options int // elements of Connection; these are among them
	close   bool
	keep    bool
	upgrade bool
}

// field takes a field whose line is whole.
func (p *parser) field(name, value []byte) error {
	if p.count++; p.count > maxFields {
		return refuse(p.answer, http.StatusRequestHeaderFieldsTooLarge, "too many fields")
	}
	if p.h.Fields == nil {
		p.h.Fields = make([]Field, 0, usualFields)
	}
	if p.trailer {
		if MayTrail(name) {
			p.h.Fields = append(p.h.Fields, Field{Name: name, Value: value})
		}
		return nil
	}
	kind := KindOf(name)
	if kind != KindOther {
		if err := p.mean(kind, value); err != nil {
			return err
		}
	}
	p.h.Fields = append(p.h.Fields, Field{name, value, kind})
	return nil
}

// mean acts upon a field that says something about framing and connection.
func (p *parser) mean(kind Kind, value []byte) error {
	m := &p.seen
	switch kind {
	case KindHost:
		if p.q == nil {
			return nil // means nothing in an answer
		}
		if p.q.Host != nil { // RFC 9112, section 3.2
			return p.refuse("repeated Host")
		}
		if !ValidHost(value) {
			return p.refuse("malformed Host")
		}
		p.q.Host = value

	case KindContentLength:
		if p.h.Declared >= 0 { // RFC 9112, section 6.3, allows to forgive it; why should we
			return p.refuse("repeated Content-Length")
		}
		n, ok := parseLength(value)
		if !ok {
			return p.refuse("malformed Content-Length")
		}
		p.h.Declared = n

	case KindTransferEncoding:
		if m.chunked {
			return p.refuse("repeated Transfer-Encoding")
		}
		if !same(value, "chunked") {
			if isList(value) { // RFC 9112, section 6.1
				return refuse(p.answer, http.StatusNotImplemented, "transfer coding not supported")
			}
			return p.refuse("malformed Transfer-Encoding")
		}
		m.chunked = true

	case KindConnection:
		return p.connection(value)

	case KindUpgrade:
		if !isProtocols(value) {
			return p.refuse("malformed Upgrade")
		}
		m.upgrades++
		m.protocols = value

	case KindExpect:
		if p.q == nil {
			return nil
		}
		if m.expect || !same(value, "100-continue") { // RFC 9110, section 10.1.1
			return refuse(p.answer, http.StatusExpectationFailed, "unknown expectation")
		}
		m.expect = true
	}
	if m.chunked && p.h.Declared >= 0 { // RFC 9112, section 6.1: smuggling, most likely
		return p.refuse("Content-Length beside Transfer-Encoding")
	}
	return nil
}

// connection takes the elements of a Connection field (RFC 9110, section 7.6.1).
func (p *parser) connection(list []byte) error {
	m := &p.seen
	for len(list) > 0 {
		var option []byte
		var ok bool
		if option, list, ok = cutElement(list); !ok {
			return p.refuse("malformed Connection")
		}
		if m.options++; m.options > maxOptions {
			return p.refuse("too many connection options")
		}
		switch len(option) {
		case 5:
			m.close = m.close || is(option, "close")
		case 7:
			m.upgrade = m.upgrade || is(option, "upgrade")
		case 10:
			m.keep = m.keep || is(option, "keep-alive")
		}
	}
	return nil
}

// finish says what the head means, now that it is whole.
func (p *parser) finish() error {
	h, m := p.h, &p.seen
	if p.trailer {
		return nil
	}
	if m.chunked && h.Minor == 0 { // RFC 9112, section 6.1
		return p.refuse("Transfer-Encoding in HTTP/1.0")
	}
	h.Close = m.close || h.Minor == 0 && !m.keep // RFC 9112, section 9.3
	if m.upgrade && m.upgrades == 1 && h.Minor == 1 {
		h.Upgrade = m.protocols
	}
	switch {
	case m.chunked:
		h.Length = Chunked
	case h.Declared >= 0:
		h.Length = h.Declared
	}
	if p.q != nil {
		return p.finishRequest()
	}
	return p.finishResponse()
}

func (p *parser) finishRequest() error {
	q := p.q
	if q.Host == nil && q.Minor == 1 { // RFC 9112, section 3.2
		return p.refuse("no Host")
	}
	if q.Form == AbsoluteForm {
		if q.Minor == 0 {
			return p.refuse("absolute target in HTTP/1.0")
		}
		// The target would overrule the field (RFC 9112, section 3.2.2), but
		// not everybody knows, and nobody honest makes them differ.
		if !q.hostIsTargets() {
			return p.refuse("Host differs from target")
		}
	}
	q.ExpectContinue = p.seen.expect && q.Minor == 1 // RFC 9110, section 10.1.1
	return nil
}

// finishResponse finds out whether there is a body, and where it ends (RFC
// 9112, section 6.3).
func (p *parser) finishResponse() error {
	s := p.s
	never := s.Status < 200 || s.Status == http.StatusNoContent
	if never && s.Length == Chunked { // RFC 9112, section 6.1
		return p.refuse("Transfer-Encoding in an answer without content")
	}
	if s.Status == http.StatusSwitchingProtocols && s.Upgrade == nil { // RFC 9110, section 15.2.2
		return p.refuse("101 without Upgrade")
	}
	switch {
	case never && s.Declared > 0:
		// It must not be said, and does not count. But whoever says so may
		// also send it.
		s.Length, s.Close = 0, true
	case never, p.toHEAD, s.Status == http.StatusNotModified:
		s.Length = 0
	case s.Length == 0 && s.Declared < 0:
		s.Length, s.Close = UntilClose, true
	}
	return nil
}

// parseLength reads 1*DIGIT (RFC 9110, section 8.6).
func parseLength(value []byte) (n int64, ok bool) {
	if len(value) == 0 || len(value) > maxLengthDigits {
		return 0, false
	}
	for _, c := range value {
		if class[c]&inDigit == 0 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// cutElement takes the first element off a list of tokens, which is not empty.
// Elements may be (RFC 9110, section 5.6.1.2).
func cutElement(list []byte) (element, rest []byte, ok bool) {
	i := 0
	for i < len(list) && isSpace(list[i]) {
		i++
	}
	end := tokenEnd(list, i)
	element = list[i:end:end]
	for end < len(list) && isSpace(list[end]) {
		end++
	}
	if end == len(list) {
		return element, nil, true
	}
	if list[end] != ',' {
		return nil, nil, false
	}
	return element, list[end+1:], true
}

// isList says whether value is a list of tokens, and has one.
func isList(value []byte) bool {
	any := false
	for len(value) > 0 {
		element, rest, ok := cutElement(value)
		if !ok {
			return false
		}
		any = any || len(element) > 0
		value = rest
	}
	return any
}

// isProtocols says whether value looks like a list of protocols, name or
// name/version (RFC 9110, section 7.8).
func isProtocols(value []byte) bool {
	for _, c := range value {
		if class[c]&inToken == 0 && c != '/' && c != ',' && !isSpace(c) {
			return false
		}
	}
	return len(value) > 0
}
