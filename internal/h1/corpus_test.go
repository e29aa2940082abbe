package h1

import (
	"bufio"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// A corpusCase is one of testdata/corpus.txt, where the format is described.
type corpusCase struct {
	want, name string
	raw        []byte
}

var corpusRun = regexp.MustCompile(`@([A-Za-z])\*([0-9]+)@`)

const corpusHost = "t.test"

func readCorpus(t testing.TB) (cases []corpusCase) {
	f, err := os.Open("testdata/corpus.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if s.Text() == "" || s.Text()[0] == '#' {
			continue
		}
		words := strings.Fields(s.Text())
		s.Scan()
		raw, err := strconv.Unquote(s.Text())
		if err != nil {
			t.Fatalf("case %s: %v", words[1], err)
		}
		raw = corpusRun.ReplaceAllStringFunc(raw, func(run string) string {
			m := corpusRun.FindStringSubmatch(run)
			n, _ := strconv.Atoi(m[2])
			return strings.Repeat(m[1], n)
		})
		raw = strings.NewReplacer("@HU@", strings.ToUpper(corpusHost), "@H@", corpusHost, "@P@", "/p0123456789").Replace(raw)
		cases = append(cases, corpusCase{words[0], words[1], []byte(raw)})
	}
	return cases
}

// TestCorpus is a small edge with one tunnel: it forwards what this package
// accepts and what is for that tunnel, and the naive parser is the service.
func TestCorpus(t *testing.T) {
	cases := readCorpus(t)
	if len(cases) != 133 {
		t.Errorf("%d cases, want 133", len(cases))
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, sizes := range [][]byte{nil, {1}, {7, 100}} {
				r := chop(c.raw, sizes...)
				m, err := readRequest(r)
				host := strings.ToLower(string(m.Request.Host))
				refused := err != nil || strings.TrimSuffix(host, ".") != corpusHost
				switch {
				case refused && c.want == "accept":
					t.Fatalf("refused: %v", describe(err))
				case !refused && c.want == "reject":
					t.Fatalf("accepted: %v", m)
				case refused:
					continue
				}
				checkForwarded(t, m)
				if c.want != "accept" {
					continue
				}
				if err := r.ReadRequest(new(Request)); err != io.EOF {
					t.Errorf("behind the request: %v, want io.EOF", err)
				}
			}
		})
	}
}

// checkForwarded writes what was read as the edge would, and wants the naive
// parser and this package to understand exactly that.
func checkForwarded(t *testing.T, m aMessage) {
	t.Helper()
	written := m.write()
	var n naiveMessage
	var again aMessage
	var err error
	r := chop(written)
	if m.Request.Method != nil {
		n, err = naiveRequest(written)
	} else {
		n, err = naiveResponse(written, m.toHEAD())
	}
	if err != nil || n.rest != "" {
		t.Fatalf("the naive parser: %v, with %q left of\n%q", err, n.rest, written)
	}
	if got, want := n.essence(), m.essence(); got != want {
		t.Fatalf("the naive parser read\n%s\nof\n%q\nwant\n%s", got, written, want)
	}
	if m.Request.Method != nil {
		again, err = readRequest(r)
	} else {
		again, err = readResponse(r, m.toHEAD())
	}
	if err != nil || len(r.Buffered()) > 0 {
		t.Fatalf("read again: %v, with %q left of\n%q", describe(err), r.Buffered(), written)
	}
	if got, want := again.essence(), m.essence(); got != want {
		t.Fatalf("read again\n%s\nof\n%q\nwant\n%s", got, written, want)
	}
}
