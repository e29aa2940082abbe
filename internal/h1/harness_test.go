package h1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// aMessage is a message as this package understands it, copied out of the
// Reader's buffers.
type aMessage struct {
	Request  Request
	Response Response
	Fields   [][2]string
	Body     string
	Trailers [][2]string
}

// cut is an io.Reader that gives its bytes in pieces. Their sizes come in turn
// from sizes; 0 is the whole.
type cut struct {
	in    []byte
	sizes []byte
	i     int
}

func (c *cut) Read(p []byte) (int, error) {
	if len(c.in) == 0 {
		return 0, io.EOF
	}
	n := len(c.in)
	if len(c.sizes) > 0 {
		if s := int(c.sizes[c.i%len(c.sizes)]); s > 0 {
			n = min(n, s)
		}
		c.i++
	}
	n = copy(p, c.in[:n])
	c.in = c.in[n:]
	return n, nil
}

// chop makes a Reader of in as it comes in pieces.
func chop(in []byte, sizes ...byte) *Reader {
	return NewReader(&cut{in: bytes.Clone(in), sizes: sizes})
}

func textOf(fields []Field) [][2]string {
	var out [][2]string
	for _, f := range fields {
		out = append(out, [2]string{string(f.Name), string(f.Value)})
	}
	return out
}

// readRequest reads a request with its body.
func readRequest(r *Reader) (m aMessage, err error) {
	if err := r.ReadRequest(&m.Request); err != nil {
		return m, err
	}
	return m, m.readBody(r, &m.Request.Head)
}

// readResponse reads an answer with its body.
func readResponse(r *Reader, toHEAD bool) (m aMessage, err error) {
	if err := r.ReadResponse(&m.Response, toHEAD); err != nil {
		return m, err
	}
	return m, m.readBody(r, &m.Response.Head)
}

// readBody reads the body, and only then looks at the head: which must still be
// there.
func (m *aMessage) readBody(r *Reader, h *Head) error {
	var body bytes.Buffer
	if _, err := r.WriteTo(&body); err != nil {
		return err
	}
	m.Body = body.String()
	m.Trailers = textOf(r.Trailers())
	m.Fields = textOf(h.Fields)
	m.Request = keepRequest(m.Request)
	m.Response = keepResponse(m.Response)
	return nil
}

func keepRequest(q Request) Request {
	q.Method, q.Target = bytes.Clone(q.Method), bytes.Clone(q.Target)
	q.Host, q.Upgrade, q.Fields = bytes.Clone(q.Host), bytes.Clone(q.Upgrade), keepFields(q.Fields)
	return q
}

func keepResponse(s Response) Response {
	s.Reason, s.Upgrade, s.Fields = bytes.Clone(s.Reason), bytes.Clone(s.Upgrade), keepFields(s.Fields)
	return s
}

func keepFields(fields []Field) []Field {
	fields = slices.Clone(fields)
	for i, f := range fields {
		fields[i] = Field{bytes.Clone(f.Name), bytes.Clone(f.Value), f.Kind}
	}
	return fields
}

// String is for comparing: everything that a message says.
func (m aMessage) String() string {
	var b strings.Builder
	q, s := &m.Request, &m.Response
	fmt.Fprintf(&b, "%q %q form %d host %q rest %d expect %t %+v\n",
		q.Method, q.Target, q.Form, q.Host, q.rest, q.ExpectContinue, headText(&q.Head))
	fmt.Fprintf(&b, "%d %q %+v\n", s.Status, s.Reason, headText(&s.Head))
	fmt.Fprintf(&b, "%q\n%q\n%q", m.Fields, m.Body, m.Trailers)
	return b.String()
}

func headText(h *Head) string {
	return fmt.Sprintf("minor %d length %d declared %d close %t upgrade %q", h.Minor, h.Length, h.Declared, h.Close, h.Upgrade)
}

// write writes m as an intermediary would that keeps all fields: in the
// canonical spelling.
func (m aMessage) write() []byte {
	h := &m.Response.Head
	var out []byte
	if q := &m.Request; q.Method != nil {
		h = &q.Head
		out = AppendRequestLine(out, q.Method, q.AppendTarget(nil))
	} else {
		out = AppendStatusLine(out, m.Response.Status, m.Response.Reason)
	}
	for _, f := range h.Fields {
		if f.Kind != KindContentLength && f.Kind != KindTransferEncoding {
			out = AppendField(out, f.Name, f.Value)
		}
	}
	switch {
	case h.Length != 0 || h.Declared == 0:
		out = AppendLength(out, h.Length)
	case h.Declared > 0:
		out = AppendLength(out, h.Declared)
	}
	out = AppendEnd(out)
	if h.Length != Chunked {
		return append(out, m.Body...)
	}
	if m.Body != "" {
		out = AppendChunk(out, m.Body)
	}
	var trailers []Field
	for _, f := range m.Trailers {
		trailers = append(trailers, Field{Name: []byte(f[0]), Value: []byte(f[1])})
	}
	return AppendLastChunk(out, trailers)
}

// wantStatus fails unless err is an Error with status.
func wantStatus(t *testing.T, err error, status int, why string) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Status != status {
		t.Errorf("got %v, want an Error with status %d: %s", describe(err), status, why)
	}
}

func describe(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return fmt.Sprintf("%d %s", e.Status, e.Reason)
	}
	return fmt.Sprint(err)
}

// lines joins lines with CRLF, and ends the head.
func lines(l ...string) string { return strings.Join(append(l, "", ""), "\r\n") }

// toHEAD says whether m, an answer with a length, has a head like one to HEAD.
func (m aMessage) toHEAD() bool {
	h := &m.Response.Head
	return h.Length == 0 && h.Declared != 0
}

// essence is what must stay the same when a message is passed on: all but the
// spelling of its framing, its version and the form of its target.
func (m aMessage) essence() string {
	first := []string{strconv.Itoa(m.Response.Status), string(m.Response.Reason)}
	if m.Request.Method != nil {
		first = []string{string(m.Request.Method), string(m.Request.AppendTarget(nil))}
	}
	return essence(first, m.Fields, m.Body, m.Trailers)
}

// essence is that of [aMessage], by the naive parser's lights.
func (m naiveMessage) essence() string {
	first := m.first[:2]
	if m.answer {
		first = m.first[1:]
	}
	return essence(first, m.fields, m.body, m.trailers)
}

func essence(first []string, fields [][2]string, body string, trailers [][2]string) string {
	fields = slices.DeleteFunc(slices.Clone(fields), func(f [2]string) bool {
		k := KindOf(f[0])
		return k == KindContentLength || k == KindTransferEncoding
	})
	return fmt.Sprintf("%q\n%q\n%q\n%q", first, fields, body, trailers)
}

// naively is the essence of m as the naive parser sees it, who reads the target
// as it came.
func (m aMessage) naively() string {
	if m.Request.Method == nil {
		return m.essence()
	}
	first := []string{string(m.Request.Method), string(m.Request.Target)}
	return essence(first, m.Fields, m.Body, m.Trailers)
}
