package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// load reads root and key, or makes what is missing. The key is written first
// and the root last, so that a crash between the two leaves a key without a
// root, to which a new root can be made; nobody was given the old one.
func (a *Authority) load(keyPath string) error {
	keyPEM, err := readIfThere(keyPath)
	if err != nil {
		return err
	}
	a.rootPEM, err = readIfThere(a.path)
	if err != nil {
		return err
	}
	switch {
	case keyPEM == nil && a.rootPEM != nil:
		return errors.New("root.pem is there and key.pem is missing; restore the key, or move root.pem away for a new CA")
	case keyPEM == nil:
		if a.key, err = makeKey(keyPath); err != nil {
			return err
		}
	default:
		if a.key, err = parseKey(keyPEM); err != nil {
			return err
		}
	}
	if a.rootPEM == nil {
		der, err := selfSign(a.key, a.domain, time.Now())
		if err != nil {
			return err
		}
		a.rootPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if err := writeFile(a.path, a.rootPEM, 0o644); err != nil {
			return err
		}
	}
	return a.parseRoot()
}

// parseRoot checks that the root is one we could have made: for this key, for
// this domain, and of today.
func (a *Authority) parseRoot() error {
	block, _ := pem.Decode(a.rootPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return errors.New("root.pem holds no certificate")
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("root.pem: %w", err)
	}
	switch {
	case !a.key.PublicKey.Equal(root.PublicKey):
		return errors.New("root.pem and key.pem do not belong together")
	case !root.IsCA:
		return errors.New("root.pem is not the certificate of a CA")
	case !slices.Equal(root.PermittedDNSDomains, []string{a.domain}):
		return fmt.Errorf("root.pem is for %q, not for %q; move the directory away for a new CA", root.PermittedDNSDomains, a.domain)
	case time.Now().After(root.NotAfter):
		return fmt.Errorf("root.pem expired on %s; move the directory away for a new CA", root.NotAfter.Format(time.DateOnly))
	}
	a.root = root
	return nil
}

func makeKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("key.pem holds no private key")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("key.pem: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("key.pem holds a key of another kind than ECDSA")
	}
	return key, nil
}

// readIfThere returns nil and no error for a file that does not exist.
func readIfThere(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// writeFile puts a whole file in its place or none: what is read after a crash
// is never half of it.
func writeFile(path string, b []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
