package certs_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/certs"
)

// files are a certificate and a key on disk, as somebody else would put them
// there.
type files struct{ cert, key string }

func newFiles(t *testing.T) files {
	dir := t.TempDir()
	return files{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
}

// put replaces both files, by renaming, and returns the certificate's DER.
func (f files) put(t *testing.T, lifetime time.Duration) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		NotBefore:    now.Add(-24 * time.Hour),
		NotAfter:     now.Add(lifetime),
		DNSNames:     []string{"blog.example.com"},
	}, &x509.Certificate{SerialNumber: big.NewInt(1)}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f.write(t, f.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	f.write(t, f.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	return der
}

func (files) write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestPairFollowsItsFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFiles(t)
		first := f.put(t, 24*time.Hour)
		var log bytes.Buffer
		p, err := certs.OpenPair(f.cert, f.key, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		serves := func(why string, want []byte) {
			t.Helper()
			got, err := p.GetCertificate(&tls.ClientHelloInfo{})
			if err != nil || !bytes.Equal(got.Certificate[0], want) {
				t.Errorf("%s: wrong certificate, or %v", why, err)
			}
		}
		warnings := func(want int) {
			t.Helper()
			if got := strings.Count(log.String(), "level=WARN"); got != want {
				t.Errorf("got %d warnings want %d:\n%s", got, want, &log)
			}
		}
		serves("as opened", first)

		second := f.put(t, 24*time.Hour)
		serves("within a second nobody looks", first)
		time.Sleep(time.Second)
		serves("new files", second)
		warnings(0)

		f.write(t, f.cert, []byte("half a certif"))
		time.Sleep(time.Second)
		serves("a broken file", second)
		time.Sleep(time.Second)
		serves("a broken file, still", second)
		warnings(1)

		os.Remove(f.key)
		time.Sleep(time.Second)
		serves("a missing file", second)
		time.Sleep(time.Second)
		serves("a missing file, still", second)
		warnings(2)

		f.put(t, -time.Hour)
		time.Sleep(time.Second)
		serves("an expired certificate", second)
		warnings(3)

		third := f.put(t, 24*time.Hour)
		time.Sleep(time.Second)
		serves("whole again", third)
		warnings(3)
	})
}

// TestPairBetweenTwoWrites: certificate first, key a little later, with a
// handshake between.
func TestPairBetweenTwoWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, next := newFiles(t), newFiles(t)
		first := f.put(t, time.Hour)
		p, err := certs.OpenPair(f.cert, f.key, nil)
		if err != nil {
			t.Fatal(err)
		}
		second := next.put(t, time.Hour)
		for _, step := range []struct {
			from, to string
			want     []byte
		}{{next.cert, f.cert, first}, {next.key, f.key, second}} {
			if err := os.Rename(step.from, step.to); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			got, err := p.GetCertificate(&tls.ClientHelloInfo{})
			if err != nil || !bytes.Equal(got.Certificate[0], step.want) {
				t.Errorf("after %s: wrong certificate, or %v", filepath.Base(step.to), err)
			}
		}
	})
}

func TestPairRefusesToStart(t *testing.T) {
	f, other := newFiles(t), newFiles(t)
	f.put(t, time.Hour)
	other.put(t, time.Hour)
	for name, pair := range map[string]files{
		"no certificate": {f.cert + "x", f.key},
		"no key":         {f.cert, f.key + "x"},
		"other key":      {f.cert, other.key},
		"swapped":        {f.key, f.cert},
	} {
		if _, err := certs.OpenPair(pair.cert, pair.key, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestRotation: the next handshake after a change gets the new certificate.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFiles(t)
		f.put(t, time.Hour)
		p, err := certs.OpenPair(f.cert, f.key, nil)
		if err != nil {
			t.Fatal(err)
		}
		node := &tls.Config{GetCertificate: p.GetCertificate}
		for range 2 {
			want := f.put(t, time.Hour)
			time.Sleep(time.Second)
			visit, err := handshake(t, node, &tls.Config{ServerName: "blog.example.com", InsecureSkipVerify: true})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(visit.PeerCertificates[0].Raw, want) {
				t.Error("the visitor saw another certificate than the one in the file")
			}
		}
	})
}

// handshake joins the two in memory and returns what the visitor saw.
func handshake(t *testing.T, node, visitor *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	done := make(chan error, 1)
	go func() {
		done <- tls.Server(theirs, node).HandshakeContext(context.Background())
		theirs.Close()
	}()
	c := tls.Client(ours, visitor)
	err := c.HandshakeContext(t.Context())
	ours.Close()
	<-done
	return c.ConnectionState(), err
}
