package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// What became of a framing case.
const (
	rejected = "REJECT" // the origin saw nothing
	clean    = "CLEAN"  // the origin got exactly one request, well-formed
	dirty    = "DIRTY"  // the origin got bytes that a strict reader refuses
	split    = "SPLIT"  // the origin got more requests than a strict reader sees, and the visitor as many answers
	desynced = "DESYNC" // the origin got more requests than the visitor got answers
)

// A framingCase is one of internal/h1/testdata/corpus.txt, where the format is
// described, and what came of it.
type framingCase struct {
	want, name string
	splits     bool // what looks like a second request may be one
	raw        []byte

	path  string // tells it from all others
	heard []byte // by the visitor
}

// The 133 cases, through the real edge: what is malformed is refused, and
// whatever passes is one request, well-formed. All of them run at once, over
// the few streams that visitors share, so that one who harms another shows.
func TestFramingCorpus(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		enter func(t *testing.T, name, target string, flags ...string) *entrance
	}{
		{"TLS", enter},
		{"plain", enterPlain},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := startOrigin(t, nil)
			e := tt.enter(t, "t", o.target())
			cases := readFraming(t, e.host)
			if len(cases) != 133 {
				t.Errorf("%d cases; want 133", len(cases))
			}

			var wg sync.WaitGroup
			for next, worker := 0, 0; worker < 16; worker++ {
				from := next
				next = (worker + 1) * len(cases) / 16
				wg.Go(func() {
					for _, c := range cases[from:next] {
						c.visit(e.host, func() (net.Conn, error) { return e.dial("http/1.1") })
					}
				})
			}
			wg.Wait()
			e.agent.stop() // what was still on its way has arrived, or never will

			s := newScore(t, "framing, "+tt.name, len(cases))
			log := o.log()
			for _, c := range cases {
				s.run(t, c.name, func(t *testing.T) { c.judge(t, log) })
			}
			for _, q := range log {
				if q.bad != "" && !ownedByAny(q, cases) {
					t.Errorf("somebody made the origin read %q: %s", q.raw, q.bad)
				}
			}
		})
	}
}

// readFraming reads the corpus, for a tunnel at host.
func readFraming(t *testing.T, host string) (cases []*framingCase) {
	f, err := os.Open("../internal/h1/testdata/corpus.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	run := regexp.MustCompile(`@([A-Za-z])\*([0-9]+)@`)
	for s := bufio.NewScanner(f); s.Scan(); {
		if s.Text() == "" || s.Text()[0] == '#' {
			continue
		}
		head, _, _ := strings.Cut(s.Text(), " # ")
		words := strings.Fields(head)
		s.Scan()
		raw, err := strconv.Unquote(s.Text())
		if err != nil {
			t.Fatalf("case %s: %v", words[1], err)
		}
		raw = run.ReplaceAllStringFunc(raw, func(s string) string {
			m := run.FindStringSubmatch(s)
			n, _ := strconv.Atoi(m[2])
			return strings.Repeat(m[1], n)
		})
		path := fmt.Sprintf("/p%09d", len(cases))
		raw = strings.NewReplacer("@HU@", strings.ToUpper(host), "@H@", host, "@P@", path).Replace(raw)
		cases = append(cases, &framingCase{
			want: words[0], name: words[1], splits: len(words) > 2, raw: []byte(raw), path: path,
		})
	}
	return cases
}

// visit sends the case, and when the connection is still open afterwards, a
// harmless request behind it: the canary, which dies of what is wrong here.
func (c *framingCase) visit(host string, dial func() (net.Conn, error)) {
	conn, err := dial()
	if err != nil {
		return // which is rejected as well
	}
	defer conn.Close()
	conn.Write(c.raw)
	if c.hear(conn) {
		fmt.Fprintf(conn, "GET %s-canary HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", c.path, host)
		c.hear(conn)
	}
}

var finalAnswer = regexp.MustCompile(`HTTP/1\.[01] [2-5]\d\d`)

// hear listens for one answer, or for as long as an edge that waits for more
// bytes is given, and reports whether the connection is still open.
func (c *framingCase) hear(conn net.Conn) (open bool) {
	var heard []byte
	defer func() { c.heard = append(c.heard, heard...) }()
	conn.SetReadDeadline(time.Now().Add(time.Second))
	for b := make([]byte, 64<<10); ; {
		n, err := conn.Read(b)
		heard = append(heard, b[:n]...)
		if err != nil {
			return errors.Is(err, os.ErrDeadlineExceeded)
		}
		if finalAnswer.Match(heard) && (bytes.HasSuffix(heard, []byte("ok")) || bytes.HasSuffix(heard, []byte("\r\n\r\n"))) {
			conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // is there more?
		}
	}
}

// owns reports whether q came of the case: by its path, or as what followed
// a request of the case on the same connection.
func (c *framingCase) owns(q *asked) bool {
	if bytes.Contains(q.raw, []byte("/p0")) { // it says itself whose it is
		return bytes.Contains(q.raw, []byte(c.path))
	}
	return strings.HasPrefix(q.after, c.path)
}

func ownedByAny(q *asked, cases []*framingCase) bool {
	for _, c := range cases {
		if c.owns(q) {
			return true
		}
	}
	return false
}

// verdict says what became of the case. The rules are those of the corpus's
// own program.
func (c *framingCase) verdict(log []*asked) string {
	var bad, all, main, smuggled int
	for _, q := range log {
		switch {
		case q.bad != "":
			if c.owns(q) {
				bad++
			}
			continue
		case !strings.Contains(q.target, c.path):
			continue
		case strings.HasSuffix(q.target, "-smug"):
			smuggled++
		case !strings.HasSuffix(q.target, "-canary"):
			main++
		}
		all++
	}
	switch {
	case smuggled > 0 || main > 1:
		if len(finalAnswer.FindAll(c.heard, -1)) >= all {
			return split
		}
		return desynced
	case bad > 0:
		return dirty
	case main == 1:
		return clean
	}
	return rejected
}

// allows reports whether the verdict is one that the case may have.
func (c *framingCase) allows(verdict string) bool {
	switch c.want {
	case "accept":
		return verdict == clean
	case "reject":
		return verdict == rejected
	default: // safe
		return verdict == clean || verdict == rejected || verdict == split && c.splits
	}
}

func (c *framingCase) judge(t *testing.T, log []*asked) {
	verdict := c.verdict(log)
	if c.allows(verdict) {
		return
	}
	t.Errorf("%s; want %s of\n%.300q\nthe visitor heard\n%.300q", verdict, c.want, c.raw, c.heard)
	for _, q := range log {
		if c.owns(q) {
			t.Logf("the origin got (%s)\n%.300q", q.bad, q.raw)
		}
	}
}

// The harness sees every way in which an edge can be wrong: edges that are.
func TestFramingVerdicts(t *testing.T) {
	t.Parallel()
	const (
		good     = "GET @P@ HTTP/1.1\r\nHost: t\r\n\r\n"
		bareLF   = "GET @P@ HTTP/1.1\nHost: t\r\n\r\n"
		bareBody = "POST @P@ HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n1\nZ\r\n0\r\n\r\n"
		smuggler = "GET @P@ HTTP/1.1\r\nHost: t\r\n\r\nGET @P@-smug HTTP/1.1\r\nHost: t\r\n\r\n"
		twice    = "GET @P@ HTTP/1.1\r\nHost: t\r\n\r\nGET @P@ HTTP/1.1\r\nHost: t\r\n\r\n"
	)
	for _, tt := range []struct {
		name, raw, want string
		edge            func(visitor, service net.Conn)
		accept, reject  bool // whether a case of that kind passes
	}{
		{"forwards", good, clean, forwardAll, true, false},
		{"refuses", good, rejected, refuseAll, false, true},
		{"hangs up", good, rejected, func(visitor, service net.Conn) {}, false, true},
		{"forwards what is malformed", bareLF, dirty, forwardAll, false, false},
		{"forwards a malformed body", bareBody, dirty, forwardAll, false, false},
		{"takes one for two", smuggler, split, forwardAll, false, false},
		{"sends one twice", twice, split, forwardAll, false, false},
		{"loses an answer", smuggler, desynced, forwardOneAnswer, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := startOrigin(t, nil)
			edge, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan struct{}, 1)
			serveConns(t, edge, func(visitor net.Conn) {
				if service, err := net.Dial("tcp", o.Addr().String()); err == nil {
					tt.edge(visitor, service)
					service.Close()
				}
				served <- struct{}{}
			})
			c := &framingCase{path: "/p000000000"}
			c.raw = []byte(strings.ReplaceAll(tt.raw, "@P@", c.path))
			c.visit("t", func() (net.Conn, error) { return net.Dial("tcp", edge.Addr().String()) })
			<-served

			got := c.verdict(o.log())
			if got != tt.want {
				t.Errorf("verdict %s; want %s", got, tt.want)
			}
			for want, ok := range map[string]bool{"accept": tt.accept, "reject": tt.reject, "safe": tt.accept || tt.reject} {
				if c.want = want; c.allows(got) != ok {
					t.Errorf("%s passes for %s: %v; want %v", got, want, !ok, ok)
				}
			}
		})
	}
}

// forwardAll is an edge that forwards bytes.
func forwardAll(visitor, service net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(service, visitor); service.(*net.TCPConn).CloseWrite() })
	wg.Go(func() { io.Copy(visitor, service); visitor.(*net.TCPConn).CloseWrite() })
	wg.Wait()
}

// forwardOneAnswer is one that reads two requests, and takes them for one.
func forwardOneAnswer(visitor, service net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(service, visitor); service.(*net.TCPConn).CloseWrite() })
	answers := bufio.NewReader(service)
	for first := true; ; first = false {
		answer, err := answers.ReadString('k') // of "ok"
		if err != nil {
			break
		}
		if first {
			io.WriteString(visitor, answer)
		}
	}
	wg.Wait()
}

func refuseAll(visitor, service net.Conn) {
	bufio.NewReader(visitor).ReadString('\n')
	io.WriteString(visitor, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}
