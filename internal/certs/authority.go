package certs

import (
	"container/list"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/culvertd/culvert/internal/name"
)

const (
	rootLifetime = 10 * 365 * 24 * time.Hour
	leafLifetime = 7 * 24 * time.Hour
	renewBefore  = 2 * 24 * time.Hour // a leaf with less left is replaced

	// skew is how far in the past a certificate begins, for the sake of
	// clocks that are late.
	skew = time.Hour

	// maxLeaves bounds the cache of leaves. Names come from strangers.
	maxLeaves = 256
)

// An Authority is a CA for one domain and the names directly under it. Its
// root is constrained to that domain (RFC 5280, section 4.2.1.10): whoever
// trusts it trusts it for nothing else. All methods may be called at once from
// many goroutines.
type Authority struct {
	domain   string
	wildcard bool // one leaf for all names, instead of one each
	path     string
	rootPEM  []byte
	root     *x509.Certificate
	key      *ecdsa.PrivateKey // of the root
	leafKey  *ecdsa.PrivateKey // of all leaves; lives as long as the process

	mu     sync.Mutex // guards the fields below; held while a leaf is signed, which takes well under a millisecond
	leaves map[string]*list.Element
	recent *list.List // of *leaf, the one asked for last in front
}

type leaf struct {
	name string
	cert *tls.Certificate
}

// OpenAuthority reads the CA for domain from dir, or makes one there if there
// is none: root.pem, which agents and visitors are given, and key.pem, which
// only the owner of the process may read. A CA that was made for another
// domain, or of which only the root is left, is an error and stays as it is.
func OpenAuthority(dir, domain string) (*Authority, error) {
	domain, err := name.Host(domain)
	if err != nil {
		return nil, fmt.Errorf("internal CA: %w", err)
	}
	a := &Authority{
		domain: domain,
		// Browsers refuse a wildcard directly under a top-level domain, and
		// *.localhost with it.
		wildcard: strings.Contains(domain, "."),
		path:     filepath.Join(dir, "root.pem"),
		leaves:   make(map[string]*list.Element),
		recent:   list.New(),
	}
	if err := a.load(filepath.Join(dir, "key.pem")); err != nil {
		return nil, fmt.Errorf("internal CA in %s: %w", dir, err)
	}
	if a.leafKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	return a, nil
}

// Root returns the CA's certificate in PEM. The caller must not change it.
func (a *Authority) Root() []byte { return a.rootPEM }

// RootPath returns the file that holds what Root returns.
func (a *Authority) RootPath() string { return a.path }

// GetCertificate returns a certificate for the server name of the hello, or
// for the domain itself if the hello has none. For any other name it returns
// nil and no error, which crypto/tls answers with the alert unrecognized_name.
func (a *Authority) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	host := a.domain
	if hello.ServerName != "" {
		var err error
		if host, err = name.Host(hello.ServerName); err != nil || !a.covers(host) {
			return nil, nil
		}
	}
	if a.wildcard {
		host = a.domain
	}
	return a.leaf(host)
}

// covers reports whether host is the domain or directly under it: the names
// that a wildcard would cover, whether we use one or not.
func (a *Authority) covers(host string) bool {
	if host == a.domain {
		return true
	}
	label, ok := strings.CutSuffix(host, "."+a.domain)
	return ok && !strings.Contains(label, ".")
}

func (a *Authority) leaf(host string) (*tls.Certificate, error) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.leaves[host]; e != nil {
		if l := e.Value.(*leaf); now.Before(l.cert.Leaf.NotAfter.Add(-renewBefore)) {
			a.recent.MoveToFront(e)
			return l.cert, nil
		}
		a.forgetLocked(e)
	}
	cert, err := a.sign(host, now)
	if err != nil {
		return nil, fmt.Errorf("sign certificate for %s: %w", host, err)
	}
	a.leaves[host] = a.recent.PushFront(&leaf{host, cert})
	for a.recent.Len() > maxLeaves {
		a.forgetLocked(a.recent.Back())
	}
	return cert, nil
}

func (a *Authority) forgetLocked(e *list.Element) {
	delete(a.leaves, e.Value.(*leaf).name)
	a.recent.Remove(e)
}

func (a *Authority) sign(host string, now time.Time) (*tls.Certificate, error) {
	names := []string{host}
	if a.wildcard {
		names = append(names, "*."+host)
	}
	serial, err := serial()
	if err != nil {
		return nil, err
	}
	end := now.Add(leafLifetime)
	if end.After(a.root.NotAfter) {
		end = a.root.NotAfter
	}
	// The subject stays empty, since a common name holds 64 octets and a host
	// 253; the names are then critical, which crypto/x509 sees to (RFC 5280,
	// section 4.2.1.6).
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             now.Add(-skew),
		NotAfter:              end,
		DNSNames:              names,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}, a.root, a.leafKey.Public(), a.key)
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.leafKey}
	if cert.Leaf, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return cert, nil
}

// selfSign makes the root.
func selfSign(key *ecdsa.PrivateKey, domain string, now time.Time) ([]byte, error) {
	serial, err := serial()
	if err != nil {
		return nil, err
	}
	// The common name is for the eyes of whoever lists trusted roots, and may
	// be cut; the constraints are what counts.
	common := "Culvert CA for " + domain
	if len(common) > 64 {
		common = common[:64]
	}
	root := &x509.Certificate{
		SerialNumber:                serial,
		Subject:                     pkix.Name{CommonName: common},
		NotBefore:                   now.Add(-skew),
		NotAfter:                    now.Add(rootLifetime),
		IsCA:                        true,
		BasicConstraintsValid:       true,
		MaxPathLenZero:              true,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         []string{domain},
		ExcludedIPRanges:            everyAddress(),
	}
	return x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
}

// everyAddress lists what the CA never vouches for.
func everyAddress() []*net.IPNet {
	return []*net.IPNet{
		{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
		{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
	}
}

func serial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}
