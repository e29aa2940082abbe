package h1

import (
	"bytes"
	"errors"
	"regexp"
	"strconv"
	"strings"
)

// The parser of this file is the judge of the other. It shares nothing with
// it: it wants the whole message in one piece and takes it apart with regular
// expressions, slowly. What an honest, strict service would understand, it
// understands.

var (
	naiveRequestLine = regexp.MustCompile("^([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-\"$-~]+) HTTP/1\\.([01])$")
	naiveStatusLine  = regexp.MustCompile(`(?s)^HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?$`)
	naiveField       = regexp.MustCompile("(?s)^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\\x00-\\x08\\x0a-\\x1f\\x7f]*)$")
	naiveChunkLine   = regexp.MustCompile(`(?s)^([0-9A-Fa-f]{1,15})(` +
		"(?:[ \t]*;[ \t]*" + naiveToken + "(?:[ \t]*=[ \t]*(?:" + naiveToken +
		`|"(?:[\t !\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t !-~\x80-\xff])*"))?)*)$`)
	naiveLength = regexp.MustCompile(`^[0-9]{1,18}$`)
)

const naiveToken = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"

// naiveMessage is a message as the naive parser understands it.
type naiveMessage struct {
	answer   bool
	first    []string // method, target, minor; of answers minor, status, reason
	fields   [][2]string
	body     string
	trailers [][2]string // as sent
	rest     string      // what follows
}

var errNaive = errors.New("naive parser refuses")

// latin makes each byte a character, so that regular expressions see bytes.
func latin(b []byte) string {
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	return string(r)
}

func unlatin(s string) string {
	var b strings.Builder
	for _, r := range s {
		b.WriteByte(byte(r))
	}
	return b.String()
}

// naiveLines cuts off lines up to an empty one.
func naiveLines(in []byte) (lines []string, rest []byte, err error) {
	for {
		line, after, found := bytes.Cut(in, []byte("\r\n"))
		if !found || bytes.ContainsAny(line, "\r\n") {
			return nil, nil, errNaive
		}
		if in = after; len(line) == 0 {
			return lines, in, nil
		}
		lines = append(lines, latin(line))
	}
}

func naiveFields(lines []string) (fields [][2]string, err error) {
	for _, line := range lines {
		m := naiveField.FindStringSubmatch(line)
		if m == nil {
			return nil, errNaive
		}
		fields = append(fields, [2]string{m[1], unlatin(strings.TrimRight(m[2], " \t"))})
	}
	return fields, nil
}

// named are the values of the fields of a name.
func (m *naiveMessage) named(name string) (values []string) {
	for _, f := range m.fields {
		if strings.EqualFold(f[0], name) {
			values = append(values, f[1])
		}
	}
	return values
}

func naiveRequest(in []byte) (m naiveMessage, err error) {
	lines, rest, err := naiveLines(in)
	if err != nil || len(lines) == 0 {
		return m, errNaive
	}
	if m.first = naiveRequestLine.FindStringSubmatch(lines[0]); m.first == nil {
		return m, errNaive
	}
	m.first = m.first[1:]
	if m.fields, err = naiveFields(lines[1:]); err != nil {
		return m, err
	}
	if n := len(m.named("host")); n > 1 || n == 0 && m.first[2] == "1" {
		return m, errNaive
	}
	return m, m.readBody(rest, true, false, m.first[2] == "0")
}

func naiveResponse(in []byte, toHEAD bool) (m naiveMessage, err error) {
	lines, rest, err := naiveLines(in)
	if err != nil || len(lines) == 0 {
		return m, errNaive
	}
	if m.first = naiveStatusLine.FindStringSubmatch(lines[0]); m.first == nil {
		return m, errNaive
	}
	m.answer, m.first = true, m.first[1:]
	m.first[2] = unlatin(m.first[2])
	if m.fields, err = naiveFields(lines[1:]); err != nil {
		return m, err
	}
	status := m.first[1]
	empty := toHEAD || status[0] == '1' || status == "204" || status == "304"
	return m, m.readBody(rest, false, empty, m.first[0] == "0")
}

func (m *naiveMessage) readBody(in []byte, request, empty, old bool) error {
	te, cl := m.named("transfer-encoding"), m.named("content-length")
	switch {
	case len(te) > 1, len(cl) > 1, len(te) > 0 && len(cl) > 0:
		return errNaive
	case len(te) > 0 && (old || !strings.EqualFold(te[0], "chunked")):
		return errNaive
	case len(cl) > 0 && !naiveLength.MatchString(cl[0]):
		return errNaive
	case empty:
		m.rest = string(in)
	case len(te) > 0:
		rest, err := m.readChunks(in)
		m.rest = string(rest)
		return err
	case len(cl) > 0:
		n, _ := strconv.Atoi(cl[0])
		if n > len(in) {
			return errNaive
		}
		m.body, m.rest = string(in[:n]), string(in[n:])
	case request:
		m.rest = string(in)
	default:
		m.body = string(in)
	}
	return nil
}

func (m *naiveMessage) readChunks(in []byte) (rest []byte, err error) {
	for {
		line, after, found := bytes.Cut(in, []byte("\r\n"))
		size := naiveChunkLine.FindStringSubmatch(latin(line))
		if !found || size == nil {
			return nil, errNaive
		}
		n, _ := strconv.ParseInt(size[1], 16, 64)
		in = after
		if n == 0 {
			break
		}
		if n+2 > int64(len(in)) || string(in[n:n+2]) != "\r\n" {
			return nil, errNaive
		}
		m.body += string(in[:n])
		in = in[n+2:]
	}
	lines, rest, err := naiveLines(in)
	if err != nil {
		return nil, err
	}
	m.trailers, err = naiveFields(lines)
	return rest, err
}
