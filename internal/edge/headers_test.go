package edge

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/culvertd/culvert/internal/h1"
	"github.com/culvertd/culvert/internal/router"
	"pgregory.net/rapid"
)

// TestWhatTheServiceIsTold: who asks is what the edge says, whatever the
// visitor says, in whatever spelling.
func TestWhatTheServiceIsTold(t *testing.T) {
	lies := http.Header{
		"X-Forwarded-For":    {"6.6.6.6", "7.7.7.7"},
		"X-Forwarded-Host":   {"evil.example"},
		"X-Forwarded-Proto":  {"http"},
		"X-Forwarded-Port":   {"80"},
		"X-Forwarded-Prefix": {"/admin"},
		"X_Forwarded_For":    {"6.6.6.6"},
		"X-Forwarded_Host":   {"evil.example"},
		"Forwarded":          {"for=6.6.6.6"},
		"X-Real-Ip":          {"6.6.6.6"},
		"X_real_ip":          {"6.6.6.6"},
		"X-Request-Id":       {"1"},
		"Culvert-Anything":   {"1"},
		"Culvert_owner":      {"root"},
		"Proxy-Connection":   {"keep-alive"},
		"Keep-Alive":         {"timeout=1"},
		"Te":                 {"gzip"},
		"Proxy-Authenticate": {"x"},
	}
	both(t, func(t *testing.T, h2 bool) {
		w := newWorld(t, nil)
		seen := make(chan *http.Request, 1)
		w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) { seen <- r }))
		r, _ := http.NewRequest("GET", "https://"+blog+":8443/", nil)
		r.Header = maps.Clone(lies)
		r.Header["Accept"] = []string{"a", "b"}
		r.Header["X-Empty"] = []string{""}
		if h2 {
			for _, hop := range []string{"Proxy-Connection", "Keep-Alive", "Te"} {
				r.Header.Del(hop)
			}
		} else {
			// Connection names what we add, and what is meant to be removed.
			r.Header["Connection"] = []string{"X-Forwarded-For, x-forwarded-proto, Forwarded, X-Request-Id, Host, X-Hop"}
			r.Header["X-Hop"] = []string{"1"}
		}
		res, err := w.visitor(h2).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if body := read(t, res); res.StatusCode != 200 {
			t.Fatalf("got %d %s", res.StatusCode, body)
		}
		got := within(t, "request", seen)
		id := got.Header.Get("X-Request-Id")
		if len(id) != 16 {
			t.Errorf("request id %q", id)
		}
		want := http.Header{
			"X-Forwarded-For":   {"192.0.2.7"},
			"X-Forwarded-Host":  {blog + ":8443"},
			"X-Forwarded-Proto": {"https"},
			"Forwarded":         {`for=192.0.2.7;host="` + blog + `:8443";proto=https`},
			"X-Request-Id":      {id},
			"Accept":            {"a", "b"},
			"X-Empty":           {""},
			"User-Agent":        {"Go-http-client/" + map[bool]string{false: "1.1", true: "2.0"}[h2]},
		}
		if !maps.EqualFunc(got.Header, want, slices.Equal) {
			t.Errorf("service got\n%v\nwant\n%v", got.Header, want)
		}
		if got.Host != blog+":8443" {
			t.Errorf("Host is %q", got.Host)
		}
	})
}

func TestHostHeader(t *testing.T) {
	w := newWorld(t, nil)
	s := newService(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprint(rw, r.Host, " ", r.Header.Get("X-Forwarded-Host"))
	})
	w.bind(blog, s)
	w.routes.Add(blog, s, router.Options{HostHeader: "localhost:3000"})
	if _, got := get(t, w.visitor(true), "https://"+blog); got != "localhost:3000 "+blog {
		t.Errorf("got %q", got)
	}
}

// TestOrigin: only a listed front end is believed, and of what it passes on
// only what it wrote itself.
func TestOrigin(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for name, test := range map[string]struct {
		peer       string
		xff, proto []string
		addr, want string
	}{
		"stranger":             {"192.0.2.1:5", []string{"6.6.6.6"}, []string{"https"}, "192.0.2.1:5", "http"},
		"front end":            {"127.0.0.1:5", []string{"192.0.2.1"}, []string{"https"}, "192.0.2.1:0", "https"},
		"front end says http":  {"127.0.0.1:5", []string{"192.0.2.1"}, []string{"http"}, "192.0.2.1:0", "http"},
		"front end in capital": {"127.0.0.1:5", nil, []string{"HTTPS"}, "127.0.0.1:5", "https"},
		"mapped":               {"[::ffff:127.0.0.1]:5", []string{"::ffff:192.0.2.1"}, nil, "192.0.2.1:0", "http"},
		"lies before it":       {"127.0.0.1:5", []string{"6.6.6.6, 192.0.2.1"}, []string{"http, https"}, "192.0.2.1:0", "https"},
		"lies in another line": {"127.0.0.1:5", []string{"6.6.6.6", "192.0.2.1"}, []string{"http", "https"}, "192.0.2.1:0", "https"},
		"two front ends":       {"127.0.0.1:5", []string{"6.6.6.6, 192.0.2.1, 10.0.0.7"}, nil, "192.0.2.1:0", "http"},
		"only front ends":      {"127.0.0.1:5", []string{"10.0.0.8, 10.0.0.7"}, nil, "10.0.0.8:0", "http"},
		"with ports":           {"127.0.0.1:5", []string{"192.0.2.1:77"}, nil, "192.0.2.1:0", "http"},
		"IPv6":                 {"[fd00::1]:5", []string{"2001:db8::1"}, nil, "[2001:db8::1]:0", "http"},
		"IPv6 in brackets":     {"[fd00::1]:5", []string{"[2001:db8::1]"}, nil, "[2001:db8::1]:0", "http"},
		"IPv6 with port":       {"[fd00::1]:5", []string{"[2001:db8::1]:77"}, nil, "[2001:db8::1]:0", "http"},
		"zone is dropped":      {"[fd00::1]:5", []string{"fe80::1%eth0"}, nil, "[fe80::1]:0", "http"},
		"garbage":              {"127.0.0.1:5", []string{"6.6.6.6, unknown"}, []string{"gopher"}, "127.0.0.1:5", "http"},
		"garbage behind":       {"127.0.0.1:5", []string{"6.6.6.6, x, 10.0.0.7"}, nil, "10.0.0.7:0", "http"},
		"empty":                {"127.0.0.1:5", []string{""}, []string{""}, "127.0.0.1:5", "http"},
		"commas":               {"127.0.0.1:5", []string{"6.6.6.6,,"}, []string{",,"}, "127.0.0.1:5", "http"},
		"not an address":       {"@", []string{"6.6.6.6"}, []string{"https"}, "invalid AddrPort", "http"},
	} {
		t.Run(name, func(t *testing.T) {
			got := originOf(peerAt(test.peer), forwarded(test.xff, test.proto), trusted)
			if got.addr.String() != test.addr || got.http != (test.want == "http") {
				t.Errorf("got %v http=%t; want %s %s", got.addr, got.http, test.addr, test.want)
			}
		})
	}
}

// peerAt is somebody who came over plain HTTP.
func peerAt(addr string) origin {
	peer, _ := netip.ParseAddrPort(addr)
	return originAt(netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()), true)
}

// forwarded is what a front end says. A visitor's other spelling of it is
// nobody's word.
func forwarded(xff, proto []string) (fields []h1.Field) {
	for _, value := range xff {
		fields = append(fields, h1.Field{Name: []byte("x-forwarded-for"), Value: []byte(value)})
	}
	for _, value := range proto {
		fields = append(fields, h1.Field{Name: []byte("X-Forwarded-Proto"), Value: []byte(value)})
	}
	return append(fields,
		h1.Field{Name: []byte("X_Forwarded_For"), Value: []byte("6.6.6.6")},
		h1.Field{Name: []byte("X_Forwarded_Proto"), Value: []byte("gopher")})
}

// TestBehindFrontEnd: plain HTTP, and what the service is told is what the
// front end says.
func TestBehindFrontEnd(t *testing.T) {
	w := newWorld(t, func(e *Edge) {
		e.GetCertificate = nil
		e.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}
	})
	w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprint(rw, r.Header["Forwarded"], r.Header["X-Forwarded-For"], r.Header["X-Forwarded-Proto"])
	}))
	request := "GET / HTTP/1.1\nHost: " + blog + "\nX-Forwarded-For: 6.6.6.6, 2001:db8::1\nX-Forwarded-Proto: https\nForwarded: for=6.6.6.6\nConnection: close\n\n"
	if got, want := read(t, w.ask(request)), `[for="[2001:db8::1]";host="blog.tunnel.test";proto=https] [2001:db8::1] [https]`; got != want {
		t.Errorf("got %s want %s", got, want)
	}
	w.from = "192.0.2.8:1"
	if got, want := read(t, w.ask(request)), `[for=192.0.2.8;host="blog.tunnel.test";proto=http] [192.0.2.8] [http]`; got != want {
		t.Errorf("from a stranger: got %s want %s", got, want)
	}
}

// FuzzOrigin: a stranger's words change nothing; and whoever is believed, the
// result is an address that was written there, or the peer's.
func FuzzOrigin(f *testing.F) {
	for _, s := range []string{"", "1.2.3.4", "1.2.3.4, 10.0.0.1", "[::1]:1,", ", ,::1%x", "[[::1]]", "10.0.0.1:99999"} {
		f.Add(s, "https")
	}
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	f.Fuzz(func(t *testing.T, xff, proto string) {
		h := forwarded([]string{xff}, []string{proto})
		o := originOf(peerAt("192.0.2.1:1"), h, trusted)
		if o.addr != netip.MustParseAddrPort("192.0.2.1:1") || !o.http {
			t.Fatalf("a stranger became %v", o)
		}
		o = originOf(peerAt("10.0.0.1:1"), h, trusted)
		if o.addr == netip.MustParseAddrPort("10.0.0.1:1") {
			return
		}
		for hop := range strings.SplitSeq(xff, ",") {
			if addr, ok := parseHop(strings.TrimSpace(hop)); ok && netip.AddrPortFrom(addr, 0) == o.addr {
				return
			}
		}
		t.Fatalf("%v stands nowhere in %q", o.addr, xff)
	})
}

// sentFor returns the target that a service is sent when a visitor sent that;
// "" if it is refused.
func sentFor(t interface{ Fatal(...any) }, target string) string {
	var q h1.Request
	if _, err := h1.ParseRequest([]byte("OPTIONS "+target+" HTTP/1.1\r\nHost: a.b\r\n\r\n"), &q); err != nil {
		return ""
	}
	v := &visit{req: &q, route: router.Route{Host: "a.b", Epoch: 7}}
	line, _, _ := strings.Cut(string(appendRequest(nil, v)), "\r\n")
	u := v.serviceURL("a.b")
	if u.Host != "a.b:7" {
		t.Fatal("target chose another pool: " + u.Host)
	}
	got := strings.TrimSuffix(strings.TrimPrefix(line, "OPTIONS "), " HTTP/1.1")
	if h2 := strings.TrimPrefix(u.RequestURI(), "http://a.b"); h2 != got {
		t.Fatal("over HTTP/2 " + h2 + " and not " + got)
	}
	return got
}

func TestTargets(t *testing.T) {
	for target, want := range map[string]string{
		"/":                       "/",
		"*":                       "*",
		"/a/../b//c/./d":          "/a/../b//c/./d",
		"/%2e%2E/%2f%2F%00":       "/%2e%2E/%2f%2F%00",
		"/a;b=c/d,e":              "/a;b=c/d,e",
		"/?":                      "/?",
		"/??":                     "/??",
		"/?a=b;c&d=%zz&=":         "/?a=b;c&d=%zz&=",
		"/a?b?c/d":                "/a?b?c/d",
		`/"<>^|{}` + "`\\":        `/"<>^|{}` + "`\\",
		"//evil.example/x":        "//evil.example/x",
		"///":                     "///",
		"//@x:y/%2f?z":            "//@x:y/%2f?z",
		"/http://x/":              "/http://x/",
		"/ü":                      "",
		"http://a.b/x?y":          "/x?y",
		"http://a.b":              "*", // RFC 9112, section 3.2.4
		"http://a.b?y":            "/?y",
		"http://u:p@a.b/":         "",
		"a.b:443":                 "",
		"foo":                     "",
		"/a#b":                    "",
		"/a\tb":                   "",
		"mailto:a@b":              "",
		"/%":                      "/%",
		"http://a.b/%41?%42=\"<>": "/%41?%42=\"<>",
	} {
		if got := sentFor(t, target); got != want {
			t.Errorf("%q: got %q want %q", target, got, want)
		}
	}
}

// TestTargetsPassByteForByte: HDR-06.
func TestTargetsPassByteForByte(t *testing.T) {
	chars := rapid.SampledFrom(strings.Split("abcXYZ019-._~!$&'()*+,;=:@/?/?%2F %2f %00 %25 // .. ./", ""))
	rapid.Check(t, func(t *rapid.T) {
		target := "/" + strings.ReplaceAll(strings.Join(rapid.SliceOf(chars).Draw(t, "target"), ""), "%", "%2f")
		target = strings.ReplaceAll(target, " ", "%20")
		if got := sentFor(t, target); got != target {
			t.Fatalf("got %q want %q", got, target)
		}
	})
}

// FuzzTarget: what is passed on in origin form is what came, byte for byte, and
// never takes another form.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"/", "//a/b", "/?", "/%2f?%", "*", "http://a.b/c", "/\\..", "/a?b#c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		got := sentFor(t, target)
		if got == "" || strings.HasPrefix(target, "http") {
			if got != "" && !strings.HasPrefix(got, "/") {
				t.Fatalf("%q became %q", target, got)
			}
			return
		}
		if got != target {
			t.Fatalf("got %q want %q", got, target)
		}
		if !strings.HasPrefix(got, "/") && got != "*" {
			t.Fatalf("%q became %q", target, got)
		}
	})
}
