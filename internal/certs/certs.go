// Package certs has a certificate for this name, now.
//
// There are two ways to have one: an [Authority] is a CA of the node's own,
// which signs what is asked for and is trusted by whoever was given its root;
// a [Pair] is a certificate and key in two files that somebody else looks
// after, read again when they change. Both have the method GetCertificate for
// a [crypto/tls.Config]:
//
//	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
//
// Neither starts a goroutine, so there is nothing to stop: work is done inside
// the handshakes that need it. The package does not decide which ALPN, version
// or cipher is spoken, and it does not yet ask a public CA (ACME).
package certs
