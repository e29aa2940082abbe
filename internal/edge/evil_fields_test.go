package edge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/culvertd/culvert/internal/router"
)

// TestCookiesStayAtHome: no spelling of Domain takes a cookie to the hosts
// beside its own, and none that is right is touched (WEB-01).
func TestCookiesStayAtHome(t *testing.T) {
	for in, want := range map[string]string{
		"a=b":                                                "",
		"a=b; Path=/; Secure":                                "",
		"a=b; Domain=blog.tunnel.test":                       "",
		"a=b; Domain=.blog.tunnel.test; Path=/":              "",
		"a=b; Domain=other.tunnel.test":                      "", // a browser refuses it
		"a=b; Domain=x.blog.tunnel.test":                     "",
		"a=b; Domain=example.com":                            "",
		"a=b; Domain=":                                       "",
		"a=b; Domain":                                        "",
		"a=tunnel.test; Path=/domain=tunnel.test":            "",
		"Domain=tunnel.test":                                 "", // that is its name
		"a=b; Domain=nottunnel.test":                         "",
		"a=b; Domain=g.tunnel.test":                          "",
		"a=b; Domains=tunnel.test":                           "",
		"a=b; Domain=tunnel.test":                            "a=b",
		"a=b; Domain=.tunnel.test":                           "a=b",
		"a=b; Domain=..tunnel.test":                          "a=b",
		"a=b; Domain=tunnel.test.":                           "a=b",
		"a=b; Domain=test":                                   "a=b",
		"a=b; Domain=.test":                                  "a=b",
		"a=b; domain=tunnel.test":                            "a=b",
		"a=b; DOMAIN=TUNNEL.TEST":                            "a=b",
		"a=b;Domain=tunnel.test":                             "a=b",
		"a=b;domain =\ttunnel.test\t; Secure":                "a=b; Secure",
		"a=b; \t Domain \t= \t tunnel.test":                  "a=b",
		"a=b; Domain=\"tunnel.test\"":                        "a=b",
		"a=b; Domain=\".tunnel.test\"; Path=/":               "a=b; Path=/",
		"a=b; Domain= \" tunnel.test \" ":                    "a=b",
		"a=b; Domain=blog.tunnel.test; Domain=tunnel.test":   "a=b; Domain=blog.tunnel.test",
		"a=b; Domain=tunnel.test; Domain=blog.tunnel.test":   "a=b; Domain=blog.tunnel.test",
		"a=b; Domain=tunnel.test; Domain=test; Domain=TEST.": "a=b",
		"a=b; Domain=tunnel.test; Domain=":                   "a=b; Domain=",
		"a=b; Domain=tunnel%2etest":                          "a=b",
		"a=b; Domain=%74unnel.test":                          "a=b",
		"a=b; Domain=tunnel\u3002test":                       "a=b",
		"a=b; Domain=\uff54unnel.test":                       "a=b",
		"a=b; Domain=tunnel.te\u017ft":                       "a=b",
		"a=b; Domain=\xa0tunnel.test":                        "a=b",
		"; Domain=tunnel.test":                               "",
		"a=b; Domain=tunnel.test;;;":                         "a=b",
		"a=b; Secure; Domain=tunnel.test; HttpOnly":          "a=b; Secure; HttpOnly",
	} {
		if want == "" && in[0] != ';' {
			want = in
		}
		if got := string(narrowed([]byte(in), blog)); got != want {
			t.Errorf("%q became %q; want %q", in, got, want)
		}
	}
}

// TestOwnedByTheEdge: what a service says in the edge's place is not said, in
// whatever part of an answer and whatever spelling, and cannot unsay what the
// edge does say (WEB-09).
func TestOwnedByTheEdge(t *testing.T) {
	const forged = "Alt-Svc: h3=\":1\"\nALT-SVC: h2=\"evil:1\"\nalt_svc: x\nVia: 1.1 x\nvia: x\nCulvert-Error: x\nculvert_error: x\n" +
		"CULVERT-ANYTHING: x\nStrict-Transport-Security: max-age=0\nstrict-transport-security: max-age=1; includeSubDomains\n" +
		"Set-Cookie: a=b; Domain=" + domain + "\nKeep-Alive: 1\nX-Kept: yes\n"
	both(t, func(t *testing.T, h2 bool) {
		for _, proto := range []router.Proto{router.H1, router.H2} {
			w := newWorld(t, func(e *Edge) { e.HSTS = time.Hour })
			var s *service
			if proto == router.H2 {
				fields := func(more ...string) []string {
					for line := range strings.Lines(forged) {
						name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
						if name != "Keep-Alive" {
							more = append(more, strings.ToLower(name), value)
						}
					}
					return more
				}
				s = framesService(func(s *frames, g *frame) {
					s.headers(g.stream, false, fields(":status", "103")...)
					s.headers(g.stream, false, fields(":status", "200", "trailer", "x-late, via, culvert-error")...)
					s.write(frameData, 0, g.stream, []byte("ok"))
					s.headers(g.stream, true, fields("x-late", "yes")...)
				})
			} else {
				s = rawService(func(c net.Conn) {
					r := bufio.NewReader(c)
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					io.WriteString(c, strings.ReplaceAll("HTTP/1.1 103 Early Hints\n"+forged+"\n"+
						"HTTP/1.1 200 OK\nConnection: Strict-Transport-Security, x-hop, DATE\nX-Hop: 1\n"+forged+
						"Trailer: X-Late, Via, culvert-error\nTransfer-Encoding: chunked\n\n2\nok\n0\n"+forged+"X-Late: yes\n\n", "\n", "\r\n"))
				})
			}
			w.bind(blog, s)
			w.routes.Add(blog, s, router.Options{Proto: proto})
			var said []string
			if h2 {
				f := w.frames()
				f.get(1, blog)
				for {
					g, err := f.next()
					if err != nil {
						t.Fatal(err)
					}
					for _, field := range g.fields {
						said = append(said, field[0]+": "+field[1])
					}
					if g.flags&flagEndStream != 0 && g.stream == 1 {
						break
					}
				}
			} else {
				v := w.raw(blog)
				v.send("GET / HTTP/1.1\nHost: %s\nTE: trailers\nConnection: close, TE\n\n", blog)
				b, _ := io.ReadAll(v.r)
				said = strings.Split(string(b), "\r\n")
			}
			all := strings.ToLower(strings.Join(said, "\n"))
			for _, never := range []string{"alt-svc", "alt_svc", "via:", "culvert", "max-age=0", "includesub", "domain=", "keep-alive", "x-hop"} {
				if strings.Contains(all, never) {
					t.Errorf("h2 %v, service of %v: visitor was told %s:\n%s", h2, proto, never, all)
				}
			}
			if n := strings.Count(all, "strict-transport-security: max-age=3600"); n != 1 {
				t.Errorf("h2 %v, service of %v: %d HSTS of ours:\n%s", h2, proto, n, all)
			}
			if strings.Count(all, "x-kept: yes") < 2 || !strings.Contains(all, "x-late: yes") || strings.Count(all, "date: ") != 1 {
				t.Errorf("h2 %v, service of %v: got\n%s", h2, proto, all)
			}
		}
	})
}

// TestConnectionNamesWhatIsOurs: nothing that the edge says about a visitor can
// be taken away by him, nor what his service needs (HDR-01).
func TestConnectionNamesWhatIsOurs(t *testing.T) {
	for _, proto := range []router.Proto{router.H1, router.H2} {
		w := newWorld(t, func(e *Edge) { e.GetCertificate = nil })
		handler := func(rw http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			fmt.Fprint(rw, r.Host, r.Header["X-Forwarded-For"], r.Header["X-Forwarded-Host"], r.Header["X-Forwarded-Proto"],
				len(r.Header["X-Request-Id"]), r.Header["Forwarded"], r.ContentLength, string(b), r.Header["X-Hop"], r.Header["X_hop"])
		}
		s := newService(handler)
		w.bind(blog, s)
		w.routes.Add(blog, s, router.Options{Proto: proto})
		for _, names := range []string{
			"X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, Forwarded, X-Request-Id, Host, Content-Length, X-Hop, close",
			"x-forwarded-for,x-forwarded-host,\tx-forwarded-proto ,FORWARDED, x-request-id,hOST,content-LENGTH,x-hop,Close",
			", ,X-Forwarded-For\nConnection: X-Hop,Forwarded\nConnection: Host, Content-Length\nConnection: close, Transfer-Encoding, Connection",
		} {
			got := read(t, w.ask("POST / HTTP/1.1\nHost: "+blog+"\nX-Hop: 1\nX-Forwarded-For: 6.6.6.6\nConnection: "+names+"\nContent-Length: 4\n\nbody"))
			want := blog + "[192.0.2.7] [" + blog + "] [http] 1 [for=192.0.2.7;host=\"" + blog + "\";proto=http] 4 body [] []"
			if strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
				t.Errorf("service of %v, Connection: %s\ngot  %s\nwant %s", proto, names, got, want)
			}
		}
	}
}

// TestRefusalsRepeatNothing: neither markup of the visitor nor anything from
// inside is in what the edge says itself.
func TestRefusalsRepeatNothing(t *testing.T) {
	w := newWorld(t, func(e *Edge) { e.GetCertificate = nil })
	w.bind(blog, rawService(func(c net.Conn) {
		c.Read(make([]byte, 4<<10))
		io.WriteString(c, "HTTP/1.1 999 <script>secret\r\nX: 10.1.2.3\r\n\r\n")
	}))
	for _, request := range []string{
		"GET /<script>alert(1)</script> HTTP/1.1\nHost: <script>alert(1)</script>\n",
		"GET /<script> HTTP/1.1\nHost: " + blog + "\nReferer: <script>\n",
		"GET /<script> HTTP/1.1\nHost: \"><script>." + domain + "\n",
		"GET /?<script> HTTP/1.1\nHost: script.unknown." + domain + "\n",
		"<script> / HTTP/1.1\nHost: " + blog + "\n",
		"GET /<script> HTTP/1.1\nHost: " + domain + "\n",
		"GET / HTTP/1.1\nHost: " + blog + "\nX-Request-Id: <script>\nX<script>: y\n",
	} {
		for _, accept := range []string{"text/html", "*/*", "text/html<script>"} {
			v := w.raw(blog)
			v.send("%s", request+"Accept: "+accept+"\nConnection: close\n\n")
			b, _ := io.ReadAll(v.r)
			for _, never := range []string{"script>", "alert", "secret", "10.1.2.3", ".go", "h1:", "memnet"} {
				if strings.Contains(string(b), never) {
					t.Errorf("%q: got %q in\n%s", request, never, b)
				}
			}
			if !strings.HasPrefix(string(b), "HTTP/1.1 4") && !strings.HasPrefix(string(b), "HTTP/1.1 50") {
				t.Errorf("%q: got\n%s", request, b)
			}
		}
	}
}
