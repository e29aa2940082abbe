package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"sync"
	"time"
)

// identity is the certificate of all servers here, and the pool that trusts it.
var identity = sync.OnceValues(func() (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"node"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, roots
})

func clientTLS(protocols ...string) *tls.Config {
	_, roots := identity()
	return &tls.Config{RootCAs: roots, ServerName: "node", MinVersion: tls.VersionTLS13, NextProtos: protocols}
}

func serverTLS(protocols ...string) *tls.Config {
	cert, _ := identity()
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: protocols}
}

// handshake makes a TLS 1.3 connection of a and b. When that fails, it closes
// them.
func handshake(a, b net.Conn) (client, server *tls.Conn, err error) {
	limit := time.Now().Add(patience)
	err = errors.Join(a.SetDeadline(limit), b.SetDeadline(limit))
	client, server = tls.Client(a, clientTLS()), tls.Server(b, serverTLS())
	if err == nil {
		done := make(chan error, 1)
		go func() { done <- server.Handshake() }()
		err = errors.Join(client.Handshake(), <-done)
	}
	if err == nil {
		err = errors.Join(a.SetDeadline(time.Time{}), b.SetDeadline(time.Time{}))
	}
	if err != nil {
		a.Close()
		b.Close()
	}
	return client, server, err
}
