package edge

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
)

// greetings are the handshakes under way. Whoever makes more of them than
// there is room for loses his own first: when all places are taken, the oldest
// handshake of the source that has most of them is hung up on. Those who are
// served finish within a few round trips and are seldom the oldest.
type greetings struct {
	max int

	mu      sync.Mutex // guards the fields below
	closed  bool
	n       int
	sources map[netip.Prefix]*list.List // of net.Conn, the oldest in front; never empty
}

// enter takes a place for c. The caller calls leave, once, when the handshake
// is over; leave reports whether c was still wanted, and has not been closed.
// If enter returns nil, no more handshakes are wanted and c has been closed.
func (g *greetings) enter(c net.Conn) (leave func() bool) {
	source := sourceOf(c.RemoteAddr())
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		c.Close()
		return nil
	}
	var loser net.Conn
	if g.n >= g.max {
		loser = g.evictLocked()
	}
	of := g.sources[source]
	if of == nil {
		if g.sources == nil {
			g.sources = make(map[netip.Prefix]*list.List)
		}
		of = list.New()
		g.sources[source] = of
	}
	place := of.PushBack(c)
	g.n++
	g.mu.Unlock()

	if loser != nil {
		loser.Close()
	}
	return func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.removeLocked(source, of, place)
	}
}

// evictLocked takes the place of the oldest handshake of the source with the
// most, and returns its conn. It looks at every source, of which there are at
// most max, and only while all places are taken.
func (g *greetings) evictLocked() net.Conn {
	var source netip.Prefix
	var most *list.List
	for s, l := range g.sources {
		if most == nil || l.Len() > most.Len() {
			source, most = s, l
		}
	}
	oldest := most.Front()
	g.removeLocked(source, most, oldest)
	return oldest.Value.(net.Conn)
}

// removeLocked reports whether place was still taken.
func (g *greetings) removeLocked(source netip.Prefix, of *list.List, place *list.Element) bool {
	before := of.Len()
	of.Remove(place) // does nothing if it has been removed before
	if of.Len() == before {
		return false
	}
	g.n--
	if of.Len() == 0 && g.sources[source] == of {
		delete(g.sources, source)
	}
	return true
}

// close hangs up on all handshakes under way and lets nobody enter again.
func (g *greetings) close() {
	g.mu.Lock()
	g.closed = true
	var all []net.Conn
	for _, l := range g.sources {
		for e := l.Front(); e != nil; e = e.Next() {
			all = append(all, e.Value.(net.Conn))
		}
	}
	g.mu.Unlock()
	for _, c := range all {
		c.Close()
	}
}

// sourceOf is what one stranger can be told from another by: an IPv4 address,
// or the 64 bits of an IPv6 address that somebody had to give to him.
func sourceOf(a net.Addr) netip.Prefix {
	ip := addrPort(a).Addr()
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits) // the zero Prefix for an address of another kind
	return p
}

// addrPort gives an IPv4 address as such, however it was mapped, and the zero
// AddrPort for what is not an IP address and port.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap = tcp.AddrPort()
	} else if a != nil {
		ap, _ = netip.ParseAddrPort(a.String())
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
