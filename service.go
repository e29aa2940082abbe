package culvert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/culvertd/culvert/internal/relay"
)

// serviceTime is how long a service may take to take a connection, with the
// TLS handshake if there is one.
const serviceTime = 10 * time.Second

// A Service is what visitors want, as [Forward] reaches it. Which HTTP it
// speaks stands in the [Tunnel], since the node has to know that, too.
type Service struct {
	// Target is where the service is, spelled as [ParseTarget] has it. There is
	// no default.
	Target string

	// RootCAs are trusted to sign the certificate of the service, and nobody
	// else is; the certificate of a service that signed its own will do. Nil
	// means those of the system. It is for https targets only.
	RootCAs *x509.CertPool

	// Insecure takes any certificate of an https target for the right one: who
	// can answer in the place of the service gets what visitors send.
	// [EventServiceUnverified] says so each time. False means to verify.
	Insecure bool
}

// A dialler reaches one service.
type dialler struct {
	Service
	target Target
}

// dialler returns an error for what cannot be meant.
func (s Service) dialler() (*dialler, error) {
	t, err := ParseTarget(s.Target)
	switch {
	case err != nil:
		return nil, err
	case t.tls == "" && (s.RootCAs != nil || s.Insecure):
		return nil, &ConfigError{"service", fmt.Sprintf("%s has no certificate to be verified: want an https target", t)}
	case s.RootCAs != nil && s.Insecure:
		return nil, &ConfigError{"service", "want its CAs, or nothing verified at all"}
	}
	return &dialler{s, t}, nil
}

// dial connects to the service, within serviceTime, to speak p with it. The
// error is a [*ServiceError].
func (d *dialler) dial(ctx context.Context, p Proto) (relay.HalfCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, serviceTime)
	defer cancel()
	conn, err := d.target.dial(ctx)
	if err == nil && d.target.tls != "" {
		conn, err = d.handshake(ctx, conn, p)
	}
	if err != nil {
		timeout := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
			timeout = true
		}
		return nil, &ServiceError{Timeout: timeout, Err: err}
	}
	return conn.(relay.HalfCloser), nil // TCP, Unix and TLS conns all are
}

func (d *dialler) handshake(ctx context.Context, conn net.Conn, p Proto) (net.Conn, error) {
	offer := "http/1.1"
	if p == HTTP2 {
		offer = "h2"
	}
	secure := tls.Client(conn, &tls.Config{
		ServerName: d.target.tls, RootCAs: d.RootCAs, InsecureSkipVerify: d.Insecure,
		NextProtos: []string{offer}, MinVersion: tls.VersionTLS12,
	})
	err := secure.HandshakeContext(ctx)
	switch {
	case err != nil && noProtocol(err):
		err = &ProtoError{Want: p}
	case err == nil && p == HTTP2 && secure.ConnectionState().NegotiatedProtocol != offer:
		err = &ProtoError{Want: p} // one that knows no ALPN speaks HTTP/1.1
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}

// noProtocol reports whether the other side ended a handshake because it speaks
// none of what we offered (RFC 7301, section 3.2). crypto/tls does not let us
// see the alert, but for its words, which it has from the same place.
func noProtocol(err error) bool {
	const noApplicationProtocol = tls.AlertError(120)
	e, ok := errors.AsType[*net.OpError](err)
	return ok && e.Op == "remote error" && e.Err.Error() == noApplicationProtocol.Error()
}
