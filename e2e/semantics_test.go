package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// A semantic is one thing that HTTP means, and must still mean on the other
// side of the tunnel: what a visitor asks, what the service answers, and what
// each has to get.
type semantic struct {
	name string
	ask
	answer  string       // of the service, byte by byte; "" is "ok"
	serve   func(*asked) // what it does instead of that
	only    string       // h1 or h2
	ordered bool         // the order of different fields counts, too
	lost2   bool         // trailers of the request do not come through from HTTP/2

	got      []string // of these fields, the service gets exactly this
	gotNot   string   // names of fields that it does not get, with spaces between
	gotExact string   // what stands somewhere in the bytes that it gets

	interim  []int
	hints    []string // fields of the last interim answer
	status   int      // 0 is 200
	hears    []string // of these fields, the visitor gets exactly this
	hearsNot string
	body     string   // "" is "ok" if the answer is
	trailers []string // all there are
	broken   bool     // the visitor can tell that the answer is not complete
}

// What HTTP means, end to end, over both versions.
func TestHTTPSemantics(t *testing.T) {
	t.Parallel()
	var now atomic.Pointer[semantic]
	o := startOrigin(t, func(q *asked) { now.Load().serveTo(q) })
	e := enter(t, "rfc", o.target())
	for _, tt := range protos {
		t.Run(tt.name, func(t *testing.T) {
			table := slices.DeleteFunc(slices.Clone(semantics), func(m semantic) bool { return m.only != "" && m.only != tt.name })
			s := newScore(t, "semantics, "+tt.name, len(table))
			for _, m := range table {
				s.run(t, m.name, func(t *testing.T) {
					now.Store(&m)
					m.try(t, e, o, tt.proto)
				})
			}
		})
	}
	t.Run("conversations", func(t *testing.T) {
		all := slices.Concat(conversations, connectionTalks, leavers())
		s := newScore(t, "semantics, conversations", len(all))
		for _, c := range all {
			s.run(t, c.name, func(t *testing.T) {
				now.Store(&semantic{serve: c.serve})
				c.talk(t, e)
			})
		}
	})
}

// afterwards is what is asked on a connection to see that it is still usable.
var afterwards = ask{target: "/afterwards"}

func (m *semantic) serveTo(q *asked) {
	switch {
	case q.target == afterwards.target || m.serve == nil && m.answer == "":
		answerOK(q)
	case m.serve != nil:
		m.serve(q)
	case q.readBody() == nil:
		q.say("%s", m.answer)
		if !selfFramed(m.answer) {
			q.c.Close()
		}
	}
}

// selfFramed reports whether an answer ends otherwise than with its connection.
func selfFramed(answer string) bool {
	head, _, _ := strings.Cut(answer, "\r\n\r\n")
	for _, sign := range []string{"Content-Length", "chunked", " 204", " 304", " 103"} {
		if strings.Contains(head, sign) {
			return !strings.Contains(answer, "BREAK")
		}
	}
	return false
}

func (m *semantic) try(t *testing.T, e *entrance, o *origin, proto string) {
	before := len(o.log())
	v := e.speak(t, proto)
	h, err := v.exchange(e.host, m.ask)
	if broken := err != nil || h.reset != ""; broken != m.broken {
		t.Fatalf("broken off: %v (%v); want %v\n%+v", broken, err, m.broken, h)
	}
	if m.broken {
		return
	}
	m.checkHeard(t, h)

	log := o.log()[before:]
	if len(log) != 1 {
		t.Fatalf("the service got %d requests", len(log))
	}
	m.checkAsked(t, log[0], proto)
	if h, err := v.exchange(e.host, afterwards); err != nil || h.status != 200 || h.body != "ok" {
		t.Errorf("the next request on the connection: %+v, %v", h, err)
	}
}

func (m *semantic) checkHeard(t *testing.T, h *heard) {
	status, body := m.status, m.body
	if status == 0 {
		status = 200
	}
	if m.answer == "" && m.serve == nil && m.method != "HEAD" {
		body = "ok"
	}
	if h.status != status || h.body != body {
		t.Errorf("the visitor gets %d, %.300q; want %d, %.300q", h.status, h.body, status, body)
	}
	if !slices.Equal(h.interim, m.interim) {
		t.Errorf("interim answers %v; want %v", h.interim, m.interim)
	}
	m.wantFields(t, "the visitor", h.fields, m.hears, m.hearsNot)
	m.wantFields(t, "the visitor, early,", h.hints, m.hints, "")
	if got := spell(h.trailers); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(m.trailers))) {
		t.Errorf("the visitor gets trailers %q; want %q", got, m.trailers)
	}
}

func (m *semantic) checkAsked(t *testing.T, q *asked, proto string) {
	method := m.method
	if method == "" {
		method = "GET"
	}
	if q.method != method || q.target != m.target || string(q.body) != m.ask.body {
		t.Errorf("the service gets %s %s with %.100q; want %s %s with %.100q", q.method, q.target, q.body, method, m.target, m.ask.body)
	}
	m.wantFields(t, "the service", q.fields, m.got, m.gotNot)
	want := spell(m.ask.trailers)
	if m.lost2 && proto == "h2" {
		want = nil
	}
	got := spell(q.trailers)
	slices.Sort(got) // HTTP/2 forgets their order on its way through the standard library
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the service gets trailers %q; want %q", got, want)
	}
	if !strings.Contains(string(q.raw), m.gotExact) {
		t.Errorf("the service gets\n%q\nwant %q", q.raw, m.gotExact)
	}
}

// spell writes fields as tables do: names in lower case.
func spell(fields []field) (lines []string) {
	for _, f := range fields {
		lines = append(lines, strings.ToLower(f.name)+": "+f.value)
	}
	return lines
}

// wantFields wants, of all fields that are named, exactly the given ones, and
// none of those that are unwanted. The order of fields with one name always
// counts.
func (m *semantic) wantFields(t *testing.T, who string, fields []field, want []string, unwanted string) {
	t.Helper()
	named := map[string]bool{}
	for _, line := range want {
		name, _, _ := strings.Cut(line, ":")
		named[name] = true
	}
	for name := range strings.FieldsSeq(unwanted) {
		named[name] = true
	}
	var got []string
	for _, f := range fields {
		if named[strings.ToLower(f.name)] {
			got = append(got, strings.ToLower(f.name)+": "+f.value)
		}
	}
	if !m.ordered {
		byName := func(a, b string) int {
			return strings.Compare(strings.SplitN(a, ":", 2)[0], strings.SplitN(b, ":", 2)[0])
		}
		got, want = slices.Clone(got), slices.Clone(want)
		slices.SortStableFunc(got, byName)
		slices.SortStableFunc(want, byName)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s gets %.500q; want %.500q", who, got, want)
	}
}

// length is the answer with that status, those fields and that body.
func length(status string, body string, fields ...string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s", status, lines(fields), len(body), body)
}

// chunks is an answer in chunks; rest follows the last of them.
func chunks(rest string, fields ...string) string {
	return "HTTP/1.1 200 OK\r\n" + lines(fields) + "Transfer-Encoding: chunked\r\n\r\n" +
		"3;ext=1\r\nabc\r\n4;another=\"x;y\"\r\ndefg\r\n" + rest
}

func lines(fields []string) string {
	if len(fields) == 0 {
		return ""
	}
	return strings.Join(fields, "\r\n") + "\r\n"
}
