package h1

import (
	"net/http"
	"net/netip"
)

// A Form is one of the forms of a target that we take (RFC 9112, section 3.2).
// The authority form is CONNECT's alone.
type Form uint8

const (
	OriginForm   Form = iota // a path, and perhaps a query
	AbsoluteForm             // a whole URI of http or https, as proxies are sent
	AsteriskForm             // "*", with OPTIONS
)

// method takes the method. Those that are refused would change what a
// connection is: into a tunnel, or into one of HTTP/2.
func (p *parser) method(m []byte) error {
	switch string(m) {
	case http.MethodConnect:
		return refuse(p.answer, http.StatusNotImplemented, "CONNECT not supported")
	case "PRI": // RFC 9113, section 3.4
		return refuse(p.answer, http.StatusHTTPVersionNotSupported, "HTTP/2 without its negotiation")
	}
	p.q.Method = m
	return nil
}

// target takes the target, whose characters are those of one.
func (p *parser) target(t []byte) error {
	q := p.q
	q.Target = t
	switch {
	case len(t) == 0:
		return p.refuse("no target")
	case t[0] == '/':
		q.Form = OriginForm
	case len(t) == 1 && t[0] == '*' && string(q.Method) == http.MethodOptions: // section 3.2.4
		q.Form = AsteriskForm
	default:
		authority := schemeEnd(t)
		if authority == 0 {
			return p.refuse("malformed target")
		}
		q.Form, q.rest = AbsoluteForm, authority
		for q.rest < len(t) && t[q.rest] != '/' && t[q.rest] != '?' {
			q.rest++
		}
		if !ValidHost(t[authority:q.rest]) { // user information is an error too: RFC 9110, section 4.2.4
			return p.refuse("malformed authority")
		}
	}
	return nil
}

// schemeEnd returns where the authority of an absolute target begins; 0 if its
// scheme is none of ours.
func schemeEnd(t []byte) int {
	for _, scheme := range [...]string{"http://", "https://"} {
		if hasPrefix(t, scheme) {
			return len(scheme)
		}
	}
	return 0
}

// Scheme is that of a target in absolute form, http or https, as it was sent;
// otherwise nil.
func (q *Request) Scheme() []byte {
	if q.Form != AbsoluteForm {
		return nil
	}
	return q.Target[:schemeEnd(q.Target)-len("://")]
}

// AppendTarget writes the target as an origin server is sent it: in origin
// form, or as an asterisk (RFC 9112, sections 3.2.1 and 3.2.4). All but the
// scheme and the host of an absolute one comes through byte for byte.
func (q *Request) AppendTarget(dst []byte) []byte {
	if q.Form != AbsoluteForm {
		return append(dst, q.Target...)
	}
	rest := q.Target[q.rest:]
	if len(rest) == 0 && string(q.Method) == http.MethodOptions {
		return append(dst, '*')
	}
	if len(rest) == 0 || rest[0] == '?' {
		dst = append(dst, '/')
	}
	return append(dst, rest...)
}

// hostIsTargets says whether Host and the authority of the target are the same,
// but for case and the scheme's default port.
func (q *Request) hostIsTargets() bool {
	authority := schemeEnd(q.Target)
	port := "80"
	if authority == len("https://") {
		port = "443"
	}
	return equalFold(withoutPort(q.Host, port), withoutPort(q.Target[authority:q.rest], port))
}

// withoutPort cuts the port off a valid host if it is empty or the usual one.
func withoutPort(host []byte, usual string) []byte {
	for i := len(host) - 1; i >= 0 && host[i] != ']'; i-- {
		if host[i] == ':' {
			if port := host[i+1:]; len(port) == 0 || string(port) == usual {
				return host[:i]
			}
			break
		}
	}
	return host
}

// ValidHost says whether host is what a Host field may hold: a reg-name, an IPv4
// or, in brackets, an IPv6 address, and perhaps a port (RFC 9110, section 7.2;
// RFC 3986, section 3.2.2). An empty name is none: no URI of http has one (RFC
// 9110, section 4.2.1).
func ValidHost[T ~string | ~[]byte](host T) bool {
	i := 0
	if len(host) > 0 && host[0] == '[' {
		for i < len(host) && host[i] != ']' {
			i++
		}
		if i == len(host) {
			return false
		}
		ip, err := netip.ParseAddr(string(host[1:i]))
		if err != nil || !ip.Is6() || ip.Zone() != "" {
			return false
		}
		i++
	} else {
		for ; i < len(host) && host[i] != ':'; i++ {
			switch c := host[i]; {
			case class[c]&inHost != 0:
			case c == '%' && i+2 < len(host) && class[host[i+1]]&class[host[i+2]]&inHex != 0:
				i += 2
			default:
				return false
			}
		}
	}
	if i == 0 {
		return false
	}
	return i == len(host) || validPort(host[i:])
}

// validPort reads a colon and at most five digits; there may be none.
func validPort[T text](port T) bool {
	if port[0] != ':' || len(port) > len(":65535") {
		return false
	}
	for i := 1; i < len(port); i++ {
		if class[port[i]]&inDigit == 0 {
			return false
		}
	}
	return true
}
