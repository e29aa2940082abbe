package e2e

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// says waits until the agent has said something on stderr.
func (a *agent) says(want string) {
	a.t.Helper()
	eventually(a.t, fmt.Sprintf("the agent says %q", want), func() error {
		if strings.Contains(a.stderr.String(), want) {
			return nil
		}
		return fmt.Errorf("it said %q", a.stderr.String())
	})
}

// A service with TLS is one that its agent can verify: by the file that says
// who it is, or on demand by nothing.
func TestSecureTarget(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	token, v := n.token("ada"), n.visitor()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newService("vault", ln)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	file := filepath.Join(t.TempDir(), "service.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(file, cert, 0o600); err != nil {
		t.Fatal(err)
	}

	stranger, url := n.startAgent(token, s.URL, "--name", "stranger")
	res, _ := get(t, v, url+"/")
	wantRefusal(t, res, http.StatusBadGateway, "service_refused")
	stranger.says("hint: pass --service-ca FILE")

	_, url = n.startAgent(token, s.URL, "--name", "vouched", "--service-ca", file)
	wantPage(t, v, url+"/", "hello from vault\n")

	careless, url := n.startAgent(token, s.URL, "--name", "careless", "--service-insecure")
	wantPage(t, v, url+"/", "hello from vault\n")
	careless.says("WARNING: nobody verifies the certificate of " + s.URL)

	another, url := n.startAgent(token, strings.Replace(s.URL, "127.0.0.1", "localhost", 1), "--name", "another", "--service-ca", file)
	res, _ = get(t, v, url+"/") // the certificate is for an address, and not for localhost
	wantRefusal(t, res, http.StatusBadGateway, "service_refused")
	another.says(`hint: the certificate of the service is not for "localhost"`)

	plain := startService(t, "plain")
	_, url = n.startAgent(token, "https://127.0.0.1:"+plain.target(), "--name", "plain")
	res, _ = get(t, v, url+"/")
	wantRefusal(t, res, http.StatusBadGateway, "service_refused")
}

// A service may listen where only those come who may open a file.
func TestSocketTarget(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	dir, err := os.MkdirTemp("", "sock") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "app.sock")
	a, url := n.startAgent(n.token("ada"), "unix:"+path, "--name", "app", "--host-header", "service")
	v := n.visitor()
	res, _ := get(t, v, url+"/")
	wantRefusal(t, res, http.StatusBadGateway, "service_refused")
	a.says("hint: is the service running?")

	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := newService("the socket", ln)
	s.Start()
	t.Cleanup(s.Close)
	wantPage(t, v, url+"/", "hello from the socket\n")
	var r arrived
	if _, body := get(t, v, url+"/request"); json.Unmarshal([]byte(body), &r) != nil || r.Host != "localhost" {
		t.Errorf("the service sees the host %q; want localhost", r.Host)
	}
}

// A development server answers only to localhost. The agent says what to do,
// once, and that does it.
func TestHostHeader(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	token, v := n.token("ada"), n.visitor()
	var want string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != want {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, "Blocked request. This host (%q) is not allowed.\nTo allow this host, add %q to `server.allowedHosts` in vite.config.js.", r.Host, r.Host)
			return
		}
		io.WriteString(w, "hello from "+r.Host)
	}))
	t.Cleanup(s.Close)
	target := port(s.Listener.Addr().String())
	want = "localhost:" + target

	keep, url := n.startAgent(token, target, "--name", "keep")
	host := strings.TrimPrefix(url, "https://")
	hint := fmt.Sprintf("hint: the service does not know the host %q; try --host-header service\n", host)
	for range 3 {
		res, body := get(t, v, url+"/")
		if res.StatusCode != http.StatusForbidden || !strings.HasPrefix(body, fmt.Sprintf("Blocked request. This host (%q)", host)) {
			t.Errorf("got %s: %q; want the service's own refusal", res.Status, body)
		}
	}
	keep.says(hint)
	keep.stop()
	if said := keep.stderr.String(); strings.Count(said, "hint:") != 1 {
		t.Errorf("the agent said %q; want one hint", said)
	}

	service, url := n.startAgent(token, target, "--name", "service", "--host-header", "service")
	wantPage(t, v, url+"/", "hello from "+want)
	wantPage(t, overHTTP2(n.visitor()), url+"/", "hello from "+want)
	service.stop()
	if said := service.stderr.String(); strings.Contains(said, "hint:") {
		t.Errorf("the agent said %q; want no hint", said)
	}
}
