package certs

import (
	"crypto/tls"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// lookAgain is how long a Pair trusts that its files have not changed.
const lookAgain = time.Second

// A Pair is a certificate chain and its key in two PEM files that others
// write. All methods may be called at once from many goroutines.
type Pair struct {
	certFile, keyFile string
	log               *slog.Logger

	mu     sync.Mutex // guards the fields below; held while the files are read
	cert   *tls.Certificate
	seen   [2]fs.FileInfo // of the files, before they were read last
	looked time.Time
}

// OpenPair reads a certificate and its key. It fails if they cannot be read or
// do not belong together. Nil for log means silence.
func OpenPair(certFile, keyFile string, log *slog.Logger) (*Pair, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Pair{certFile: certFile, keyFile: keyFile, log: log}
	seen, err := p.look()
	if err != nil {
		return nil, err
	}
	cert, err := p.read()
	if err != nil {
		return nil, err
	}
	if end := cert.Leaf.NotAfter; time.Now().After(end) {
		log.Warn("certificate expired", "file", certFile, "expired", end)
	}
	p.cert, p.seen, p.looked = cert, seen, time.Now()
	return p, nil
}

// GetCertificate returns the certificate of the files, whatever name the hello
// holds. At most once a second it looks whether the files have changed, and
// reads them again if so. New files that are broken are reported as a warning,
// once, and the certificate stays what it was.
func (p *Pair) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); now.Sub(p.looked) >= lookAgain {
		p.looked = now
		p.refreshLocked()
	}
	return p.cert, nil
}

func (p *Pair) refreshLocked() {
	seen, err := p.look()
	if same(seen[0], p.seen[0]) && same(seen[1], p.seen[1]) {
		return
	}
	// Files that change after this look and before they are read are noticed
	// by the next look, for what is kept is what was seen first.
	p.seen = seen
	var cert *tls.Certificate
	if err == nil {
		cert, err = p.read()
	}
	if err == nil && time.Now().After(cert.Leaf.NotAfter) {
		err = fmt.Errorf("%s: expired on %s", p.certFile, cert.Leaf.NotAfter.Format(time.DateOnly))
	}
	if err != nil {
		p.log.Warn("certificate not reloaded", "err", err)
		return
	}
	p.cert = cert
	p.log.Info("certificate reloaded", "file", p.certFile, "expires", cert.Leaf.NotAfter)
}

// look returns what the file system says about the files, symbolic links
// followed; all nil if it says that one is missing.
func (p *Pair) look() (seen [2]fs.FileInfo, err error) {
	for i, path := range []string{p.certFile, p.keyFile} {
		if seen[i], err = os.Stat(path); err != nil {
			return [2]fs.FileInfo{}, fmt.Errorf("certificate: %w", err)
		}
	}
	return seen, nil
}

func (p *Pair) read() (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(p.certFile, p.keyFile)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", p.certFile, p.keyFile, err)
	}
	return &cert, nil
}

func same(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == b
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
