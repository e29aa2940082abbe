package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/culvertd/culvert/internal/server"
)

// TestDev runs all of culvertd dev in this process: the page, and a target.
func TestDev(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "the service answers "+r.Header.Get("X-Forwarded-Proto"))
	}))
	defer service.Close()
	data := t.TempDir()
	for _, c := range []struct{ target, want string }{
		{"", "GET /way?x=1 HTTP/1.1\nHost: hello.localhost"},
		{service.URL, "the service answers https"},
	} {
		args := []string{"dev", "--json", "--listen", "127.0.0.1:0", "--data", data}
		if c.target != "" {
			args = append(args, c.target)
		}
		ctx, stop := context.WithCancel(t.Context())
		out, in := io.Pipe()
		var said bytes.Buffer
		cli := &cli{out: in, err: &said, env: func(string) string { return "" }, again: make(chan struct{})}
		exit := make(chan int, 1)
		go func() { exit <- cli.run(ctx, args); in.Close() }()

		var ready struct{ Event, URL, CA, Curl string }
		if err := json.NewDecoder(bufio.NewReader(out)).Decode(&ready); err != nil {
			t.Fatalf("%v; exit %d; stderr: %s", err, <-exit, &said)
		}
		if ready.Event != "ready" || !strings.Contains(ready.Curl, ready.URL) || !strings.Contains(ready.Curl, ready.CA) {
			t.Errorf("ready is %+v", ready)
		}
		if got := fetch(t, ready.URL, ready.CA); !strings.HasPrefix(got, c.want) {
			t.Errorf("a visitor got %q; want %q…", got, c.want)
		}
		stop()
		if code := <-exit; code != 0 {
			t.Errorf("exit code %d; stderr: %s", code, &said)
		}
		if said.Len() > 0 {
			t.Errorf("a run in which nothing went wrong said %q", &said)
		}
	}
}

func fetch(t *testing.T, url, caFile string) string {
	t.Helper()
	pem, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { // *.localhost, as browsers resolve it
			_, port, _ := net.SplitHostPort(addr)
			var d net.Dialer
			return d.DialContext(ctx, "tcp", "127.0.0.1:"+port)
		},
	}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get(url + "/way?x=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestPageEscapes: the built-in page repeats what a stranger sent.
func TestPageEscapes(t *testing.T) {
	r := httptest.NewRequest("POST", "/?<script>", strings.NewReader("</pre><script>alert(1)</script>"))
	r.Header.Set("Accept", "text/html")
	r.Header.Set("X-Forwarded-For", "<b>")
	w := httptest.NewRecorder()
	page(w, r)
	if body := w.Body.String(); strings.Contains(body, "<script>") || strings.Contains(body, "<b>") || !strings.Contains(body, "&lt;script&gt;alert(1)") {
		t.Errorf("not escaped: %s", body)
	}
	if csp := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") {
		t.Errorf("policy is %q", csp)
	}
	r = httptest.NewRequest("POST", "/", bytes.NewReader(make([]byte, 10*maxShown)))
	w = httptest.NewRecorder()
	page(w, r)
	if w.Body.Len() > 2*maxShown || !strings.Contains(w.Body.String(), "… and more") {
		t.Errorf("%d bytes for a large body; want the beginning", w.Body.Len())
	}
}

func TestNearest(t *testing.T) {
	known := []string{"domain", "listen", "http", "tls", "trusted-proxy"}
	for got, want := range map[string]string{
		"domian": "domain", "lisen": "listen", "htp": "http", "tsl": "", "trusted-proxies": "trusted-proxy",
		"domain": "domain", "x": "", "": "", "completely-else": "", strings.Repeat("x", 10000): "",
	} {
		if n := nearest(got, known); n != want {
			t.Errorf("nearest(%.80q) = %q; want %q", got, n, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	if got := printable("a\x1b[31m\nb\u202e\u0085ü\n"); got != "a?[31m b??ü" {
		t.Errorf("got %q", got)
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{"/a/b.pem": "/a/b.pem", "/a b": "'/a b'", "": "''", "it's": `'it'\''s'`, "$x": "'$x'"} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s; want %s", in, got, want)
		}
	}
}

// serving is what serve would run with these flags over this file.
func serving(t *testing.T, file string, args ...string) (server.Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(path, []byte("domain: a.b\n"+file+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var flags settings
	set := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	flags.add(set)
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	c := &cli{env: func(string) string { return "" }}
	return c.serveConfig(flags, path, set)
}

// TestLimitFlags: none at all is not the same as nothing said, and flags stand
// above the file.
func TestLimitFlags(t *testing.T) {
	for name, of := range map[string]func(server.Config) any{
		"drain":           func(c server.Config) any { return c.Drain },
		"service-timeout": func(c server.Config) any { return c.ServiceTimeout },
		"silence":         func(c server.Config) any { return c.Silence },
		"idle-timeout":    func(c server.Config) any { return c.IdleTimeout },
		"head-timeout":    func(c server.Config) any { return c.HeadTimeout },
		"hsts":            func(c server.Config) any { return c.HSTS },
		"min-rate":        func(c server.Config) any { return c.MinRate },
		"max-visitors":    func(c server.Config) any { return c.MaxVisitors },
		"hold":            func(c server.Config) any { return c.Hold },
		"hold-max":        func(c server.Config) any { return c.HoldMax },
	} {
		preset := map[string]any{
			"drain": 30 * time.Second, "service-timeout": time.Minute, "silence": 5 * time.Minute, "idle-timeout": 5 * time.Minute,
			"head-timeout": 10 * time.Second, "hsts": time.Duration(0), "min-rate": 240, "max-visitors": 16384,
			"hold": 10 * time.Second, "hold-max": 100,
		}[name]
		var five, nothing any = 5 * time.Second, time.Duration(-1)
		value, zeros := "5s", []string{"0", "0s"}
		if _, ok := preset.(int); ok {
			five, nothing, value, zeros = 5, -1, "5", []string{"0"}
		}
		refused := name == "head-timeout" || name == "max-visitors" // cannot be off
		if name == "hsts" {
			nothing = time.Duration(0) // is off anyway
		}
		check := func(want any, file string, args ...string) {
			t.Helper()
			cfg, err := serving(t, file, args...)
			if _, ok := errors.AsType[*server.ConfigError](err); refused && want == nothing {
				if !ok {
					t.Errorf("%v over %q: got %v, want it refused", args, file, err)
				}
			} else if err != nil || of(cfg) != want {
				t.Errorf("%v over %q: got %v, %v; want %v", args, file, of(cfg), err, want)
			}
		}
		check(preset, "")
		check(preset, name+":")
		check(five, name+": "+value)
		check(five, "", "--"+name, value)
		for _, zero := range zeros {
			check(nothing, name+": "+zero)
			check(nothing, "", "--"+name, zero)
			check(five, name+": "+zero, "--"+name, value)
			check(nothing, name+": "+value, "--"+name, zero)
		}
	}
}

// TestSettings: whatever is a flag of serve is a key of its file, but for the
// three that say where that is, and how to log.
func TestSettings(t *testing.T) {
	c := &cli{env: func(string) string { return "" }}
	var s settings
	keys := s.fields()
	c.serveCommand().Flags().VisitAll(func(f *pflag.Flag) {
		switch _, ok := keys[f.Name]; {
		case f.Name == "config" || f.Name == "log-level" || f.Name == "json":
		case !ok:
			t.Errorf("--%s is no key of the file", f.Name)
		default:
			delete(keys, f.Name)
		}
	})
	if len(keys) > 0 {
		t.Errorf("no flags: %v", keys)
	}
}

// TestListenHint: the hint names the flag whose port is taken.
func TestListenHint(t *testing.T) {
	taken := fmt.Errorf("listen tcp :80: %w", syscall.EADDRINUSE)
	if got := hint(taken); !strings.HasSuffix(got, "with --listen") {
		t.Errorf("got %q; want --listen", got)
	}
	if got := hint(fmt.Errorf("%w: %w", server.ErrRedirect, taken)); !strings.HasSuffix(got, "with --http, or --http '' for none") {
		t.Errorf("got %q; want --http", got)
	}
}
