package edge

import (
	"bytes"
	"errors"
	"regexp"
	"strconv"
	"strings"
)

// What the edge sends is judged by a parser that shares nothing with it: it
// takes one spelling only, the canonical one, from whole messages in memory.

var (
	naiveRequestLine = regexp.MustCompile("^([!#$%&'*+.^_`|~0-9A-Za-z-]+) (/[!-\"$-~]*|\\*) HTTP/1\\.1$")
	naiveStatusLine  = regexp.MustCompile(`^HTTP/1\.1 ([1-5][0-9][0-9]) ([^\x00-\x08\x0a-\x1f\x7f]*)$`)
	naiveField       = regexp.MustCompile("^([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([^\\x00-\\x08\\x0a-\\x1f\\x7f]*)$")
	naiveChunk       = regexp.MustCompile(`^[0-9a-f]{1,8}$`)
)

var (
	errNaive = errors.New("not canonical")
	errShort = errors.New("ends too early")
)

type naiveMessage struct {
	method   string // or the status
	target   string // or the reason
	fields   [][2]string
	body     string
	trailers [][2]string
}

func (m *naiveMessage) named(name string) (values []string) {
	for _, f := range m.fields {
		if strings.EqualFold(f[0], name) {
			values = append(values, f[1])
		}
	}
	return values
}

func naiveLines(in []byte) (lines []string, rest []byte, err error) {
	for {
		line, after, found := bytes.Cut(in, []byte("\r\n"))
		if bytes.ContainsAny(line, "\n") || found && bytes.ContainsAny(line, "\r") {
			return nil, nil, errNaive
		}
		if !found {
			return nil, nil, errShort
		}
		if in = after; len(line) == 0 {
			return lines, in, nil
		}
		var b strings.Builder // bytes as characters, for regexp
		for _, c := range line {
			b.WriteRune(rune(c))
		}
		lines = append(lines, b.String())
	}
}

func naiveFields(lines []string) (fields [][2]string, err error) {
	for _, line := range lines {
		m := naiveField.FindStringSubmatch(line)
		if m == nil || m[2] != strings.Trim(m[2], " \t") {
			return nil, errNaive
		}
		fields = append(fields, [2]string{m[1], m[2]})
	}
	return fields, nil
}

// naiveRequests are the whole requests of a connection. If another is cut off
// behind them, the error is errShort.
func naiveRequests(in []byte) (all []naiveMessage, err error) {
	for len(in) > 0 {
		var m naiveMessage
		lines, rest, err := naiveLines(in)
		if err != nil {
			return all, err
		}
		if len(lines) == 0 {
			return all, errNaive
		}
		first := naiveRequestLine.FindStringSubmatch(lines[0])
		if first == nil {
			return all, errNaive
		}
		m.method, m.target = first[1], first[2]
		if m.fields, err = naiveFields(lines[1:]); err != nil {
			return all, err
		}
		if len(m.named("host")) != 1 {
			return all, errNaive
		}
		if rest, err = m.readBody(rest); err != nil {
			return all, err
		}
		all = append(all, m)
		in = rest
	}
	return all, nil
}

// naiveAnswers are the answers of a connection, interim ones among them; toHEAD
// says of each whether it is one to that. If the connection ended cleanly,
// ended is true, and may be what ends the last answer.
func naiveAnswers(in []byte, toHEAD func(m *naiveMessage, rest []byte) bool, ended bool) (all []naiveMessage, err error) {
	for len(in) > 0 {
		var m naiveMessage
		lines, rest, err := naiveLines(in)
		if err != nil {
			return all, err
		}
		if len(lines) == 0 {
			return all, errNaive
		}
		first := naiveStatusLine.FindStringSubmatch(lines[0])
		if first == nil {
			return all, errNaive
		}
		m.method, m.target = first[1], first[2]
		if m.fields, err = naiveFields(lines[1:]); err != nil {
			return all, err
		}
		framed := len(m.named("content-length"))+len(m.named("transfer-encoding")) > 0
		switch {
		case m.method[0] == '1', m.method == "204", m.method == "304", toHEAD(&m, rest):
		case !framed && !ended:
			return append(all, m), errShort
		case !framed:
			m.body, rest = string(rest), nil
		default:
			rest, err = m.readBody(rest)
		}
		all = append(all, m)
		if err != nil {
			return all, err
		}
		in = rest
	}
	return all, nil
}

func (m *naiveMessage) readBody(in []byte) (rest []byte, err error) {
	te, cl := m.named("transfer-encoding"), m.named("content-length")
	switch {
	case len(te)+len(cl) > 1, len(te) == 1 && te[0] != "chunked":
		return nil, errNaive
	case len(te) == 1:
		return m.readChunks(in)
	case len(cl) == 1:
		n, err := strconv.ParseUint(cl[0], 10, 62)
		if err != nil || strconv.FormatUint(n, 10) != cl[0] {
			return nil, errNaive
		}
		if n > uint64(len(in)) {
			m.body = string(in)
			return nil, errShort
		}
		m.body = string(in[:n])
		return in[n:], nil
	}
	return in, nil
}

func (m *naiveMessage) readChunks(in []byte) (rest []byte, err error) {
	for {
		line, after, found := bytes.Cut(in, []byte("\r\n"))
		if !found {
			if len(in) > 10 {
				return nil, errNaive
			}
			return nil, errShort
		}
		if !naiveChunk.Match(line) {
			return nil, errNaive
		}
		n, _ := strconv.ParseInt(string(line), 16, 64)
		if in = after; n == 0 {
			break
		}
		if n+2 > int64(len(in)) {
			m.body += string(in[:min(n, int64(len(in)))])
			return nil, errShort
		}
		if string(in[n:n+2]) != "\r\n" {
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
