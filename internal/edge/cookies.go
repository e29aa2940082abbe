package edge

import (
	"bytes"
	"strings"
)

// narrowed is the value of a Set-Cookie for host without a Domain that reaches
// beyond it. The hosts next to it under the node's domain are other people's,
// and what one sets there all would be sent (RFC 6265, section 5.3).
//
// Browsers take the last Domain, forgive whitespace, case and a leading dot,
// and some read more into it than ASCII: whatever is not plainly the host's own
// or nothing to do with it goes.
func narrowed(value []byte, host string) []byte {
	if !bytes.ContainsRune(value, ';') {
		return value
	}
	var out []byte
	changed := false
	for i := 0; ; i++ {
		attribute, rest, more := bytes.Cut(value, semicolon)
		if i > 0 && reachesBeyond(attribute, host) {
			changed = true
		} else {
			if i > 0 {
				out = append(out, ';')
			}
			out = append(out, attribute...)
		}
		if !more {
			break
		}
		value = rest
	}
	if !changed {
		return out
	}
	return bytes.TrimRight(out, " \t;")
}

var semicolon = []byte(";")

// reachesBeyond reports whether attribute is a Domain that is, or could be
// taken for, a parent of host.
func reachesBeyond(attribute []byte, host string) bool {
	name, value, _ := strings.Cut(string(attribute), "=")
	if !strings.EqualFold(strings.Trim(name, " \t"), "domain") {
		return false
	}
	domain := strings.ToLower(strings.Trim(value, " \t\""))
	domain = strings.Trim(domain, ".")
	for i := range len(domain) {
		if c := domain[i]; c >= 0x80 || c == '%' {
			return true
		}
	}
	return strings.HasSuffix(host, "."+domain) && domain != ""
}
