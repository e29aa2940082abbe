package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// Request targets arrive as they were sent, byte for byte: whoever cleans
// paths up, or decodes and encodes them again, changes what some service was
// asked for.
func TestTargets(t *testing.T) {
	t.Parallel()
	const targets = 1000
	o := startOrigin(t, nil)
	e := enter(t, "paths", o.target())
	for _, tt := range protos {
		t.Run(tt.name, func(t *testing.T) {
			s := newScore(t, "targets, "+tt.name, targets)
			v := e.speak(t, tt.proto)
			before := len(o.log())
			for i, target := range makeTargets(targets) {
				h, err := v.exchange(e.host, ask{target: target})
				if err != nil || h.status != 200 {
					t.Fatalf("target %d, %q: %+v, %v", i, target, h, err)
				}
				got := o.log()[before+i].target
				if s.add(got == target); got != target {
					t.Errorf("the service was asked for\n%q; want\n%q", got, target)
				}
			}
		})
	}
}

// makeTargets returns n targets in origin form, always the same: first those
// that are known for being changed, then random ones (RFC 9112, section 3.2.1,
// and RFC 3986, section 3.3).
func makeTargets(n int) []string {
	targets := strings.Fields(`/ /? /?? // //a/b /./ /../ /a/../b /a/./b /a//b /a///b/ /%2e%2e/ /%2E /.%2e/x
		/%2f%2F /a%2fb /a%5Cb /%00 /%7e /~ /%41 /%61 /%e2%82%ac /%c3%28 /%ff /a%20b /a+b?c+d /;/;a=b;c
		/a;b/c;d?e;f /:80 /a:b@c /http://example.com/ /https:/x /@ /!$&'()*+,;= /%21%24%26 /-._~ /a?b=c%26d&e=%3D
		/?a=/../b /?q=http://x/?y /?%23 /%3Fa /%23a /a%0d%0aX:%20y /a?%0a //?/ /.// /..;/a /%252e%252e/ /index.html/
		/con /.well-known/a /a?= /a?&& /??a=?`)
	targets = append(targets[:len(targets):len(targets)], "/"+strings.Repeat("a/", 2000), "/?"+strings.Repeat("q=1&", 1500))
	r := rand.New(rand.NewPCG(9112, 3986))
	for len(targets) < n {
		target := "/" + randomPart(r, "/:@")
		if r.IntN(2) == 0 {
			target += "?" + randomPart(r, "/:@?")
		}
		targets = append(targets, target)
	}
	return targets
}

// randomPart returns up to a few dozen pchars and others.
func randomPart(r *rand.Rand, others string) string {
	const unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
	common := unreserved + "!$&'()*+,;=" + others + strings.Repeat("/.", 8)
	var b strings.Builder
	for range r.IntN(40) {
		if r.IntN(6) == 0 {
			format := "%%%02X"
			if r.IntN(2) == 0 {
				format = "%%%02x"
			}
			fmt.Fprintf(&b, format, r.IntN(256))
			continue
		}
		b.WriteByte(common[r.IntN(len(common))])
	}
	return b.String()
}
