package culvert

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/culvertd/culvert/internal/relay"
)

// serviceTime is how long a service may take to take a connection, with the
// TLS handshake if there is one.
const serviceTime = 10 * time.Second

// A Target is where a service is. It comes from [ParseTarget].
type Target struct {
	text    string
	network string   // tcp or unix
	addrs   []string // tried in order
	tls     string   // host that the certificate must be for; empty without TLS
}

// ParseTarget reads one of
//
//	3000                      port 3000 of this machine
//	host:port                 a service that speaks HTTP there
//	http://host[:port]        the same; the port is 80 if there is none
//	https://host[:port]       a service that speaks TLS, whose certificate is verified; 443
//	unix:/path                a socket in the file system
//
// Of this machine (a port alone, or localhost) both loopback addresses are
// tried, IPv4 first: development servers listen on either.
func ParseTarget(s string) (Target, error) {
	bad := func(format string, args ...any) (Target, error) {
		return Target{}, fmt.Errorf("target %q: %s", s, fmt.Sprintf(format, args...))
	}
	scheme, rest, isURL := strings.Cut(s, "://")
	switch {
	case s == "":
		return Target{}, errors.New("no target")
	case strings.HasPrefix(s, "unix:"):
		path := strings.TrimPrefix(s, "unix:")
		if !strings.HasPrefix(path, "/") || strings.ContainsRune(path, 0) {
			return bad("want unix:/PATH, from the root")
		}
		return Target{text: s, network: "unix", addrs: []string{path}}, nil
	case !isURL && validPort(s):
		return Target{text: s, network: "tcp", addrs: loopback(s)}, nil
	case !isURL && isNumber(s):
		return bad("a port is a number from 1 to 65535")
	case !isURL:
		scheme, rest = "http", s
		if host, port, err := net.SplitHostPort(s); err != nil || host == "" || port == "" {
			return bad("want PORT, HOST:PORT, http://HOST[:PORT], https://HOST[:PORT] or unix:/PATH")
		}
	case scheme != "http" && scheme != "https":
		return bad("unknown scheme %q; want http, https or unix", scheme)
	}
	rest = strings.TrimSuffix(rest, "/")
	u, err := url.Parse(scheme + "://" + rest)
	if err != nil {
		return bad("not a host and a port")
	}
	host, port := u.Hostname(), u.Port()
	switch {
	case u.User != nil:
		return bad("a target has no user")
	case u.Host != rest:
		return bad("a target has no path; visitors choose it")
	case host == "" || strings.HasSuffix(rest, ":"):
		return bad("host or port is missing")
	case port == "" && scheme == "http":
		port = "80"
	case port == "":
		port = "443"
	case !validPort(port):
		return bad("a port is a number from 1 to 65535")
	}
	t := Target{text: s, network: "tcp", addrs: []string{net.JoinHostPort(host, port)}}
	if strings.EqualFold(host, "localhost") {
		t.addrs = loopback(port)
	}
	if scheme == "https" {
		t.tls = host
	}
	return t, nil
}

// loopback is this machine, without asking a name server who that is.
func loopback(port string) []string {
	return []string{net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("::1", port)}
}

func isNumber(s string) bool { return strings.Trim(s, "0123456789") == "" }

// String is the target as it was written.
func (t Target) String() string { return t.text }

// dial connects to the service, within serviceTime. The error is a
// [*ServiceError].
func (t Target) dial(ctx context.Context) (relay.HalfCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, serviceTime)
	defer cancel()
	conn, err := t.dialAny(ctx)
	if err == nil && t.tls != "" {
		conn, err = t.handshake(ctx, conn)
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

// dialAny returns the first of the addresses that answers, or what the first
// one said.
func (t Target) dialAny(ctx context.Context) (net.Conn, error) {
	var first error
	for _, addr := range t.addrs {
		var d net.Dialer
		conn, err := d.DialContext(ctx, t.network, addr)
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

func (t Target) handshake(ctx context.Context, conn net.Conn) (net.Conn, error) {
	secure := tls.Client(conn, &tls.Config{ServerName: t.tls, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12})
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}
