package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvertd/culvert"
)

// One agent may hold several tunnels, all over its one connection.
func TestTwoTunnelsOfOneAgent(t *testing.T) {
	t.Parallel()
	n, blog, wiki := startNode(t), startService(t, "blog"), startService(t, "wiki")
	secret, err := os.ReadFile(n.token("ada"))
	if err != nil {
		t.Fatal(err)
	}
	a := &culvert.Agent{Server: n.server(), Token: strings.TrimSpace(string(secret)), RootCAs: n.roots}
	t.Cleanup(func() { a.Close() })

	for name, s := range map[string]*service{"blog": blog, "wiki": wiki} {
		ln, err := a.Listen(t.Context(), culvert.Tunnel{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- culvert.Forward(t.Context(), ln, culvert.Service{Target: s.target()}) }()
		t.Cleanup(func() { <-done })
	}
	v := n.visitor()
	wantPage(t, v, n.url("blog")+"/", "hello from blog\n")
	wantPage(t, v, n.url("wiki")+"/", "hello from wiki\n")
	v.CloseIdleConnections() // visitor and agent are both this process
	eventually(t, "count the agent's connections", func() error {
		if got := connections(t, self(t), n.addr); got != 1 {
			return fmt.Errorf("two tunnels use %d; want 1", got)
		}
		return nil
	})
}

// What an agent is refused for good ends it, with a line that says why, a hint
// and the documented exit code.
func TestRefusals(t *testing.T) {
	t.Parallel()
	n, s := startNode(t), startService(t, "blog")
	ada, bob := n.token("ada"), n.token("bob")
	n.startAgent(ada, s.target(), "--name", "blog")
	forged := filepath.Join(t.TempDir(), "token")
	os.WriteFile(forged, []byte("cvt_000000000000000000000000000000000000\n"), 0o600)
	narrow := n.token("carol", "--names", "pi-*")

	for _, tt := range []struct {
		name  string
		token string
		flags []string
		says  string
		code  int
	}{
		{"name of another owner", bob, []string{"--name", "blog"}, "taken", 3},
		{"wrong token", forged, []string{"--name", "other"}, "token", 3},
		{"impostor name", ada, []string{"--name", "xn--blg-hoa"}, "hyphen", 3},
		{"reserved name", ada, []string{"--name", "www"}, "reserved", 3},
		{"name outside the token's pattern", narrow, []string{"--name", "blog2"}, "not allowed", 3},
		{"unknown flag", ada, []string{"--nmae", "blog"}, "--nmae", 2},
		{"no such token file", "/does/not/exist", nil, "/does/not/exist", 2},
		{"two targets", ada, []string{"--name", "other", "and-another"}, "", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := n.runAgent(tt.token, s.target(), tt.flags...)
			if code := a.wait(); code != tt.code {
				t.Errorf("exit code %d; want %d", code, tt.code)
			}
			wantComplaint(t, a.process, tt.says)
		})
	}
}

// wantComplaint fails the test unless p, which has ended, kept stdout clean and
// said on stderr what is wrong.
func wantComplaint(t *testing.T, p *process, says string) {
	t.Helper()
	if out := p.stdout.String(); out != "" {
		t.Errorf("stdout is for the URL alone; it has %q", out)
	}
	stderr := p.stderr.String()
	if !strings.Contains(stderr, says) {
		t.Errorf("stderr does not say %q:\n%s", says, stderr)
	}
	if strings.Contains(stderr, "goroutine ") || strings.Contains(stderr, "cvt_") {
		t.Errorf("stderr shows what it should not:\n%s", stderr)
	}
}

// An agent believes no node but the one whose CA it was given.
func TestWrongCA(t *testing.T) {
	t.Parallel()
	n, other, s := startNode(t), startNode(t), startService(t, "blog")
	a := n.runAgent(n.token("ada"), s.target(), "--name", "blog", "--ca", other.ca())
	if code := a.wait(); code != 1 {
		t.Errorf("exit code %d; want 1", code)
	}
	wantComplaint(t, a.process, "certificate")
	if !strings.Contains(a.stderr.String(), "hint: ") {
		t.Errorf("no hint:\n%s", &a.stderr)
	}

	// And a visitor who trusts the one node does not trust the other.
	c, err := tls.Dial("tcp", n.addr, &tls.Config{ServerName: "blog.localhost", RootCAs: other.roots})
	if err == nil {
		c.Close()
		t.Error("a node's certificate passes for another's")
	} else if _, ok := err.(*tls.CertificateVerificationError); !ok {
		t.Errorf("%v; want %T", err, x509.UnknownAuthorityError{})
	}
}

// The owner's second agent takes a name over at once.
func TestOwnerTakesOver(t *testing.T) {
	t.Parallel()
	n, old, renewed := startNode(t), startService(t, "old"), startService(t, "new")
	token := n.token("ada")
	first, url := n.startAgent(token, old.target(), "--name", "blog")
	v := n.visitor()
	wantPage(t, v, url+"/", "hello from old\n")

	_, again := n.startAgent(token, renewed.target(), "--name", "blog")
	if again != url {
		t.Errorf("the second agent has %s; want %s", again, url)
	}
	wantPage(t, v, url+"/", "hello from new\n")
	if code := first.wait(); code == 0 {
		t.Errorf("the first agent lost its name and exits with %d", code)
	}
	wantPage(t, v, url+"/", "hello from new\n")
}

// A name is kept for its owner while the agent is away and across restarts.
func TestNameIsKept(t *testing.T) {
	t.Parallel()
	n, s := startNode(t), startService(t, "blog")
	ada, bob := n.token("ada"), n.token("bob")
	a, _ := n.startAgent(ada, s.target(), "--name", "blog")
	a.stop()
	n.stop()
	n.start()

	stranger := n.runAgent(bob, s.target(), "--name", "blog")
	if code := stranger.wait(); code != 3 {
		t.Errorf("a stranger's agent exits with %d; want 3", code)
	}
	_, url := n.startAgent(ada, s.target(), "--name", "BLOG")
	wantPage(t, n.visitor(), url+"/", "hello from blog\n")
}

// A node that was just installed is open to nobody: no token, no tunnel.
func TestFirstStartIsClosed(t *testing.T) {
	t.Parallel()
	n, s := startNode(t), startService(t, "blog")
	forged := filepath.Join(t.TempDir(), "token")
	os.WriteFile(forged, []byte("cvt_000000000000000000000000000000000000\n"), 0o600)
	a := n.runAgent(forged, s.target(), "--name", "blog")
	if code := a.wait(); code != 3 {
		t.Errorf("exit code %d; want 3", code)
	}
	if !strings.Contains(n.stderr.String(), "token create") {
		t.Errorf("the node does not say how to let somebody in:\n%s", &n.stderr)
	}
}

// An operator takes a token back: its agent is ended within two seconds, for
// good, and its name answers nobody any more.
func TestRevoke(t *testing.T) {
	t.Parallel()
	n, s := startNode(t), startService(t, "blog")
	a, url := n.startAgent(n.token("ada"), s.target(), "--name", "blog")
	v := n.visitor()
	wantPage(t, v, url+"/", "hello from blog\n")

	var tokens []struct{ ID, Owner string }
	if err := json.Unmarshal([]byte(n.admin("token", "list", "--json")), &tokens); err != nil || len(tokens) != 1 {
		t.Fatalf("%v, %v; want one token", tokens, err)
	}
	n.admin("token", "revoke", tokens[0].ID)
	revoked := time.Now()
	if code := a.wait(); code != 3 {
		t.Errorf("exit code %d; want 3", code)
	}
	if took := time.Since(revoked); took > 2*time.Second {
		t.Errorf("the agent held out for %v", took)
	}
	res, _ := get(t, v, url+"/")
	wantRefusal(t, res, http.StatusServiceUnavailable, "tunnel_offline")
}
