package culvert

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// A Target is where a service is. It comes from [ParseTarget].
type Target struct {
	text    string
	network string   // tcp or unix
	addrs   []string // tried in order
	tls     string   // host that the certificate must be for; empty without TLS
	host    string   // for a Host header
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
		return Target{text: s, network: "unix", addrs: []string{path}, host: "localhost"}, nil
	case !isURL && validPort(s):
		return Target{text: s, network: "tcp", addrs: loopback(s), host: hostHeader("http", "localhost", s)}, nil
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
	t := Target{text: s, network: "tcp", addrs: []string{net.JoinHostPort(host, port)}, host: hostHeader(scheme, host, port)}
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

// hostHeader writes host and port as browsers do (RFC 9110, section 7.2).
func hostHeader(scheme, host, port string) string {
	host = strings.ToLower(host)
	if scheme == "http" && port == "80" || scheme == "https" && port == "443" {
		if strings.Contains(host, ":") {
			return "[" + host + "]"
		}
		return host
	}
	return net.JoinHostPort(host, port)
}

func isNumber(s string) bool { return strings.Trim(s, "0123456789") == "" }

// String is the target as it was written.
func (t Target) String() string { return t.text }

// Host is what a browser would send as Host if it went there by itself:
// without the port that its scheme has anyway, and localhost for this machine
// and for sockets in its file system. It is what to give [Tunnel.HostHeader]
// for services that answer only to hosts they know.
func (t Target) Host() string { return t.host }

// TLS reports whether the service there speaks TLS.
func (t Target) TLS() bool { return t.tls != "" }

// dial returns the first of the addresses that answers, or what the first one
// said.
func (t Target) dial(ctx context.Context) (net.Conn, error) {
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
