package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/culvertd/culvert/internal/edge"
	"github.com/culvertd/culvert/internal/name"
)

// TLS says where certificates come from.
type TLS string

const (
	TLSInternal TLS = "internal" // our own CA, under DATA/ca
	TLSFiles    TLS = "files"    // CertFile and KeyFile, read again when they change
	TLSOff      TLS = "off"      // plain HTTP, behind a front end that terminates TLS
)

// Config describes a node.
type Config struct {
	// Domain is the node's own host; tunnels are names under it. Required.
	Domain string

	// Data is the directory of all that is remembered. Required; created if it
	// is missing, and closed to all but this user. One node at a time has it.
	Data string

	// Listen is where visitors and agents come in. Empty means ":443".
	Listen string

	// HTTP is where visitors are sent on to https. Empty means that nobody is.
	HTTP string

	// TLS says where certificates come from. Empty means TLSInternal.
	TLS TLS

	// CertFile and KeyFile are PEM files, for TLSFiles only.
	CertFile, KeyFile string

	// TrustedProxies are the front ends whose X-Forwarded headers are believed.
	// Nil means nobody's are.
	TrustedProxies []netip.Prefix

	// PublicPort is the port in the URLs that agents are told. Zero means the
	// port of Listen, or 443 behind a front end.
	PublicPort int

	// Drain is how long visitors in flight may take to finish when the node
	// stops. Zero means 30 seconds; negative means no time at all.
	Drain time.Duration

	// Resume is how long the session of an agent is kept that has lost its last
	// connection. Zero means 30 seconds; negative means not at all.
	Resume time.Duration

	// Hold is how long visitors wait for an agent that is expected back, and for
	// how long one is expected. Zero means 10 seconds; negative means that
	// nobody waits.
	Hold time.Duration

	// HoldMax is how many visitors of a name may wait so. Zero means 100;
	// negative means none.
	HoldMax int

	// HeadTimeout is how long a visitor may take for the head of a request.
	// Zero means 10 seconds; it cannot be turned off.
	HeadTimeout time.Duration

	// ServiceTimeout is how long a service may take until the head of its
	// answer is there, unless its tunnel has a wish of its own. Zero means 60
	// seconds; negative means for ever.
	ServiceTimeout time.Duration

	// Silence is how long visitor and service may both be silent while a
	// request is passed on, unless its tunnel has a wish of its own. Zero means
	// 5 minutes; negative means for ever.
	Silence time.Duration

	// IdleTimeout is how long a visitor's connection may wait for its next
	// request. Zero means 5 minutes; negative means for ever.
	IdleTimeout time.Duration

	// MinRate is how many bytes per second a visitor has to send of a body, or
	// to take of an answer, so as not to be cut off after 25 seconds. Zero
	// means 240; negative means that no one is too slow.
	MinRate int

	// HSTS is how long browsers are told to come by https only, in whole
	// seconds. Zero means that they are not told by the node.
	HSTS time.Duration

	// MaxVisitors is how many connections of visitors there may be. Zero means
	// 16384; it cannot be turned off.
	MaxVisitors int

	// Software is what agents and operators are told runs here. Empty means
	// "culvertd".
	Software string

	// Sockets are listeners that are open already; the node closes them. Those
	// that are nil it opens itself, by Listen and HTTP.
	Sockets Sockets

	// AwaitData is called when all is checked that can be without the data
	// directory, and returns when that is free. Nil means that it is.
	AwaitData func(ctx context.Context) error

	// OnReady is called once the node takes visitors and operators. It must not
	// block. Nil means nobody wants to know.
	OnReady func(Ready)

	// OnRevoke is called after a token was revoked, for sessions elsewhere. Nil
	// means that there are none.
	OnRevoke func(token string)

	// Reload and Upgrade do what an operator asks for over the admin socket, as
	// in [admin.Server]. Nil means that he cannot ask.
	Reload  func(ctx context.Context) (changed []string, err error)
	Upgrade func(ctx context.Context, tell func(line string)) error

	// Log receives what happens. Nil means silence.
	Log *slog.Logger
}

// Sockets are the listeners of a node; any may be nil.
type Sockets struct {
	Public   net.Listener // visitors and agents
	Redirect net.Listener // visitors who are to be sent on to https
	Operator net.Listener // the admin socket in the data directory
}

func (s Sockets) close() {
	for _, ln := range []net.Listener{s.Public, s.Redirect, s.Operator} {
		if ln != nil {
			ln.Close()
		}
	}
}

// Ready is what is known of a node only once it runs.
type Ready struct {
	Listen net.Addr // where visitors and agents come in
	HTTP   net.Addr // nil if there is none
	CAFile string   // what visitors and agents must trust; empty unless TLSInternal
	Tokens bool     // whether there is any token: without one, nobody gets a tunnel
}

func (c Config) listen() string       { return cmp.Or(c.Listen, ":443") }
func (c Config) tls() TLS             { return cmp.Or(c.TLS, TLSInternal) }
func (c Config) drain() time.Duration { return max(0, cmp.Or(c.Drain, 30*time.Second)) }
func (c Config) software() string     { return cmp.Or(c.Software, "culvertd") }

// edge is what the edge is told of it.
func (c Config) edge() edge.Settings {
	return edge.Settings{
		TrustedProxies: c.TrustedProxies, HeadTimeout: c.HeadTimeout, ServiceTimeout: c.ServiceTimeout,
		Silence: c.Silence, IdleTimeout: c.IdleTimeout, MinRate: c.MinRate, HSTS: c.HSTS, MaxVisitors: c.MaxVisitors,
	}
}

// ConfigError says which setting is wrong, and why.
type ConfigError struct {
	Field  string // as users spell it: domain, cert, …
	Reason string
	Err    error // what Reason was taken from; nil if it is our own word
}

func (e *ConfigError) Error() string { return e.Field + ": " + e.Reason }
func (e *ConfigError) Unwrap() error { return e.Err }

// ErrRedirect means that it was Config.HTTP where the node could not listen.
var ErrRedirect = errors.New("redirect listener")

// Check gives a *ConfigError for the first setting that cannot work, before
// anything is touched.
func (c Config) Check() error {
	host, err := name.Host(c.Domain)
	switch {
	case c.Domain == "":
		return &ConfigError{Field: "domain", Reason: "missing: say under which domain tunnels are to be found"}
	case err != nil:
		e, _ := errors.AsType[*name.Error](err)
		return &ConfigError{Field: "domain", Reason: fmt.Sprintf("%q: %s", c.Domain, e.Reason)}
	case host != strings.ToLower(c.Domain):
		return &ConfigError{Field: "domain", Reason: fmt.Sprintf("%q: the host alone, without port or dot at the end", c.Domain)}
	case len(host) > 253-64:
		return &ConfigError{Field: "domain", Reason: "too long: names of 63 octets have no room before it"}
	case c.Data == "":
		return &ConfigError{Field: "data", Reason: "missing: say where the node keeps what it must remember"}
	}
	if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return &ConfigError{Field: "domain", Reason: fmt.Sprintf("%s is an address, and names have no place before one", ip)}
	}
	switch c.tls() {
	case TLSFiles:
		if c.CertFile == "" || c.KeyFile == "" {
			return &ConfigError{Field: "tls", Reason: "files needs cert and key"}
		}
	case TLSInternal, TLSOff:
		if c.CertFile != "" || c.KeyFile != "" {
			return &ConfigError{Field: "tls", Reason: fmt.Sprintf("cert and key are given, but tls is %q; it should be files", c.tls())}
		}
	case "acme":
		return &ConfigError{Field: "tls", Reason: "acme is not there yet; use files, internal or off"}
	default:
		return &ConfigError{Field: "tls", Reason: fmt.Sprintf("%q; it is one of files, internal, off", c.TLS)}
	}
	if c.tls() == TLSOff && len(c.TrustedProxies) == 0 {
		return &ConfigError{Field: "tls", Reason: "off needs trusted-proxy: the address of the front end that speaks TLS"}
	}
	if c.tls() == TLSOff && (c.HTTP != "" || c.Sockets.Redirect != nil) {
		return &ConfigError{Field: "http", Reason: "with tls off, sending visitors on to https is the front end's part"}
	}
	if c.tls() != TLSOff && len(c.TrustedProxies) > 0 {
		return &ConfigError{Field: "trusted-proxy", Reason: "is for tls off only: visitors come to this node by themselves"}
	}
	switch {
	case c.HeadTimeout < 0:
		return &ConfigError{Field: "head-timeout", Reason: "must be more than 0: without it, a stranger holds a connection for nothing"}
	case c.MaxVisitors < 0:
		return &ConfigError{Field: "max-visitors", Reason: "must be more than 0: the memory of the node is not without limits either"}
	case c.HSTS < 0 || c.HSTS%time.Second != 0:
		return &ConfigError{Field: "hsts", Reason: fmt.Sprintf("%v: want whole seconds, as in 8760h for a year, or 0 for none", c.HSTS)}
	}
	for field, addr := range map[string]string{"listen": c.listen(), "http": c.HTTP} {
		if addr == "" {
			continue
		}
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			return &ConfigError{Field: field, Reason: fmt.Sprintf("%q: want HOST:PORT or :PORT", addr)}
		}
		if _, err := net.LookupPort("tcp", port); err != nil {
			return &ConfigError{Field: field, Reason: fmt.Sprintf("%q: %q is not a port; they end at 65535", addr, port)}
		}
	}
	return nil
}
