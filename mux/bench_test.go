package mux_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/culvertd/culvert/mux"
)

// identity is a certificate for "node", and who trusts it.
var identity = sync.OnceValues(func() (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"node"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, roots
})

// tlsPair returns both ends of a TLS 1.3 connection over loopback.
func tlsPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	left, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	right, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	cert, roots := identity()
	c := tls.Client(left, &tls.Config{RootCAs: roots, ServerName: "node"})
	s := tls.Server(right, &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true})
	done := make(chan error)
	go func() { done <- s.Handshake() }()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return c, s
}

func tlsConns(b testing.TB) (*mux.Conn, *mux.Conn) {
	l, r := tlsPair(b)
	c, s := mux.Client(l, mux.Config{}), mux.Server(r, mux.Config{})
	b.Cleanup(func() { c.Close(); s.Close() })
	return c, s
}

// BenchmarkExchange is 64 streams that each ask with 256 bytes and are
// answered with 1,200, over and over.
func BenchmarkExchange(b *testing.B) {
	c, s := tlsConns(b)
	var wg sync.WaitGroup
	const streams = 64
	for i := range streams {
		ours, theirs := open(b, c, s)
		wg.Go(func() {
			defer theirs.Close()
			in, out := make([]byte, 256), make([]byte, 1200)
			for {
				if _, err := io.ReadFull(theirs, in); err != nil {
					return
				}
				theirs.Write(out)
			}
		})
		n := b.N / streams
		if i < b.N%streams {
			n++
		}
		wg.Go(func() {
			defer ours.Close()
			out, in := make([]byte, 256), make([]byte, 1200)
			for range n {
				ours.Write(out)
				if _, err := io.ReadFull(ours, in); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	b.ReportAllocs()
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "exchanges/s")
}

// BenchmarkOpen opens a stream, asks with 512 bytes, is answered with 1 KiB,
// and closes it, 64 at a time.
func BenchmarkOpen(b *testing.B) {
	c, s := tlsConns(b)
	var wg sync.WaitGroup
	go func() {
		for {
			st, err := s.Accept(b.Context())
			if err != nil {
				return
			}
			go func() {
				defer st.Close()
				buf := make([]byte, 1024)
				if _, err := io.ReadFull(st, buf[:512]); err == nil {
					st.Write(buf)
				}
			}()
		}
	}()
	const parallel = 64
	for i := range parallel {
		n := b.N / parallel
		if i < b.N%parallel {
			n++
		}
		wg.Go(func() {
			buf := make([]byte, 1024)
			for range n {
				st, err := c.Open(b.Context())
				if err != nil {
					b.Error(err)
					return
				}
				st.Write(buf[:512])
				if _, err := io.ReadFull(st, buf); err != nil {
					b.Error(err)
				}
				st.Close()
			}
		})
	}
	b.ReportAllocs()
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "opens/s")
}

func BenchmarkBulk1(b *testing.B)  { benchmarkBulk(b, 1) }
func BenchmarkBulk64(b *testing.B) { benchmarkBulk(b, 64) }

// benchmarkBulk moves 64 KiB an operation, shared among streams.
func benchmarkBulk(b *testing.B, streams int) {
	c, s := tlsConns(b)
	var wg sync.WaitGroup
	b.SetBytes(64 << 10)
	for range streams {
		ours, theirs := open(b, c, s)
		wg.Go(func() {
			buf := make([]byte, 64<<10)
			for range max(1, b.N/streams) {
				ours.Write(buf)
			}
			ours.CloseWrite()
		})
		wg.Go(func() {
			buf := make([]byte, 64<<10)
			for {
				if _, err := theirs.Read(buf); err != nil {
					if err != io.EOF {
						b.Error(err)
					}
					return
				}
			}
		})
	}
	b.ReportAllocs()
	wg.Wait()
}
