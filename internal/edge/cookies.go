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
	attributes := bytes.IndexByte(value, ';')
	if attributes < 0 {
		return value
	}
	wide := false
	for attribute := range bytes.SplitSeq(value[attributes+1:], semicolon) {
		wide = wide || reachesBeyond(attribute, host)
	}
	if !wide {
		return value
	}
	kept := bytes.Clone(value[:attributes])
	for attribute := range bytes.SplitSeq(value[attributes+1:], semicolon) {
		if !reachesBeyond(attribute, host) {
			kept = append(append(kept, ';'), attribute...)
		}
	}
	return bytes.TrimRight(kept, " \t;")
}

var semicolon = []byte(";")

// reachesBeyond reports whether attribute is a Domain that is, or could be
// taken for, a parent of host.
func reachesBeyond(attribute []byte, host string) bool {
	name, value, _ := bytes.Cut(attribute, equals)
	if name = bytes.Trim(name, " \t"); !bytes.EqualFold(name, nameDomain) {
		return false
	}
	domain := strings.Trim(strings.ToLower(string(bytes.Trim(value, " \t\""))), ".")
	for i := range len(domain) {
		if c := domain[i]; c >= 0x80 || c == '%' {
			return true
		}
	}
	return domain != "" && strings.HasSuffix(host, "."+domain)
}

var (
	equals     = []byte("=")
	nameDomain = []byte("domain")
)
