//go:build !race

package edge

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/h1"
	"github.com/culvertd/culvert/internal/router"
)

// corpus are requests that parsers are known to disagree about.
func corpus(f *testing.F) (all [][]byte) {
	text, err := os.ReadFile("../h1/testdata/corpus.txt")
	if err != nil {
		f.Fatal(err)
	}
	run := regexp.MustCompile(`@([A-Za-z])\*([0-9]+)@`)
	for line := range strings.Lines(string(text)) {
		if line[0] != '"' {
			continue
		}
		raw, err := strconv.Unquote(strings.TrimSpace(line))
		if err != nil {
			f.Fatal(err)
		}
		raw = run.ReplaceAllString(raw, "$1")
		all = append(all, []byte(strings.NewReplacer("@HU@", strings.ToUpper(blog), "@H@", blog, "@P@", "/p").Replace(raw)))
	}
	return all
}

// plainWorld is a world without TLS, in which a request costs little. It ends
// with the returned function.
func plainWorld(t *testing.T, s *service) (w *world, end func()) {
	w = &world{t: t, step: newDoorstep(), routes: new(router.Router), from: "192.0.2.7:4711"}
	w.edge = &Edge{Domain: domain, Visitors: w.routes}
	w.routes.Add(blog, s, router.Options{})
	served := make(chan error, 1)
	go func() { served <- w.edge.Serve(context.Background(), w.step) }()
	return w, func() {
		w.edge.Close()
		s.close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}

// FuzzForward: whatever a visitor says, a service gets nothing but requests in
// the one canonical spelling, and the visitor as many answers as there are
// requests.
func FuzzForward(f *testing.F) {
	for _, raw := range corpus(f) {
		f.Add(raw)
	}
	get := "GET / HTTP/1.1\r\nHost: " + blog + "\r\n"
	f.Add([]byte(get + "\r\n" + get + "\r\n" + get + "Connection: close\r\n\r\n" + get + "\r\n"))
	f.Add([]byte("POST / HTTP/1.1\r\nHost: " + blog + "\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc" + get + "\r\n"))
	f.Add([]byte(get + "Upgrade: echo\r\nConnection: Upgrade, TE\r\nTE: trailers\r\n\r\n" + get + "\r\n"))
	f.Add([]byte("HEAD http://" + blog + "/x HTTP/1.1\r\nHost: " + blog + "\r\n\r\nOPTIONS * HTTP/1.0\r\nHost: " + blog + "\r\n\r\n"))
	f.Add([]byte("POST / HTTP/1.1\r\nHost: " + blog + "\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0\r\nX: y\r\nCulvert-X: z\r\n\r\n" + get + "\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 32<<10 {
			return // the pipe takes it at once
		}
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			asked := 0
			s := rawService(func(c net.Conn) {
				var got []byte
				answered := 0
				b := make([]byte, 4<<10)
				for {
					n, err := c.Read(b)
					got = append(got, b[:n]...)
					all, wrong := naiveRequests(got)
					if wrong == errNaive {
						t.Errorf("the service got %q", got)
						return
					}
					for ; answered < len(all); answered++ {
						mu.Lock()
						asked++
						mu.Unlock()
						if all[answered].method == "HEAD" {
							io.WriteString(c, "HTTP/1.1 200 OK\r\nFrom: HEAD\r\nContent-Length: 5\r\n\r\n")
						} else {
							io.WriteString(c, "HTTP/1.1 200 OK\r\nFrom: it\r\nContent-Length: 5\r\n\r\nhello")
						}
					}
					if err != nil {
						return
					}
				}
			})
			w, end := plainWorld(t, s)
			defer end()
			c, err := w.step.dial(w.from)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.Write(in)
			c.CloseWrite()
			out, err := io.ReadAll(c)
			answers, wrong := naiveAnswers(out, func(m *naiveMessage, rest []byte) bool {
				if from := m.named("from"); len(from) > 0 {
					return from[0] == "HEAD"
				}
				return len(rest) == 0 || bytes.HasPrefix(rest, []byte("HTTP/1.1 ")) // of the edge
			}, err == nil)
			if wrong == errNaive || wrong == errShort && err == nil {
				t.Fatalf("the visitor got %q, %v; to\n%q", out, err, in)
			}
			served := 0
			for _, m := range answers {
				if len(m.named("from")) > 0 {
					served++
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if served != asked {
				t.Fatalf("the service got %d requests, and the visitor %d of its answers: %q; to\n%q", asked, served, out, in)
			}
		})
	})
}

// FuzzAnswer: whatever a service says, the visitor gets an answer that is
// whole, in the one canonical spelling, or sees that it is not; and the next
// visitor gets his own.
func FuzzAnswer(f *testing.F) {
	for _, e := range evils() {
		if len(e.answer) < 4<<10 {
			f.Add([]byte(spelling.Replace(e.answer)), e.method == "HEAD", e.ends)
		}
	}
	f.Fuzz(func(t *testing.T, in []byte, toHEAD, ends bool) {
		if len(in) > 32<<10 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			first := make(chan bool, 1)
			first <- true
			s := rawService(func(c net.Conn) {
				r := bufio.NewReader(c)
				for {
					q, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					select {
					case <-first:
						if c.Write(in); ends {
							return
						}
					default:
						who := q.URL.Query().Get("who")
						fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(who), who)
					}
				}
			})
			w, end := plainWorld(t, s)
			defer end()
			ask := func(method, who string) ([]byte, error) {
				c, err := w.step.dial(w.from)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				fmt.Fprintf(c, "%s /?who=%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", method, who, blog)
				return io.ReadAll(c)
			}
			method := "GET"
			if toHEAD {
				method = "HEAD"
			}
			out, err := ask(method, "first")
			all, wrong := naiveAnswers(out, func(*naiveMessage, []byte) bool { return toHEAD }, err == nil)
			final := 0
			for _, m := range all {
				if m.method[0] != '1' {
					final++
				}
			}
			if wrong == errNaive || err == nil && (wrong != nil || final != 1) || final > 1 {
				t.Fatalf("the visitor got %q, %v: %v; from\n%q", out, err, wrong, in)
			}
			time.Sleep(10 * time.Millisecond)
			if out, err := ask("GET", "second"); err != nil || !bytes.HasSuffix(out, []byte("\r\n\r\nsecond")) {
				t.Fatalf("the second visitor got %q, %v; behind\n%q", out, err, in)
			}
		})
	})
}

// sameName is a name as those read it who make no difference between spellings.
func sameName(name []byte) string {
	return strings.ReplaceAll(strings.ToLower(string(name)), "_", "-")
}

// FuzzFields: what is the edge's to say is said by nobody else, and what it
// says once; and no cookie reaches beyond its host, as browsers read it.
func FuzzFields(f *testing.F) {
	f.Add("Set-Cookie: a=b; Domain=.Tunnel.Test", "blog")
	f.Add("Connection: X-Forwarded-For, via\r\nX_Forwarded-For: 6.6.6.6\r\nVIA: x\r\nTrailer: Via, X", "a.b")
	f.Add("Strict-Transport-Security: x\r\nConnection: strict-transport-security\r\nForwarded: x\r\nX-Real_IP: y", "x")
	f.Add("set-cookie: a; domain = \"test\" ; DOMAIN=%74est;domain=;;", "x")
	f.Add("Culvert-Error: x\r\nculvert_x: y\r\nAlt-Svc: z\r\nKeep-Alive: 1\r\nTE: trailers\r\nUpgrade: x", "x")
	f.Fuzz(func(t *testing.T, in, label string) {
		if !regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`).MatchString(label) {
			return
		}
		host := label + "." + domain
		d, hsts := new(door), []byte("max-age=1")
		d.hsts.Store(&hsts)
		var s h1.Response
		if _, err := h1.ParseResponse([]byte("HTTP/1.1 200 OK\r\n"+in+"\r\n\r\n"), false, &s); err == nil {
			cleanAnswer(&visit{door: d, host: host}, &s)
			n := 0
			for _, field := range s.Fields {
				switch name := sameName(field.Name); {
				case name == "strict-transport-security":
					n++
				case name == "via", name == "alt-svc", strings.HasPrefix(name, "culvert-"), name == "connection", name == "transfer-encoding", name == "content-length", name == "keep-alive":
					if field.Name[0] != 0 && !strings.Contains(string(field.Name), "_") || answerOwned(field.Name) {
						t.Errorf("%s: %s is left", field.Name, field.Value)
					}
				case name == "set-cookie":
					if beyond(string(field.Value), host) {
						t.Errorf("a browser at %s sends %q to others as well", host, field.Value)
					}
				}
				h1.AppendField(nil, field.Name, field.Value) // panics if it is none
			}
			if n != 1 {
				t.Errorf("%d HSTS", n)
			}
		}
		var q h1.Request
		if _, err := h1.ParseRequest([]byte("GET / HTTP/1.1\r\nHost: "+host+"\r\n"+in+"\r\n\r\n"), &q); err == nil {
			v := &visit{door: d, host: host, req: &q, id: newVisitID(), from: originAt(netip.MustParseAddrPort("192.0.2.7:1"), true)}
			introduce(v)
			n := map[string]int{}
			for _, field := range q.Fields {
				name := sameName(field.Name)
				n[name]++
				if owned := requestOwned(field.Name); owned && strings.Contains(string(field.Name), "_") || strings.HasPrefix(name, "culvert-") || name == "x-real-ip" {
					t.Errorf("%s: %s is left", field.Name, field.Value)
				}
			}
			for name, want := range map[string]int{
				"x-forwarded-for": 1, "x-forwarded-host": 1, "x-forwarded-proto": 1, "x-request-id": 1, "forwarded": 1,
				"x-forwarded-port": 0, "host": 0, "connection": 0, "content-length": 0,
			} {
				if n[name] != want {
					t.Errorf("%d %s; want %d", n[name], name, want)
				}
			}
			if _, err := naiveRequests(appendRequest(nil, v)); err == errNaive {
				t.Errorf("the service gets %q", appendRequest(nil, v))
			}
		}
	})
}

// beyond reports whether a browser would send a cookie that host has set to
// others as well (RFC 6265, sections 5.2 and 5.3): the last Domain counts.
func beyond(cookie, host string) bool {
	domain := ""
	for i, attribute := range strings.Split(cookie, ";") {
		name, value, _ := strings.Cut(attribute, "=")
		if i > 0 && strings.EqualFold(strings.Trim(name, " \t"), "domain") {
			value = strings.Trim(strings.Trim(strings.Trim(value, " \t"), `"`), " \t")
			domain = strings.TrimSuffix(strings.ToLower(strings.TrimPrefix(value, ".")), ".")
		}
	}
	return domain != "" && strings.HasSuffix(host, "."+domain)
}
