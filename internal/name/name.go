// Package name decides what a tunnel may be called and what the name of a
// host is, so that every room of the node spells a name in the same way.
//
// A tunnel's name is one label of the public host: "blog" of
// blog.tunnel.example.com. A host is what arrives in a Host header or in the
// server name of a TLS hello. Both leave this package in one canonical
// spelling; two names are the same name exactly when their canonical spellings
// are equal bytes.
//
// The functions are pure and safe for concurrent use; there is nothing to
// stop. The package does not know who owns a name (that is auth) and does not
// translate international names: a browser has already done so, and a tunnel's
// name may not look like the result.
package name

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

const (
	maxLabel = 63  // octets, RFC 1035 section 2.3.4
	maxHost  = 253 // octets without the trailing dot: 255 on the wire

	// shown is how much of a refused name an error repeats.
	shown = 80

	// randomLength letters and digits of base32, the first of them a letter,
	// carry 79 bits: nobody guesses one, and two never meet.
	randomLength = 16
)

// Error says which name was refused and why. Its text is meant to be shown to
// the person who typed the name; it holds no control characters.
type Error struct {
	Name   string // as it was given
	Reason string // what is wrong, and where it helps, what is allowed
}

// Error quotes at most the first 80 bytes of the name.
func (e *Error) Error() string {
	n, cut := e.Name, ""
	if len(n) > shown {
		n, cut = n[:shown], "…"
	}
	return fmt.Sprintf("name %s%s: %s", strconv.QuoteToASCII(n), cut, e.Reason)
}

// Parse gives the canonical spelling of a tunnel's name: lower case, one label
// of letters, digits and hyphens (RFC 1123 section 2.1), 1 to 63 octets. Names
// with hyphens in the third and fourth place are refused because browsers show
// them as something else (RFC 5891 section 4.2.3.1), and so are names that
// visitors or their programs believe to belong to the domain itself. The error
// is always an *Error.
func Parse(s string) (string, error) {
	refuse := func(reason string) (string, error) { return "", &Error{s, reason} }
	if s == "" {
		return refuse("empty; a name is 1 to 63 letters, digits and hyphens")
	}
	if strings.Contains(s, ".") {
		return refuse("holds a dot; a name is one label, without the domain")
	}
	if reason := badLabel(s); reason != "" {
		return refuse(reason)
	}
	if len(s) >= 4 && s[2:4] == "--" {
		return refuse(`hyphens in the third and fourth place, as in "xn--", are not allowed`)
	}
	canonical := lower(s)
	if Reserved(canonical) {
		return refuse("reserved for the node and its domain")
	}
	return canonical, nil
}

// Host gives the canonical spelling of the host in a Host header or in the
// server name of a TLS hello: lower case, without port and without one trailing
// dot. It accepts a name of at least one LDH label, an IPv4 address in four
// decimal parts, and an IPv6 address in brackets, which keeps them. What
// RFC 3986 also calls a host (percent-encoding, user information, underscores,
// other forms of addresses) is refused. The error is always an *Error.
func Host(hostport string) (string, error) {
	refuse := func(reason string) (string, error) { return "", &Error{hostport, reason} }
	host := hostport
	if len(host) > maxHost+len(".:65535") {
		return refuse("longer than 253 octets")
	}
	if strings.HasPrefix(host, "[") {
		end := strings.IndexByte(host, ']')
		if end < 0 {
			return refuse("the bracket is not closed")
		}
		if !portOrNothing(host[end+1:]) {
			return refuse("what follows the address is not a port")
		}
		ip, err := netip.ParseAddr(host[1:end])
		if err != nil || !ip.Is6() || ip.Zone() != "" {
			return refuse("not an IPv6 address")
		}
		return "[" + ip.String() + "]", nil
	}
	if i := strings.IndexByte(host, ':'); i >= 0 {
		if !portOrNothing(host[i:]) {
			return refuse("what follows the host is not a port")
		}
		host = host[:i]
	}
	host = strings.TrimSuffix(host, ".")
	if host == "" {
		return refuse("no host")
	}
	if len(host) > maxHost {
		return refuse("longer than 253 octets")
	}
	last := host
	for label := range strings.SplitSeq(host, ".") {
		if label == "" {
			return refuse("an empty label")
		}
		if reason := badLabel(label); reason != "" {
			return refuse(reason)
		}
		last = label
	}
	if numeric(last) {
		// Every program reads such a host as an address, and each in its own
		// way; there is one spelling that all read alike.
		if ip, err := netip.ParseAddr(host); err != nil || !ip.Is4() {
			return refuse("ends in a number but is not an IPv4 address")
		}
	}
	return lower(host), nil
}

// Random makes a name nobody has had before: 16 lower-case letters and digits,
// a letter first, 79 bits. Parse accepts every one of them as it is.
func Random() string {
	for {
		text := strings.ToLower(rand.Text()) // 26 of base32: a-z and 2-7
		start := strings.IndexFunc(text, func(r rune) bool { return 'a' <= r && r <= 'z' })
		if start >= 0 && len(text)-start >= randomLength {
			return text[start : start+randomLength]
		}
	}
}

// badLabel says what is wrong with s as a label; "" if nothing is.
func badLabel(s string) string {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
		case c >= 0x80:
			return "not ASCII; only letters a to z, digits and hyphens are allowed"
		default:
			return fmt.Sprintf("%q is not allowed; only letters a to z, digits and hyphens are", c)
		}
	}
	switch {
	case len(s) > maxLabel:
		return fmt.Sprintf("%d octets long; 63 are allowed", len(s))
	case s[0] == '-':
		return "starts with a hyphen"
	case s[len(s)-1] == '-':
		return "ends with a hyphen"
	}
	return ""
}

// portOrNothing reports whether s is empty or a colon and a port, which may be
// empty (RFC 3986 section 3.2.3).
func portOrNothing(s string) bool {
	if s == "" {
		return true
	}
	if s[0] != ':' || len(s) > len(":65535") {
		return false
	}
	n := 0
	for _, c := range []byte(s[1:]) {
		if c < '0' || c > '9' {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n <= 65535
}

// numeric reports whether a label is what a browser takes for the last part of
// an IPv4 address: decimal, or hexadecimal after 0x.
func numeric(label string) bool {
	hex := len(label) >= 2 && label[0] == '0' && (label[1] == 'x' || label[1] == 'X')
	if hex {
		label = label[2:]
	}
	for _, c := range []byte(label) {
		if '0' <= c && c <= '9' || hex && ('a' <= c|0x20 && c|0x20 <= 'f') {
			continue
		}
		return false
	}
	return true
}

// lower is strings.ToLower for what is known to be ASCII; it allocates only
// when there is something to change.
func lower(s string) string { return strings.ToLower(s) }
