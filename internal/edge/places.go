package edge

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
)

// places are for connections of strangers, which are bounded. Whoever makes
// more than there is room for loses his own first: when all places are taken,
// the oldest connection of the source that has most of them is hung up on.
type places struct {
	mu      sync.Mutex // guards the fields below
	max     int
	closed  bool
	n       int
	sources map[netip.Prefix]*source
	levels  []*list.List // of *source: levels[i] has those with i+1 conns; the last is never empty
}

// A source is who has places. There is none without conns.
type source struct {
	prefix netip.Prefix
	conns  list.List     // of net.Conn, the oldest in front
	level  *list.Element // in levels[conns.Len()-1]
}

// A place is one that was taken.
type place struct {
	of   *places
	from *source
	at   *list.Element
}

// resize changes how many places there are. Nobody is hung up on for it.
func (p *places) resize(max int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.max = max
}

// enter takes a place for c. The caller leaves it when c has ended, or is
// somebody else's. If enter returns nil, no more are wanted and c has been
// closed.
func (p *places) enter(c net.Conn) *place { return p.take(c, true) }

// queue is enter for those who make nobody leave: a front end has the
// connections of many.
func (p *places) queue(c net.Conn) *place { return p.take(c, false) }

func (p *places) take(c net.Conn, push bool) *place {
	prefix := sourceOf(c.RemoteAddr())
	p.mu.Lock()
	if p.closed || p.n >= p.max && !push {
		p.mu.Unlock()
		c.Close()
		return nil
	}
	var loser net.Conn
	if p.n >= p.max {
		loser = p.evictLocked()
	}
	s := p.sources[prefix]
	if s == nil {
		if p.sources == nil {
			p.sources = make(map[netip.Prefix]*source)
		}
		s = &source{prefix: prefix}
		p.sources[prefix] = s
	}
	p.n++
	taken := &place{p, s, s.conns.PushBack(c)}
	p.moveLocked(s, s.conns.Len()-1)
	p.mu.Unlock()

	if loser != nil {
		loser.Close()
	}
	return taken
}

// leave reports whether the place was still taken: whether the conn has not
// been closed to make room. Leaving twice is harmless.
func (l *place) leave() bool {
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	return l.of.removeLocked(l.from, l.at)
}

// evictLocked takes the place of the oldest conn of a source with the most,
// and returns it.
func (p *places) evictLocked() net.Conn {
	s := p.levels[len(p.levels)-1].Front().Value.(*source)
	oldest := s.conns.Front()
	p.removeLocked(s, oldest)
	return oldest.Value.(net.Conn)
}

// removeLocked reports whether the place was still taken.
func (p *places) removeLocked(s *source, at *list.Element) bool {
	before := s.conns.Len()
	s.conns.Remove(at) // does nothing if it has been removed before
	if s.conns.Len() == before {
		return false
	}
	p.n--
	p.moveLocked(s, before)
	if s.conns.Len() == 0 {
		delete(p.sources, s.prefix)
	}
	return true
}

// moveLocked puts s, which had so many conns before, where it belongs by now.
func (p *places) moveLocked(s *source, before int) {
	if before > 0 {
		p.levels[before-1].Remove(s.level)
	}
	if now := s.conns.Len(); now > 0 {
		if now > len(p.levels) { // by one
			p.levels = append(p.levels, new(list.List))
		}
		s.level = p.levels[now-1].PushBack(s)
	}
	if n := len(p.levels); p.levels[n-1].Len() == 0 { // and not the one below, where s is now
		p.levels = p.levels[:n-1]
	}
}

// close hangs up on all and lets nobody enter again.
func (p *places) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.each(func(c net.Conn) { c.Close() })
}

// each calls f with every connection that has a place.
func (p *places) each(f func(net.Conn)) {
	p.mu.Lock()
	var all []net.Conn
	for _, s := range p.sources {
		for e := s.conns.Front(); e != nil; e = e.Next() {
			all = append(all, e.Value.(net.Conn))
		}
	}
	p.mu.Unlock()
	for _, c := range all {
		f(c)
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
