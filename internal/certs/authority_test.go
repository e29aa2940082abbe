package certs_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/certs"
)

func open(t *testing.T, dir, domain string) *certs.Authority {
	t.Helper()
	a, err := certs.OpenAuthority(dir, domain)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// certFor is what a visitor who trusts only the root thinks of the certificate
// for a server name.
func certFor(t *testing.T, a *certs.Authority, serverName string) *tls.Certificate {
	t.Helper()
	cert, err := a.GetCertificate(&tls.ClientHelloInfo{ServerName: serverName})
	if err != nil {
		t.Fatalf("%q: %v", serverName, err)
	}
	return cert
}

func verify(a *certs.Authority, cert *tls.Certificate, host string) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.Root())
	_, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host})
	return err
}

func TestAuthorityNames(t *testing.T) {
	for _, test := range []struct {
		domain, asked, valid string
		wildcard             bool
	}{
		{"tunnel.example.com", "blog.tunnel.example.com", "blog.tunnel.example.com", true},
		{"tunnel.example.com", "BLOG.Tunnel.Example.com", "blog.tunnel.example.com", true},
		{"tunnel.example.com", "tunnel.example.com", "tunnel.example.com", true},
		{"tunnel.example.com", "", "tunnel.example.com", true},
		{"localhost", "demo.localhost", "demo.localhost", false},
		{"localhost", "localhost", "localhost", false},
		{"localhost", "", "localhost", false},
	} {
		t.Run(test.domain+"/"+test.asked, func(t *testing.T) {
			a := open(t, t.TempDir(), test.domain)
			cert := certFor(t, a, test.asked)
			if cert == nil {
				t.Fatal("refused")
			}
			if err := verify(a, cert, test.valid); err != nil {
				t.Error(err)
			}
			if got := strings.Contains(fmt.Sprint(cert.Leaf.DNSNames), "*."); got != test.wildcard {
				t.Errorf("names %v; want a wildcard: %v", cert.Leaf.DNSNames, test.wildcard)
			}
			if err := verify(a, cert, "other.example.org"); err == nil {
				t.Error("valid for another domain as well")
			}
		})
	}
}

func TestAuthorityRefuses(t *testing.T) {
	for _, domain := range []string{"tunnel.example.com", "localhost"} {
		a := open(t, t.TempDir(), domain)
		for _, asked := range []string{
			"example.org", "example.com", "com", "x" + domain, "x.y." + domain, "." + domain,
			domain + ".evil.org", "*." + domain, "a_b." + domain, "127.0.0.1", "[::1]", "a\x00." + domain,
		} {
			cert, err := a.GetCertificate(&tls.ClientHelloInfo{ServerName: asked})
			if cert != nil || err != nil {
				t.Errorf("%s: %q: got %v, %v; want neither certificate nor error", domain, asked, cert, err)
			}
		}
	}
}

// TestRefusalIsAnAlert: no certificate and no error is what makes crypto/tls
// say unrecognized_name, and not that something broke here.
func TestRefusalIsAnAlert(t *testing.T) {
	a := open(t, t.TempDir(), "localhost")
	cfg := &tls.Config{GetCertificate: a.GetCertificate}
	_, err := handshake(t, cfg, &tls.Config{ServerName: "example.org"})
	if alert := tls.AlertError(112); err == nil || !strings.Contains(err.Error(), alert.Error()) {
		t.Errorf("got %v; want %v", err, alert)
	}
}

// TestConstraints: whoever trusts the root trusts it for the domain alone,
// even if its key is stolen.
func TestConstraints(t *testing.T) {
	a := open(t, t.TempDir(), "localhost")
	block, _ := pem.Decode(a.Root())
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(root.PermittedDNSDomains); got != "[localhost]" || !root.PermittedDNSDomainsCritical {
		t.Errorf("permitted domains %s, critical %v; want [localhost], true", got, root.PermittedDNSDomainsCritical)
	}
	if len(root.ExcludedIPRanges) != 2 {
		t.Errorf("excluded addresses %v; want all of IPv4 and IPv6", root.ExcludedIPRanges)
	}
	if !root.MaxPathLenZero {
		t.Error("the root could sign for another CA")
	}
}

func TestAuthoritySurvivesRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	before := open(t, dir, "tunnel.example.com")
	after := open(t, dir, "Tunnel.Example.com.")
	if !bytes.Equal(before.Root(), after.Root()) {
		t.Fatal("another root after a restart")
	}
	if err := verify(before, certFor(t, after, "a.tunnel.example.com"), "a.tunnel.example.com"); err != nil {
		t.Errorf("whoever trusted the node before: %v", err)
	}
	onDisk, err := os.ReadFile(after.RootPath())
	if err != nil || !bytes.Equal(onDisk, after.Root()) {
		t.Errorf("root on disk: %v, differs: %v", err, !bytes.Equal(onDisk, after.Root()))
	}
	for file, want := range map[string]os.FileMode{"key.pem": 0o600, "root.pem": 0o644} {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: got %v, %v; want mode %v", file, info.Mode().Perm(), err, want)
		}
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 2 {
		t.Errorf("%d files are left; want root and key alone", len(entries))
	}
}

func TestAuthorityOnDisk(t *testing.T) {
	remove := func(file string) func(string) error {
		return func(dir string) error { return os.Remove(filepath.Join(dir, file)) }
	}
	write := func(file, text string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600) }
	}
	for name, test := range map[string]struct {
		spoil  func(dir string) error
		domain string
		want   string // in the error; "" for none
	}{
		"untouched":            {func(string) error { return nil }, "localhost", ""},
		"crash before root":    {remove("root.pem"), "localhost", ""},
		"key lost":             {remove("key.pem"), "localhost", "key.pem is missing"},
		"another domain":       {func(string) error { return nil }, "example.com", `not for "example.com"`},
		"root is garbage":      {write("root.pem", "x"), "localhost", "holds no certificate"},
		"root is no DER":       {write("root.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "localhost", "root.pem"},
		"key is garbage":       {write("key.pem", "x"), "localhost", "holds no private key"},
		"key is empty":         {write("key.pem", ""), "localhost", "holds no private key"},
		"key is of nobody":     {otherKey, "localhost", "do not belong together"},
		"domain is no host":    {func(string) error { return nil }, "no host", "not allowed"},
		"root is a directory":  {func(d string) error { return rename(d, "root.pem") }, "localhost", "directory"},
		"root has no contents": {write("root.pem", ""), "localhost", "holds no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			open(t, dir, "localhost")
			if err := test.spoil(dir); err != nil {
				t.Fatal(err)
			}
			_, err := certs.OpenAuthority(dir, test.domain)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v want %q", err, test.want)
			}
		})
	}
}

func otherKey(dir string) error {
	other, err := os.MkdirTemp(dir, "other")
	if err != nil {
		return err
	}
	if _, err := certs.OpenAuthority(other, "localhost"); err != nil {
		return err
	}
	return os.Rename(filepath.Join(other, "key.pem"), filepath.Join(dir, "key.pem"))
}

func rename(dir, file string) error {
	if err := os.Remove(filepath.Join(dir, file)); err != nil {
		return err
	}
	return os.Mkdir(filepath.Join(dir, file), 0o755)
}

// TestRenewal: a leaf is the same one until two days before its end, and at no
// moment is a visitor shown one that has ended.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := open(t, t.TempDir(), "localhost")
		first := certFor(t, a, "demo.localhost")
		if certFor(t, a, "demo.localhost") != first {
			t.Error("asked twice, signed twice")
		}
		time.Sleep(5*24*time.Hour - time.Minute)
		if certFor(t, a, "demo.localhost") != first {
			t.Error("renewed with more than two days left")
		}
		time.Sleep(time.Minute)
		second := certFor(t, a, "demo.localhost")
		if second == first {
			t.Error("not renewed with two days left")
		}
		if err := verify(a, second, "demo.localhost"); err != nil {
			t.Error(err)
		}
		if second.PrivateKey != first.PrivateKey {
			t.Error("a key for every leaf")
		}
	})
}

// TestLeavesAreBounded: strangers choose the names.
func TestLeavesAreBounded(t *testing.T) {
	a := open(t, t.TempDir(), "localhost")
	oldest, kept := certFor(t, a, "oldest.localhost"), certFor(t, a, "kept.localhost")
	for i := range 255 {
		certFor(t, a, fmt.Sprintf("n%d.localhost", i))
		if certFor(t, a, "kept.localhost") != kept {
			t.Fatalf("after %d names: the leaf in use was forgotten", i)
		}
	}
	if certFor(t, a, "oldest.localhost") == oldest {
		t.Error("nothing was forgotten after 257 names")
	}
}
