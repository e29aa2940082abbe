package edge

import (
	"bytes"
	"net/netip"

	"github.com/culvertd/culvert/internal/h1"
)

// An origin is where a request came from, as far as we know.
type origin struct {
	addr netip.AddrPort // of the visitor; port 0 if a front end hid it, zero if nothing is known
	text []byte         // the address as text; empty if nothing is known
	http bool           // the visitor typed http, not https
}

func originAt(addr netip.AddrPort, http bool) origin {
	o := origin{addr: addr, http: http}
	if ip := addr.Addr(); ip.IsValid() {
		o.text = []byte(ip.String())
	}
	return o
}

// originOf believes what a listed front end says about the visitor, and
// otherwise what the connection says. Only the fields that a front end writes
// itself count: X-Forwarded-For, from its end up to the first address that is
// not a front end's, and the last X-Forwarded-Proto. A visitor can put anything
// before those.
func originOf(peer origin, fields []h1.Field, trusted []netip.Prefix) origin {
	if !contains(trusted, peer.addr.Addr()) {
		return peer
	}
	addr, http := peer.addr, peer.http
	for i := len(fields) - 1; i >= 0; i-- {
		if !bytes.EqualFold(fields[i].Name, nameProto) {
			continue
		}
		_, last := cutLast(fields[i].Value)
		switch {
		case like(last, "https"):
			http = false
		case like(last, "http"):
			http = true
		}
		break
	}
	for i := len(fields) - 1; i >= 0; i-- {
		if !bytes.EqualFold(fields[i].Name, nameFor) { // the front end's spelling, and no other
			continue
		}
		for rest := fields[i].Value; len(rest) > 0; {
			var hop []byte
			rest, hop = cutLast(rest)
			ip, ok := parseHop(string(hop))
			if !ok {
				return originAt(addr, http) // what stands before it was not written by a front end we know
			}
			addr = netip.AddrPortFrom(ip, 0)
			if !contains(trusted, ip) {
				return originAt(addr, http)
			}
		}
	}
	return originAt(addr, http)
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

func cutLast(list []byte) (rest, last []byte) {
	i := bytes.LastIndexByte(list, ',')
	return list[:max(i, 0)], bytes.TrimSpace(list[i+1:])
}

// parseHop reads an address as front ends write it: bare, in brackets, and
// with or without a port.
func parseHop(s string) (netip.Addr, bool) {
	bare := s
	if len(s) > 1 && s[0] == '[' && s[len(s)-1] == ']' {
		bare = s[1 : len(s)-1]
	}
	addr, err := netip.ParseAddr(bare)
	if err != nil {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}, false
		}
		addr = ap.Addr()
	}
	return addr.Unmap().WithZone(""), true
}
