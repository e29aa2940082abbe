package edge

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/router"
)

// TestRefusals is the table of docs/operating.md: status and Culvert-Error for
// everything that can go wrong, to whoever asks.
func TestRefusals(t *testing.T) {
	answers := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			c.Read(make([]byte, 4096))
			io.WriteString(c, text)
			if !strings.HasPrefix(text, "HTTP/1.1 200") {
				c.Read(make([]byte, 1)) // it is the edge that hangs up
			}
		}
	}
	internal := errors.New("dial tcp 10.1.2.3:8080: connection refused")
	for name, test := range map[string]struct {
		host   string
		open   error
		raw    func(net.Conn)
		status int
		code   string
		broken bool // all streams are cut once the request has arrived
		gone   bool // and nobody holds the host any more
	}{
		"nobody's":            {host: "unknown." + domain, status: 404, code: "tunnel_not_found"},
		"deeper":              {host: "a." + blog, status: 404, code: "tunnel_not_found"},
		"owner away":          {host: "away." + domain, status: 503, code: "tunnel_offline"},
		"agent leaving":       {open: errors.New("go away"), status: 503, code: "tunnel_offline"},
		"service refuses":     {open: &router.ServiceError{Problem: router.ServiceRefused, Err: internal}, status: 502, code: "service_refused"},
		"service resets":      {open: &router.ServiceError{Problem: router.ServiceReset, Err: internal}, status: 502, code: "service_reset"},
		"service takes long":  {open: &router.ServiceError{Problem: router.ServiceTimeout, Err: internal}, status: 504, code: "service_timeout"},
		"says nothing":        {raw: answers(""), status: 504, code: "service_timeout"},
		"hangs up":            {raw: func(net.Conn) {}, status: 502, code: "service_reset"},
		"hangs up after head": {raw: func(c net.Conn) { c.Read(make([]byte, 4096)) }, status: 502, code: "service_reset"},
		"half a head":         {raw: answers("HTTP/1.1 200 OK\r\nContent-"), status: 502, code: "service_reset"},
		"cut":                 {raw: answers(""), broken: true, status: 502, code: "service_reset"},
		"agent gone":          {raw: answers(""), broken: true, gone: true, status: 503, code: "tunnel_offline"},
		"SSH":                 {raw: answers("SSH-2.0-OpenSSH_9.9\r\n"), status: 502, code: "service_bad_response"},
		"TLS":                 {raw: answers("\x15\x03\x01\x00\x02\x02\x46" + strings.Repeat("\x00", 20) + "\n"), status: 502, code: "service_bad_response"},
		"two lengths":         {raw: answers("HTTP/1.1 204 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"), status: 502, code: "service_bad_response"},
		"status 0":            {raw: answers("HTTP/1.1 000 OK\r\n\r\n"), status: 502, code: "service_bad_response"},
		"status 99":           {raw: answers("HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n"), status: 502, code: "service_bad_response"},
		"no colon":            {raw: answers("HTTP/1.1 201 OK\r\nfoo\r\n\r\n"), status: 502, code: "service_bad_response"},
		"2 MB of headers":     {raw: answers("HTTP/1.1 201 OK\r\nX: " + strings.Repeat("x", 2<<20) + "\r\n\r\n"), status: 502, code: "service_bad_response"},
		"switches unasked":    {raw: answers("HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), status: 502, code: "service_bad_response"},
		"101 to nothing":      {raw: answers("HTTP/1.1 101 Go\r\n\r\n"), status: 502, code: "service_bad_response"},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, h2 %v", name, h2), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, nil)
					s := rawService(test.raw)
					epoch := w.bind(blog, s)
					if test.open != nil {
						s.refuse.Store(&test.open)
					}
					host := test.host
					if host == "" {
						host = blog
					}
					if test.broken {
						go func() {
							time.Sleep(time.Second)
							if test.gone {
								w.routes.Remove(blog, epoch)
								s.gone.Store(true)
							}
							s.breakAll()
						}()
					}
					c := w.visitor(h2)
					if host == "a."+blog {
						// No certificate covers it, so no TLS visitor can ask;
						// behind a front end one can.
						w = newWorld(t, func(e *Edge) { e.GetCertificate = nil })
						res := w.ask("GET / HTTP/1.1\nHost: " + host + "\n\n")
						if res.StatusCode != test.status || res.Header.Get("Culvert-Error") != test.code {
							t.Errorf("got %d %q", res.StatusCode, res.Header.Get("Culvert-Error"))
						}
						return
					}
					start := time.Now()
					res, body := get(t, c, "https://"+host)
					if res.StatusCode != test.status || res.Header.Get("Culvert-Error") != test.code {
						t.Errorf("got %d %q; want %d %q", res.StatusCode, res.Header.Get("Culvert-Error"), test.status, test.code)
					}
					if took := time.Since(start); test.code == "service_timeout" && test.open == nil && (took < time.Minute || took > time.Minute+lateBy) {
						t.Errorf("after %v; want 1 min", took)
					}
					checkRefusal(t, w, res, body)
					synctest.Wait()
					s.mu.Lock()
					defer s.mu.Unlock()
					for _, c := range s.streams {
						if _, err := c.Write([]byte("x")); err == nil {
							t.Error("the stream was left open")
						}
					}
				})
			})
		}
	}
}

// ask sends one request as it is and returns the answer.
func (w *world) ask(request string) *http.Response {
	w.t.Helper()
	v := w.raw(blog)
	v.send("%s", request)
	return v.answer("GET")
}

func checkRefusal(t *testing.T, w *world, res *http.Response, body string) {
	t.Helper()
	h := res.Header
	var told struct {
		Error, Message string
		Status         int
		RequestID      string `json:"request_id"`
	}
	if err := json.Unmarshal([]byte(body), &told); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if told.Error != h.Get("Culvert-Error") || told.Status != res.StatusCode || told.Message == "" {
		t.Errorf("told %+v", told)
	}
	if id := told.RequestID; len(id) != 16 || h.Get("X-Request-Id") != id {
		t.Errorf("request id %q in the body, %q in the head", id, h.Get("X-Request-Id"))
	} else if !strings.Contains(w.log.String(), "visit="+id) {
		t.Errorf("request id %q is not in the logs", id)
	}
	if h.Get("Cache-Control") != "no-store" || h.Get("Content-Type") != "application/json" {
		t.Errorf("got %v", h)
	}
	if got := h.Get("Retry-After") != ""; got != (res.StatusCode == 503) {
		t.Errorf("Retry-After %q with %d", h.Get("Retry-After"), res.StatusCode)
	}
	if strings.Contains(body, "10.1.2.3") || strings.Contains(fmt.Sprint(h), "10.1.2.3") {
		t.Errorf("an internal address got out: %s", body)
	}
}

// TestPage: a browser gets a page, without anything to load and without what
// it asked for in it.
func TestPage(t *testing.T) {
	w := newWorld(t, nil)
	c := w.visitor(false)
	for accept, page := range map[string]bool{
		"text/html,application/xhtml+xml,*/*;q=0.8": true,
		"application/json, TEXT/HTML;q=0.1":         true,
		"*/*":                                       false,
		"text/htmlx":                                false,
		"":                                          false,
	} {
		res, body := get(t, c, "https://unknown."+domain+"/<script>alert(1)</script>?<b>", "Accept", accept)
		if got := strings.HasPrefix(res.Header.Get("Content-Type"), "text/html"); got != page {
			t.Errorf("%q: got page %v want %v", accept, got, page)
		}
		if strings.Contains(body, "alert") || strings.Contains(body, "<b>") {
			t.Errorf("the page repeats the visitor: %s", body)
		}
		if page && (!strings.Contains(body, "404 Not Found") || !strings.Contains(body, res.Header.Get("X-Request-Id"))) {
			t.Errorf("got %s", body)
		}
		if csp := res.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; style-src 'sha256-") {
			t.Errorf("policy %q", csp)
		}
	}
	res, err := c.Head("https://unknown." + domain)
	if err != nil || res.StatusCode != 404 || res.ContentLength <= 0 {
		t.Errorf("HEAD: got %v, %v", res, err)
	}
}

// TestBadRequests never reach a service, and are all answered in our words.
func TestBadRequests(t *testing.T) {
	for name, test := range map[string]struct {
		request string
		status  int
	}{
		"no host":             {"GET / HTTP/1.1\n\n", 400},
		"two hosts":           {"GET / HTTP/1.1\nHost: " + blog + "\nHost: " + blog + "\n\n", 400},
		"bad host":            {"GET / HTTP/1.1\nHost: a/b\n\n", 400},
		"host with user":      {"GET / HTTP/1.1\nHost: x@" + blog + "\n\n", 400},
		"host with two ports": {"GET / HTTP/1.1\nHost: " + blog + ":1:2\n\n", 400},
		"empty label":         {"GET / HTTP/1.1\nHost: a.." + domain + "\n\n", 400},
		"connect":             {"CONNECT " + blog + ":443 HTTP/1.1\nHost: " + blog + "\n\n", 501},
		"h2 preface":          {"PRI * HTTP/2.0\n\nSM\n\n", 505},
		"star with GET":       {"GET * HTTP/1.1\nHost: " + blog + "\n\n", 400},
		"no slash":            {"GET foo HTTP/1.1\nHost: " + blog + "\n\n", 400},
		"fragment":            {"GET /a#b HTTP/1.1\nHost: " + blog + "\n\n", 400},
		"user in target":      {"GET http://u@" + blog + "/ HTTP/1.1\nHost: " + blog + "\n\n", 400},
		"other scheme":        {"GET ftp://" + blog + "/ HTTP/1.1\nHost: " + blog + "\n\n", 400},
		"no version":          {"GET /\n\n", 400},
		"version 3":           {"GET / HTTP/3.0\nHost: " + blog + "\n\n", 505},
		"space before colon":  {"GET / HTTP/1.1\nHost: " + blog + "\nX : y\n\n", 400},
		"NUL":                 {"GET / HTTP/1.1\nHost: " + blog + "\nX: a\x00b\n\n", 400},
		"bad length":          {"POST / HTTP/1.1\nHost: " + blog + "\nContent-Length: +1\n\nx", 400},
		"two lengths":         {"POST / HTTP/1.1\nHost: " + blog + "\nContent-Length: 1\nContent-Length: 2\n\nxx", 400},
		"odd coding":          {"POST / HTTP/1.1\nHost: " + blog + "\nTransfer-Encoding: gzip\n\n", 501},
		"odd expectation":     {"POST / HTTP/1.1\nHost: " + blog + "\nExpect: miracles\nContent-Length: 1\n\nx", 417},
		"large head":          {"GET / HTTP/1.1\nHost: " + blog + "\nX: " + strings.Repeat("x", 80<<10) + "\n\n", 431},
		"control in upgrade":  {"GET / HTTP/1.1\nHost: " + blog + "\nConnection: upgrade\nUpgrade: \xe9\n\n", 400},
		"bad chunk, and more": {"POST / HTTP/1.1\nHost: " + blog + "\nTransfer-Encoding: chunked\n\nZZ\nGET /smuggled HTTP/1.1\nHost: " + blog + "\n\n", 400},
		"bad chunk":           {"POST / HTTP/1.1\nHost: " + blog + "\nTransfer-Encoding: chunked\n\nZZ\n", 400},
	} {
		for _, plain := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, plain %v", name, plain), func(t *testing.T) {
				w := newWorld(t, func(e *Edge) {
					if plain {
						e.GetCertificate = nil
					}
				})
				w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
					if _, err := io.ReadAll(r.Body); err == nil {
						t.Errorf("reached the service: %s %s of %s", r.Method, r.RequestURI, r.Host)
					}
				}))
				v := w.raw(blog)
				go fmt.Fprint(v, strings.ReplaceAll(test.request, "\n", "\r\n"))
				res := v.answer("GET")
				body, _ := io.ReadAll(res.Body)
				if res.StatusCode != test.status || res.Header.Get("Culvert-Error") != "bad_request" {
					t.Errorf("got %d %v %s; want %d bad_request", res.StatusCode, res.Header, body, test.status)
				}
				if !strings.Contains(name, "chunk") {
					return // the connection may go on
				}
				if rest, _ := io.ReadAll(v.r); len(rest) > 0 {
					t.Errorf("then came %q; want the end of the connection", rest)
				}
			})
		}
	}
}

// TestServiceErrorsAreNotOurs: what a service answers passes even where the
// edge would use the same status.
// A refusal leaves the body unread, so the connection cannot go on; whoever
// would use it again has to know.
func TestRefusalOfABodySaysClose(t *testing.T) {
	w := newWorld(t, nil)
	v := w.raw(blog)
	v.send("POST / HTTP/1.1\nHost: %s\nContent-Length: 400000000\n\nbody", blog)
	if res := v.answer("POST"); res.StatusCode != 404 || !res.Close {
		t.Errorf("got %s, close %v; want 404 and close", res.Status, res.Close)
	}
	// But of a little, the rest is read.
	v = w.raw(blog)
	for range 2 {
		v.send("POST / HTTP/1.1\nHost: %s\nContent-Length: 4\n\nbo", blog)
		res := v.answer("POST")
		if read(t, res); res.StatusCode != 404 || res.Close {
			t.Errorf("got %s, close %v; want 404 and to go on", res.Status, res.Close)
		}
		v.send("dy")
	}
	v = w.raw(blog)
	v.send("GET / HTTP/1.1\nHost: %s\n\n", blog)
	if res := v.answer("GET"); res.StatusCode != 404 || res.Close {
		t.Errorf("got %s, close %v; want 404 and to go on", res.Status, res.Close)
	}
}

func TestServiceErrorsAreNotOurs(t *testing.T) {
	w := newWorld(t, nil)
	w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
		http.Error(rw, "mine", map[string]int{"/400": 400, "/404": 404, "/502": 502, "/503": 503}[r.URL.Path])
	}))
	v := w.raw(blog)
	for _, status := range []int{400, 404, 502, 503} {
		v.send("GET /%d HTTP/1.1\nHost: %s\n\n", status, blog)
		res := v.answer("GET")
		if body := read(t, res); res.StatusCode != status || body != "mine\n" || res.Header.Get("Culvert-Error") != "" {
			t.Errorf("got %d %v %q", res.StatusCode, res.Header, body)
		}
	}
	v.send("GET / HTTP/1.1\n\n")
	if res := v.answer("GET"); res.Header.Get("Culvert-Error") != "bad_request" {
		t.Errorf("then a bad one: got %d %v", res.StatusCode, res.Header)
	}
}

func TestMisdirected(t *testing.T) {
	w := newWorld(t, nil)
	says := func(word string) *service {
		return newService(func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, word) })
	}
	wiki := "wiki." + domain
	w.bind(blog, says("blog"))
	w.bind(wiki, says("wiki"))
	for _, test := range []struct {
		sni, host string
		status    int
	}{
		{blog, blog, 200}, {blog, strings.ToUpper(blog) + ".:8443", 200}, {"", wiki, 200},
		{blog, wiki, 421}, {blog, domain, 421}, {domain, blog, 421}, {blog, "unknown." + domain, 421},
	} {
		c := w.visitor(false)
		tr := c.Transport.(*http.Transport)
		tr.TLSClientConfig.ServerName = test.sni
		if test.sni == "" {
			tr.TLSClientConfig.ServerName = "192.0.2.1" // an address is not sent
			tr.TLSClientConfig.InsecureSkipVerify = true
		}
		res, _ := get(t, c, "https://"+test.host)
		if res.StatusCode != test.status {
			t.Errorf("SNI %q, Host %q: got %d want %d", test.sni, test.host, res.StatusCode, test.status)
		}
		if got := res.Header.Get("Culvert-Error") == "misdirected"; got != (test.status == 421) {
			t.Errorf("SNI %q, Host %q: got %v", test.sni, test.host, res.Header)
		}
	}
	// Absolute form is about the host in it, for the check as for the route.
	v := w.raw(blog)
	v.send("GET https://%s/ HTTP/1.1\nHost: %s\n\n", wiki, wiki)
	if res := v.answer("GET"); res.StatusCode != 421 {
		t.Errorf("absolute form for another host: got %d", res.StatusCode)
	}
	// One HTTP/2 connection may serve all names of its certificate.
	c := w.visitor(true)
	c.Transport.(*http.Transport).TLSClientConfig.ServerName = blog
	if res, got := get(t, c, "https://"+wiki); got != "wiki" {
		t.Errorf("HTTP/2: got %d %q", res.StatusCode, got)
	}
}

// TestSilence: both ways silent for five minutes is the end, whoever it is
// that says nothing.
func TestSilence(t *testing.T) {
	for name, test := range map[string]struct {
		service func(http.ResponseWriter, *http.Request)
		code    string // "" where the answer has begun and can only break off
	}{
		"visitor in the request": {func(rw http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
		}, "bad_request"},
		"service in the answer": {func(rw http.ResponseWriter, r *http.Request) {
			io.WriteString(rw, "half")
			http.NewResponseController(rw).Flush()
			<-r.Context().Done()
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, h2 bool) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, func(e *Edge) { e.MinRate = -1 })
					w.bind(blog, newService(test.service))
					r, _ := http.NewRequest("GET", "https://"+blog, nil)
					in, out := io.Pipe()
					var wg sync.WaitGroup
					defer wg.Wait()
					if test.code == "bad_request" {
						r.Method, r.Body, r.ContentLength = "POST", in, 100
						wg.Go(func() {
							io.WriteString(out, "some")
							time.Sleep(4 * time.Minute)
							io.WriteString(out, "more")
							time.Sleep(5*time.Minute + time.Second) // this Transport does not return sooner
							out.CloseWithError(io.ErrClosedPipe)
						})
					}
					start := time.Now()
					res, err := w.visitor(h2).Do(r)
					if err == nil {
						_, err = io.ReadAll(res.Body)
						res.Body.Close()
					}
					want := 5 * time.Minute
					if test.code != "" {
						want = 9 * time.Minute
					}
					if took := time.Since(start); took < want || took > want+2*time.Second {
						t.Errorf("took %v; want %v", took, want)
					}
					switch {
					case test.code == "" && err == nil:
						t.Error("the answer ended as if it were whole")
					case test.code != "" && (err != nil || res.Header.Get("Culvert-Error") != test.code):
						t.Errorf("got %v, %v; want %s", res, err, test.code)
					}
					out.Close()
				})
			})
		})
	}
}

// lateBy is how late the watchman may be.
const lateBy = time.Second

// TestServiceTimeoutIsItsOwn: waiting for the head of an answer is not silence.
func TestServiceTimeoutIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(e *Edge) { e.ServiceTimeout = 12 * time.Minute })
		w.bind(blog, rawService(func(c net.Conn) { io.Copy(io.Discard, c) }))
		start := time.Now()
		res, _ := get(t, w.visitor(false), "https://"+blog)
		if took := time.Since(start); took < 12*time.Minute || took > 12*time.Minute+lateBy || res.Header.Get("Culvert-Error") != "service_timeout" {
			t.Errorf("got %v after %v", res.Header, took)
		}
	})
}

// TestNoTotalLimits: what moves now and then goes on for ever.
func TestNoTotalLimits(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(e *Edge) { e.MinRate = -1 })
			w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
				n, err := io.Copy(io.Discard, r.Body)
				for range 12 {
					fmt.Fprintln(rw, n, err)
					http.NewResponseController(rw).Flush()
					time.Sleep(4 * time.Minute)
				}
			}))
			in, out := io.Pipe()
			go func() {
				for range 12 {
					io.WriteString(out, "x")
					time.Sleep(4 * time.Minute)
				}
				out.Close()
			}()
			res, err := w.visitor(h2).Post("https://"+blog, "x/y", in)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := read(t, res), strings.Repeat("12 <nil>\n", 12); got != want {
				t.Errorf("got %q", got)
			}
		})
	})
}

// TestSlowReader: a visitor who stops reading does not hold the service for
// ever.
func TestSlowReader(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		w := newWorld(t, func(e *Edge) { e.Silence = 200 * time.Millisecond })
		ended := make(chan bool, 1)
		w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
			for {
				if _, err := rw.Write(make([]byte, 1<<20)); err != nil {
					ended <- true
					return
				}
			}
		}))
		res, err := w.visitor(h2).Get("https://" + blog)
		if err != nil {
			t.Fatal(err)
		}
		within(t, "end at the service", ended)
		if _, err := io.Copy(io.Discard, res.Body); err == nil {
			t.Error("the answer ended as if it were whole")
		}
		res.Body.Close()
	})
}
