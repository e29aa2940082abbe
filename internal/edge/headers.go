package edge

import (
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/culvertd/culvert/internal/router"
)

// An origin is where a request came from, as far as we know.
type origin struct {
	addr  netip.AddrPort // of the visitor; port 0 if a front end hid it, zero if nothing is known
	proto string         // http or https, as the visitor typed it
}

// originOf believes what a listed front end says about the visitor, and
// otherwise what the connection says. Only the headers that a front end writes
// itself count: X-Forwarded-For, from its end up to the first address that is
// not a front end's, and the last X-Forwarded-Proto. A visitor can put
// anything before those.
func originOf(r *http.Request, trusted []netip.Prefix) origin {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	o := origin{netip.AddrPortFrom(peer.Addr().Unmap().WithZone(""), peer.Port()), "http"}
	if r.TLS != nil {
		o.proto = "https"
	}
	if !contains(trusted, o.addr.Addr()) {
		return o
	}
	switch p := lastElement(r.Header["X-Forwarded-Proto"]); {
	case strings.EqualFold(p, "https"):
		o.proto = "https"
	case strings.EqualFold(p, "http"):
		o.proto = "http"
	}
	hops := r.Header["X-Forwarded-For"]
	for i := len(hops) - 1; i >= 0; i-- {
		for rest := hops[i]; rest != ""; {
			var hop string
			rest, hop = cutLast(rest)
			addr, ok := parseHop(hop)
			if !ok {
				return o // what stands before it was not written by a front end we know
			}
			o.addr = netip.AddrPortFrom(addr, 0)
			if !contains(trusted, addr) {
				return o
			}
		}
	}
	return o
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// lastElement is the last element of a header that is a list.
func lastElement(values []string) string {
	if len(values) == 0 {
		return ""
	}
	_, last := cutLast(values[len(values)-1])
	return last
}

func cutLast(list string) (rest, last string) {
	i := strings.LastIndexByte(list, ',')
	return list[:max(i, 0)], strings.TrimSpace(list[i+1:])
}

// parseHop reads an address as front ends write it: bare, in brackets, and
// with or without a port.
func parseHop(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}, false
		}
		addr = ap.Addr()
	}
	return addr.Unmap().WithZone(""), true
}

// introduce tells the service who is asking. Everything the visitor said about
// that goes first.
func introduce(h http.Header, host, id string, o origin) {
	dropEdgeOwned(h)
	addr := "unknown" // RFC 7239, section 6.2
	if ip := o.addr.Addr(); ip.IsValid() {
		addr = ip.String()
		h["X-Forwarded-For"] = []string{addr}
		if ip.Is6() {
			addr = `"[` + addr + `]"` // RFC 7239, section 6: colons and brackets are quoted
		}
	}
	h["X-Forwarded-Host"] = []string{host}
	h["X-Forwarded-Proto"] = []string{o.proto}
	h["X-Request-Id"] = []string{id}
	// Our own canonical check has left no quotes or backslashes in host.
	h["Forwarded"] = []string{"for=" + addr + `;host="` + host + `";proto=` + o.proto}
}

// dropEdgeOwned removes the headers in which a visitor could speak for us, in
// every spelling that a service might take for the same: CGI and its heirs
// make no difference between a hyphen and an underscore.
func dropEdgeOwned(h http.Header) {
	for key := range h {
		if edgeOwned(key) {
			delete(h, key)
		}
	}
}

func edgeOwned(key string) bool {
	return likePrefix(key, "x-forwarded") || likePrefix(key, "culvert-") ||
		like(key, "forwarded") || like(key, "x-real-ip") || like(key, "x-request-id")
}

func like(key, want string) bool {
	return len(key) == len(want) && likePrefix(key, want)
}

// likePrefix reports whether key begins like want, which is in lower case.
func likePrefix(key, want string) bool {
	if len(key) < len(want) {
		return false
	}
	for i := range len(want) {
		c := key[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case c == '_':
			c = '-'
		}
		if c != want[i] {
			return false
		}
	}
	return true
}

// cleanAnswer removes from a service's answer what only the edge may say:
// where else this host is served, and our own headers.
func cleanAnswer(h http.Header) {
	delete(h, "Alt-Svc")
	for key := range h {
		if likePrefix(key, "culvert-") {
			delete(h, key)
		}
	}
}

// forwardable reports whether the target of a request is one that we can pass
// on as it came (RFC 9112, section 3.2).
func forwardable(r *http.Request) bool {
	t := r.RequestURI
	for i := range len(t) {
		// A fragment is never sent, and what parsers make of one differs.
		if c := t[i]; c <= ' ' || c == 0x7f || c == '#' {
			return false
		}
	}
	switch {
	case r.Method == http.MethodConnect || r.Method == "PRI":
		return false
	case t == "*":
		return r.Method == http.MethodOptions
	case strings.HasPrefix(t, "/"):
		return true
	}
	// Absolute form. net/http has already put its host where Host was, as it
	// must (section 3.2.2), so that routing and checks are about the same host.
	// Behind a front end we do not know which scheme the visitor's was.
	known := r.URL.Scheme == "https" || r.URL.Scheme == "http" && r.TLS == nil
	return r.ProtoMajor == 1 && known && r.URL.User == nil && r.URL.Host != ""
}

// serviceURL is the URL whose request line holds the target as the visitor
// sent it, byte for byte, and whose host is the pool of streams of one stay.
// The epoch takes the place of the port.
func serviceURL(r *http.Request, route router.Route) *url.URL {
	target := r.RequestURI
	if r.URL.Host != "" {
		target = r.URL.RequestURI() // absolute form becomes origin form
	}
	path, query, asked := strings.Cut(target, "?")
	u := &url.URL{
		Scheme:     "http",
		Host:       route.Host + ":" + strconv.FormatUint(route.Epoch, 10),
		RawQuery:   query,
		ForceQuery: asked && query == "",
	}
	if strings.HasPrefix(path, "//") {
		// As an opaque part this would be taken for a host.
		u.Path, u.RawPath = r.URL.Path, path
	} else {
		u.Opaque = path
	}
	return u
}
