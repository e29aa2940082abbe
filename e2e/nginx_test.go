package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startNginx runs nginx with the given contents of its http block, and waits
// until it listens on addr.
func startNginx(t *testing.T, addr, http string) {
	t.Helper()
	need(t, "nginx")
	dir := t.TempDir()
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // its usual user cannot look into our temporary directories
	}
	conf := fmt.Sprintf(`
		daemon off; pid %[1]s/pid; error_log stderr; worker_processes 1; %[2]s
		events { worker_connections 1024; }
		http {
			access_log off;
			default_type application/octet-stream;
			include /etc/nginx/mime.types;
			client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi;
			uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
			%[3]s
		}`, dir, user, http)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	p := start(t, "nginx", exec.Command("nginx", "-p", dir, "-c", file, "-e", "stderr"))
	p.awaitListener(addr)
}

// awaitListener waits until somebody accepts connections on addr, presumably p.
func (p *process) awaitListener(addr string) {
	p.t.Helper()
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	eventually(p.t, "reach "+p.name, func() error {
		if err := p.running(); err != nil {
			return err
		}
		c, err := net.Dial(network, addr)
		if err == nil {
			err = c.Close()
		}
		return err
	})
}

// The configuration in docs works as it stands: nginx owns 443, visitors and
// agents come through it, and the node believes what it says of them.
func TestBehindNginx(t *testing.T) {
	t.Parallel()
	need(t, "nginx")
	front, frontHTTP := freeAddr(t), freeAddr(t)
	n := startNode(t, "--tls", "off", "--trusted-proxy", "127.0.0.1/32", "--http", "")
	s := startService(t, "blog")
	ca, cert, key, roots := makeCertificate(t, "localhost", "*.localhost")

	conf, err := os.ReadFile("../docs/nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	conf = []byte(strings.NewReplacer(
		"listen 80;", "listen "+frontHTTP+";",
		"listen 443 ", "listen "+front+" ",
		"127.0.0.1:8080", n.addr,
		"/etc/ssl/tunnel.example.com.pem", cert,
		"/etc/ssl/tunnel.example.com.key", key,
		"tunnel.example.com", "localhost",
	).Replace(string(conf)))
	startNginx(t, front, string(conf))

	a := n.runAgent(n.token("ada"), s.target(), "--name", "blog", "--server", "localhost:"+port(front), "--ca", ca)
	a.url()
	url := "https://blog.localhost:" + port(front)
	v := visitor(t, front, roots)
	wantPage(t, v, url+"/", "hello from blog\n")
	if direct := connections(t, a.process, n.addr); direct != 0 {
		t.Errorf("the agent has %d connections around nginx", direct)
	}
	if lanes := connections(t, a.process, front); lanes != 1 {
		t.Errorf("the agent holds %d connections to nginx; want 1", lanes)
	}

	t.Run("forwarded", func(t *testing.T) {
		req, _ := http.NewRequest("GET", url+"/request", nil)
		for _, key := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded"} {
			req.Header.Set(key, "impostor")
		}
		res, err := v.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var r arrived
		if err := json.NewDecoder(res.Body).Decode(&r); err != nil {
			t.Fatal(err)
		}
		host := strings.TrimPrefix(url, "https://")
		if r.Host != host {
			t.Errorf("Host %s; want %s", r.Host, host)
		}
		for key, want := range map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": host,
		} {
			if got := r.Header.Get(key); got != want {
				t.Errorf("%s: %q; want %q", key, got, want)
			}
		}
		if strings.Contains(fmt.Sprint(r.Header["Forwarded"]), "impostor") {
			t.Errorf("Forwarded: %q", r.Header["Forwarded"])
		}
	})
	t.Run("HTTP/2", func(t *testing.T) {
		v := overHTTP2(visitor(t, front, roots))
		if res, _ := get(t, v, url+"/"); res.ProtoMajor != 2 {
			t.Errorf("nginx speaks %s", res.Proto)
		}
		// With HTTP/2, nginx keeps the head back until there is a body.
		hearEvents(t, v, s, url+"/events?greet")
	})
	t.Run("events", func(t *testing.T) { hearEvents(t, v, s, url+"/events") })
	t.Run("WebSocket", func(t *testing.T) { echoWebSocket(t, visitor(t, front, roots), url+"/websocket") })
	t.Run("upload", func(t *testing.T) {
		const size = 50 << 20
		res, err := v.Post(url+"/upload", "application/octet-stream", generate(size))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var got [64]byte
		res.Body.Read(got[:])
		if string(got[:]) != hashOf(size) {
			t.Errorf("%s: the service received %s", res.Status, got)
		}
	})
	t.Run("redirect", func(t *testing.T) {
		res, _ := get(t, visitor(t, frontHTTP, nil), "http://blog.localhost/page")
		if got := res.Header.Get("Location"); got != "https://blog.localhost/page" {
			t.Errorf("Location %q", got)
		}
	})
	t.Run("offline", func(t *testing.T) {
		a.stop()
		eventually(t, "see the owner away", func() error {
			res, _, err := tryGet(v, url+"/")
			if err == nil && res.Header.Get("Culvert-Error") != "tunnel_offline" {
				err = fmt.Errorf("%s", res.Status)
			}
			return err
		})
	})
}

// makeCertificate returns the files of a CA, of a certificate from it for
// names, and of its key.
func makeCertificate(t *testing.T, names ...string) (ca, cert, key string, roots *x509.CertPool) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e front end's CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, caKey.Public(), caKey)
	must(err)
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	leafDER, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: names, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, root, leafKey.Public(), caKey)
	must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	must(err)

	parsed, err := x509.ParseCertificate(rootDER)
	must(err)
	roots = x509.NewCertPool()
	roots.AddCert(parsed)
	return write("ca.pem", "CERTIFICATE", rootDER), write("cert.pem", "CERTIFICATE", leafDER), write("key.pem", "PRIVATE KEY", keyDER), roots
}
