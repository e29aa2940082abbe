package main

import (
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/culvertd/culvert"
)

// serviceFlags are what one can say about a service.
type serviceFlags struct {
	proto    string
	host     string
	ca       string
	insecure bool
	timeout  time.Duration
	silence  time.Duration
}

func (s *serviceFlags) add(f *pflag.FlagSet) {
	f.StringVar(&s.proto, "service-proto", "h1", "what the service speaks, as `h1|h2c|h2`: HTTP/1.1, HTTP/2 without TLS (as most gRPC servers do), or HTTP/2 with TLS")
	f.StringVar(&s.host, "host-header", "keep", "what the service gets as Host, as `keep|service|HOST`: the public one, that of TARGET (for services that answer only to that), or one of your choice")
	f.StringVar(&s.ca, "service-ca", "", "for an https TARGET: trust the CA certificates in this `file`, or the service's own, and no others")
	f.BoolVar(&s.insecure, "service-insecure", false, "for an https TARGET: do not verify who answers there")
	f.DurationVar(&s.timeout, "service-timeout", 0, "how `long` it may take until the service's answer begins, as in 90s; 0 for no limit (default: the node's, 60s unless its operator chose another)")
	f.DurationVar(&s.silence, "silence", 0, "how `long` visitor and service may both be silent in the middle of a request; 0 for no limit (default: the node's, 5m unless its operator chose another)")
}

// read makes of the flags what the package wants. changed reports whether a
// flag was given.
func (s *serviceFlags) read(target string, changed func(flag string) bool) (tunnel culvert.Tunnel, service culvert.Service, err error) {
	at, err := culvert.ParseTarget(target)
	if err != nil {
		return tunnel, service, &usageError{text: err.Error()}
	}
	service = culvert.Service{Target: target, Insecure: s.insecure}
	if tunnel.Proto, err = s.version(at); err != nil {
		return tunnel, service, err
	}
	switch s.host {
	case "":
		return tunnel, service, &usageError{"--host-header is empty", "pass keep, service or a host"}
	case "keep":
	case "service":
		tunnel.HostHeader = at.Host()
	default:
		tunnel.HostHeader = s.host
	}
	if changed("service-timeout") {
		tunnel.ServiceTimeout = limit(s.timeout)
	}
	if changed("silence") {
		tunnel.Silence = limit(s.silence)
	}
	switch {
	case changed("service-ca") && s.ca == "":
		return tunnel, service, &usageError{"--service-ca is empty", "pass a file, or leave it out to trust the CAs of this machine"}
	case s.ca != "" && s.insecure:
		return tunnel, service, &usageError{"--service-ca and --service-insecure contradict each other", "leave one of them out"}
	case s.ca != "" && !at.TLS():
		return tunnel, service, noTLS("--service-ca", target)
	case s.insecure && !at.TLS():
		return tunnel, service, noTLS("--service-insecure", target)
	}
	service.RootCAs, err = readCA("service CA", s.ca, "it is a PEM file, with the lines BEGIN CERTIFICATE and END CERTIFICATE")
	return tunnel, service, err
}

// version reads --service-proto. For the node h2c and h2 are the same; the
// difference is TLS, which the target says as well.
func (s *serviceFlags) version(at culvert.Target) (culvert.Proto, error) {
	switch {
	case s.proto == "h1":
		return culvert.HTTP1, nil
	case s.proto == "h2" && !at.TLS():
		return 0, &usageError{
			fmt.Sprintf("--service-proto h2 is HTTP/2 with TLS, and %s is without", at),
			"pass --service-proto h2c, or name the service with https://",
		}
	case s.proto == "h2c" && at.TLS():
		return 0, &usageError{
			fmt.Sprintf("--service-proto h2c is HTTP/2 without TLS, and %s is with it", at),
			"pass --service-proto h2, or name the service with http://",
		}
	case s.proto == "h2", s.proto == "h2c":
		return culvert.HTTP2, nil
	}
	return 0, &usageError{
		fmt.Sprintf("--service-proto %q is none", s.proto),
		"it is one of h1 (HTTP/1.1), h2c (HTTP/2 without TLS) and h2 (HTTP/2 with TLS)",
	}
}

func noTLS(flag, target string) error {
	return &usageError{
		fmt.Sprintf("%s is for services with TLS, and %s is without", flag, target),
		"name the service with https://, or leave the flag out",
	}
}

// limit is d as the package wants it: somebody wrote 0 and means no limit, which
// there is the default.
func limit(d time.Duration) time.Duration {
	if d <= 0 {
		return -1
	}
	return d
}
