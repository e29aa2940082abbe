package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A node is a running culvertd for *.localhost: the one domain whose names
// lead here on every machine, without anybody's DNS.
type node struct {
	*process
	t        *testing.T
	dir      string // --data
	addr     string // --listen
	httpAddr string // --http
	flags    []string
	roots    *x509.CertPool // trusts the node's own CA; nil when it serves plain HTTP
}

// startNode runs a node with its own CA, and with further flags, and waits
// until it can be reached.
func startNode(t *testing.T, flags ...string) *node {
	t.Helper()
	n := &node{t: t, dir: filepath.Join(t.TempDir(), "data"), addr: freeAddr(t), httpAddr: freeAddr(t)}
	n.flags = append([]string{
		"serve", "--domain", "localhost", "--tls", "internal",
		"--listen", n.addr, "--http", n.httpAddr, "--data", n.dir,
	}, flags...)
	n.start()
	if pem, err := os.ReadFile(n.ca()); err == nil {
		n.roots = x509.NewCertPool()
		n.roots.AppendCertsFromPEM(pem)
	}
	return n
}

// start runs the node's program, for the first time or again.
func (n *node) start() {
	n.t.Helper()
	n.process = start(n.t, "culvertd", exec.Command(culvertdPath, n.flags...))
	eventually(n.t, "reach the node", func() error {
		if err := n.running(); err != nil {
			return err
		}
		c, err := net.Dial("tcp", n.addr)
		if err == nil {
			err = c.Close()
		}
		return err
	})
}

// ca is the file that agents and visitors trust.
func (n *node) ca() string { return filepath.Join(n.dir, "ca", "root.pem") }

// server is what agents call the node.
func (n *node) server() string { return "localhost:" + port(n.addr) }

// url is where visitors find a name on this node.
func (n *node) url(name string) string { return "https://" + name + ".localhost:" + port(n.addr) }

// token creates a token for owner and returns the file that holds it.
func (n *node) token(owner string, flags ...string) string {
	n.t.Helper()
	secret := n.admin(append([]string{"token", "create", "--owner", owner}, flags...)...)
	file := filepath.Join(n.t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		n.t.Fatal(err)
	}
	return file
}

// admin runs one of culvertd's administrative commands against the node and
// returns what it printed.
func (n *node) admin(args ...string) string {
	n.t.Helper()
	cmd := exec.Command(culvertdPath, append(args, "--data", n.dir)...)
	out, err := cmd.Output()
	if err != nil {
		stderr := ""
		if e, ok := err.(*exec.ExitError); ok {
			stderr = string(e.Stderr)
		}
		n.t.Fatalf("%v: %v\n%s", cmd, err, stderr)
	}
	return string(out)
}

// visitor returns an HTTP client whose every name leads to the node, as DNS
// would, and which believes only the node's CA.
func (n *node) visitor() *http.Client {
	return visitor(n.t, n.addr, n.roots)
}

// visitor is a visitor of the node, or of the front end, at addr. It speaks HTTP/1.1.
func visitor(t *testing.T, addr string, roots *x509.CertPool) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
		TLSClientConfig:     &tls.Config{RootCAs: roots},
		MaxIdleConnsPerHost: 256,
		Protocols:           new(http.Protocols),
	}
	transport.Protocols.SetHTTP1(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport: transport,
		Timeout:   2 * time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
}

// overHTTP2 makes v speak HTTP/2 and nothing else.
func overHTTP2(v *http.Client) *http.Client {
	protocols := v.Transport.(*http.Transport).Protocols
	protocols.SetHTTP1(false)
	protocols.SetHTTP2(true)
	return v
}

// An agent is a running culvert.
type agent struct {
	*process
}

// runAgent runs "culvert http TARGET", which may well refuse.
func (n *node) runAgent(token, target string, flags ...string) *agent {
	n.t.Helper()
	args := append([]string{"http", target, "--server", n.server(), "--ca", n.ca(), "--token-file", token}, flags...)
	cmd := exec.Command(culvertPath, args...)
	// Nothing of the person who runs the tests may change them.
	cmd.Env = append(os.Environ(), "HOME="+n.t.TempDir(), "XDG_CONFIG_HOME=", "CULVERT_SERVER=", "CULVERT_TOKEN=", "CULVERT_CA=")
	return &agent{start(n.t, "culvert", cmd)}
}

// startAgent runs an agent and returns it with its public URL.
func (n *node) startAgent(token, target string, flags ...string) (*agent, string) {
	n.t.Helper()
	a := n.runAgent(token, target, flags...)
	return a, a.url()
}

// url waits for the URL, which is all that an agent prints on stdout.
func (a *agent) url() string {
	a.t.Helper()
	var url string
	eventually(a.t, "agent's URL", func() error {
		if lines := a.stdout.lines(); len(lines) > 0 {
			url = strings.TrimSuffix(lines[0], "/")
			return nil
		}
		if err := a.running(); err != nil {
			return err
		}
		return errSilent
	})
	return url
}

// The ports that freeAddr gives lie below those that the kernel gives to
// whoever dials, and start anywhere, so that neither takes one from a test, nor
// does another run of the tests.
var (
	firstPort  = 20_000 + rand.Uint32N(10_000)
	portsGiven atomic.Uint32
)

// freeAddr returns an address of 127.0.0.1 on which nobody listens; it never
// returns the same twice.
func freeAddr(t *testing.T) string {
	t.Helper()
	for {
		addr := fmt.Sprintf("127.0.0.1:%d", firstPort+portsGiven.Add(1))
		ln, err := net.Listen("tcp", addr)
		if err == nil {
			ln.Close()
			return addr
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

func port(addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		panic(err)
	}
	return port
}
