package name

import (
	"errors"
	"math"
	"strings"
	"testing"
)

func TestParseGood(t *testing.T) {
	for in, want := range map[string]string{
		"blog":                  "blog",
		"Blog":                  "blog",
		"PI-3":                  "pi-3",
		"a":                     "a",
		"7":                     "7",
		"123":                   "123", // a label of digits is a label
		"0x7f":                  "0x7f",
		"a-b-c":                 "a-b-c",
		"a--b":                  "a--b", // second and third place
		"abc--d":                "abc--d",
		"wwww":                  "wwww", // not reserved
		"xn-a":                  "xn-a",
		strings.Repeat("a", 63): strings.Repeat("a", 63),
	} {
		if got, err := Parse(in); err != nil || got != want {
			t.Errorf("Parse(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestParseBad(t *testing.T) {
	for in, why := range map[string]string{
		"":                               "empty",
		" ":                              "not allowed",
		"a b":                            "not allowed",
		" a":                             "not allowed",
		"a ":                             "not allowed",
		"a\t":                            "not allowed",
		"a\n":                            "not allowed",
		"a\r\nHost: b":                   "not allowed",
		"a\x00":                          "not allowed",
		"\x7f":                           "not allowed",
		"a.b":                            "dot",
		".":                              "dot",
		"a.":                             "dot",
		".a":                             "dot",
		"blog.example.com":               "dot",
		"blog。example":                   "not ASCII", // ideographic full stop
		"-":                              "hyphen",
		"--":                             "hyphen",
		"-a":                             "starts with a hyphen",
		"a-":                             "ends with a hyphen",
		"ab--cd":                         "third and fourth",
		"xn--":                           "ends with a hyphen",
		"xn--bcher-kva":                  "third and fourth",
		"XN--BCHER-KVA":                  "third and fourth",
		"Xn--80ak6aa92e":                 "third and fourth", // аррӏе
		"a_b":                            "not allowed",
		"_acme-challenge":                "not allowed",
		"*":                              "not allowed",
		"pi-*":                           "not allowed",
		"a/b":                            "not allowed",
		"../etc":                         "dot",
		"a\\b":                           "not allowed",
		"a:80":                           "not allowed",
		"a@b":                            "not allowed",
		"a%41":                           "not allowed",
		"a?b":                            "not allowed",
		"a#b":                            "not allowed",
		"a&b":                            "not allowed",
		"a=b":                            "not allowed",
		"a+b":                            "not allowed",
		"a,b":                            "not allowed",
		"a;b":                            "not allowed",
		"a'b":                            "not allowed",
		"a\"b":                           "not allowed",
		"<script>":                       "not allowed",
		"a`b":                            "not allowed",
		"$a":                             "not allowed",
		"a!":                             "not allowed",
		"(a)":                            "not allowed",
		"[::1]":                          "not allowed",
		"{a}":                            "not allowed",
		"a|b":                            "not allowed",
		"a^b":                            "not allowed",
		"~a":                             "not allowed",
		"bücher":                         "not ASCII",
		"аpple":                          "not ASCII", // Cyrillic а
		"ａ":                              "not ASCII", // full width
		"\u212a":                         "not ASCII", // Kelvin sign, folds to k
		"\u017f":                         "not ASCII", // long s, folds to s
		"a\u200bb":                       "not ASCII", // zero width space
		"a\u00adb":                       "not ASCII", // soft hyphen
		"a\u2010b":                       "not ASCII", // another hyphen
		"\u202eblog":                     "not ASCII", // right to left
		"\ufeffblog":                     "not ASCII", // byte order mark
		"blog\xff":                       "not ASCII", // not even UTF-8
		"😀":                              "not ASCII",
		strings.Repeat("a", 64):          "64 octets",
		strings.Repeat("a", 1<<20):       "octets",
		strings.Repeat("-", 63):          "hyphen",
		"www":                            "reserved",
		"WWW":                            "reserved",
		"api":                            "reserved",
		"admin":                          "reserved",
		"mail":                           "reserved",
		"ns":                             "reserved",
		"ns1":                            "reserved",
		"autoconfig":                     "reserved",
		"autodiscover":                   "reserved",
		"wpad":                           "reserved",
		"isatap":                         "reserved",
		"localhost":                      "reserved",
		"culvert":                        "reserved",
		"Node":                           "reserved",
		"connect":                        "reserved",
		"postmaster":                     "reserved",
		"mta-sts":                        "reserved",
		strings.Repeat("a", 62) + "-":    "ends with a hyphen",
		"-" + strings.Repeat("a", 62):    "starts with a hyphen",
		"12--" + strings.Repeat("a", 30): "third and fourth",
	} {
		got, err := Parse(in)
		e, ok := errors.AsType[*Error](err)
		if !ok {
			t.Errorf("Parse(%q) = %q, %v; want an *Error", in, got, err)
			continue
		}
		if !strings.Contains(e.Reason, why) {
			t.Errorf("Parse(%q): %v; want a reason that says %q", in, err, why)
		}
		if got != "" || e.Name != in {
			t.Errorf("Parse(%q) = %q and an error about %q; want no name and an error about the name given", in, got, e.Name)
		}
	}
}

// TestErrorIsSafeToPrint: a refused name reaches terminals and logs.
func TestErrorIsSafeToPrint(t *testing.T) {
	for _, in := range []string{"a\x1b[31m", "a\r\nb", "\u202ea", "\xff", strings.Repeat("é", 1<<16)} {
		_, err := Parse(in)
		text := err.Error()
		if len(text) > 1000 {
			t.Errorf("error about %d bytes is %d long; want it short", len(in), len(text))
		}
		for _, r := range text {
			if r < ' ' || r > '~' && r != '…' {
				t.Errorf("error %q holds %q; want only what is safe to print", text, r)
			}
		}
	}
}

func TestHostGood(t *testing.T) {
	long := strings.Repeat("a.", 126) + "a" // 253
	for in, want := range map[string]string{
		"blog.example.com":         "blog.example.com",
		"BLOG.Example.COM":         "blog.example.com",
		"blog.example.com.":        "blog.example.com",
		"blog.example.com:443":     "blog.example.com",
		"blog.example.com:":        "blog.example.com", // RFC 3986: the port may be empty
		"blog.example.com.:8443":   "blog.example.com",
		"localhost":                "localhost",
		"hello.localhost:8443":     "hello.localhost",
		"xn--bcher-kva.example":    "xn--bcher-kva.example", // an own domain may be one
		"127.0.0.1":                "127.0.0.1",
		"127.0.0.1:8443":           "127.0.0.1",
		"[::1]":                    "[::1]",
		"[::1]:8443":               "[::1]",
		"[2001:DB8:0:0::1]:1":      "[2001:db8::1]",
		"1.2.3.4a":                 "1.2.3.4a",
		"a:0":                      "a",
		"a:65535":                  "a",
		long:                       long,
		long + ".:65535":           long,
		"a.0x":                     "", // browsers read 0x as the number 0
		"3com.example":             "3com.example",
		strings.ToUpper("xyz.a-b"): "xyz.a-b",
	} {
		got, err := Host(in)
		if want == "" {
			if err == nil {
				t.Errorf("Host(%q) = %q; want an error", in, got)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("Host(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestHostBad(t *testing.T) {
	for _, in := range []string{
		"", ".", ":", ":80", "..", "a..b", ".a", "a..", "-a.b", "a-.b", "a.-b", "a_b.c", "*.a", "a b", " a", "a ",
		"a\x00", "a\r\n", "a/b", "a\\b", "a@b", "user:pass@a", "a?b", "a#b", "a%2eb", "a,b", "a;b",
		"a:b", "a:-1", "a:+1", "a:65536", "a:000080", "a:80:80", "a: 80", "a:8 0", "a:٣",
		"bücher.de", "a。b", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "1", "0x7f.1", "0x7f000001", "2130706433", "1.2.3.0x4",
		"::1", "[::1", "[]", "[]:80", "[::1]a", "[::1].", "[::1]:a", "[fe80::1%eth0]", "[127.0.0.1]", "[v1.a]", "[a]",
		"http://a", "a.b/",
		strings.Repeat("a", 64) + ".b", strings.Repeat("a.", 127) + "a", strings.Repeat("a", 1<<20),
	} {
		got, err := Host(in)
		if _, ok := errors.AsType[*Error](err); !ok || got != "" {
			t.Errorf("Host(%q) = %q, %v; want an *Error", in, got, err)
		}
	}
}

func TestRandom(t *testing.T) {
	bits := math.Log2(26) + 5*(randomLength-1)
	if bits < 64 {
		t.Fatalf("a random name carries %.1f bits; want at least 64", bits)
	}
	seen := make(map[string]bool)
	var places [randomLength]map[byte]bool
	for range 5000 {
		n := Random()
		if seen[n] {
			t.Fatalf("%q came twice", n)
		}
		seen[n] = true
		if got, err := Parse(n); err != nil || got != n {
			t.Fatalf("Parse(%q) = %q, %v; want a random name to be canonical", n, got, err)
		}
		if len(n) != randomLength || n[0] < 'a' {
			t.Fatalf("%q; want %d characters, a letter first", n, randomLength)
		}
		for i := range places {
			if places[i] == nil {
				places[i] = make(map[byte]bool)
			}
			places[i][n[i]] = true
		}
	}
	for i, chars := range places {
		if want := 32 - 6*b2i(i == 0); len(chars) != want {
			t.Errorf("place %d held %d different characters in 5000 names; want all %d", i, len(chars), want)
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// FuzzParse: a name has one spelling, and it is a label of a host.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"blog", "Blog", "xn--a", "-a", "\u212a", "www", "a_b", strings.Repeat("a", 64)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		n, err := Parse(in)
		if err != nil {
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Errorf("Parse(%q): %T; want *Error", in, err)
			}
			return
		}
		if again, err := Parse(n); err != nil || again != n {
			t.Errorf("Parse(%q) = %q, but that gives %q, %v", in, n, again, err)
		}
		if !strings.EqualFold(in, n) || len(in) != len(n) {
			t.Errorf("Parse(%q) = %q; want a change of case and no other", in, n)
		}
		host := n + ".example.com"
		if got, err := Host(in + ".EXAMPLE.com.:443"); err != nil || got != host {
			t.Errorf("Host of name %q = %q, %v; want %q", in, got, err, host)
		}
	})
}

// FuzzHost: a host has one spelling, and saying it again with a port, a dot
// or in capitals changes nothing.
func FuzzHost(f *testing.F) {
	for _, s := range []string{"a.b:80", "A.b.", "[::1]:443", "127.0.0.1", "a..b", "a:65536", "[::ffff:1.2.3.4]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		host, err := Host(in)
		if err != nil {
			return
		}
		again := []string{host, host + ":8443", strings.ToUpper(host)}
		if host[0] != '[' {
			again = append(again, host+".")
		}
		for _, s := range again {
			if got, err := Host(s); err != nil || got != host {
				t.Errorf("Host(%q) = %q, but Host(%q) = %q, %v", in, host, s, got, err)
			}
		}
		for _, c := range []byte(host) {
			if c <= ' ' || c >= 0x7f || 'A' <= c && c <= 'Z' || strings.IndexByte("/\\@?#%,;\"'<>", c) >= 0 {
				t.Errorf("Host(%q) = %q holds %q", in, host, c)
			}
		}
	})
}
