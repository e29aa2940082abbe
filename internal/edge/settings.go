package edge

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"
)

// Settings are what an operator may change while an edge runs. Whoever needs
// several of them for one purpose reads them once.
type Settings struct {
	// TrustedProxies are the front ends whose X-Forwarded-For and
	// X-Forwarded-Proto are believed. Nil means that nobody's are.
	TrustedProxies []netip.Prefix

	// MaxVisitors is how many connections of visitors may be open at once, on
	// each listener. When there is one more, the oldest of the source with the
	// most makes room; one more of a trusted proxy is closed. Zero means 16384.
	MaxVisitors int

	// MinRate is how many bytes per second a visitor has to send of a body, or
	// to take of an answer, so as not to be cut off after 25 seconds. Zero
	// means 240; negative means that no one is too slow.
	MinRate int

	// HeadTimeout is the time from the first byte of a request to the end of
	// its head, and from the handshake to the end of the first head. Zero
	// means 10 seconds.
	HeadTimeout time.Duration

	// ServiceTimeout is the time that a service may take from the end of the
	// request to the end of the head of its answer, unless its tunnel has a
	// wish of its own. Zero means 60 seconds; negative means for ever.
	ServiceTimeout time.Duration

	// Silence is how long both sides of a request may be silent while it is
	// passed on, unless its tunnel has a wish of its own. It does not apply to
	// upgraded connections such as WebSockets. Zero means 5 minutes; negative
	// means for ever.
	Silence time.Duration

	// IdleTimeout is how long a visitor's connection may wait for its next
	// request. Zero means 5 minutes; negative means for ever.
	IdleTimeout time.Duration

	// HSTS is how long browsers are told to come by https only (RFC 6797), in
	// whole seconds, with every answer over https and in place of what the
	// service says about it. Zero means that they are told what the service
	// says.
	HSTS time.Duration
}

func (s *Settings) maxVisitors() int           { return cmp.Or(s.MaxVisitors, 16384) }
func (s *Settings) headTimeout() time.Duration { return cmp.Or(s.HeadTimeout, 10*time.Second) }
func (s *Settings) minRate() int               { return max(0, cmp.Or(s.MinRate, 240)) }
func (s *Settings) serviceTimeout() time.Duration {
	return max(0, cmp.Or(s.ServiceTimeout, time.Minute))
}
func (s *Settings) silence() time.Duration     { return max(0, cmp.Or(s.Silence, 5*time.Minute)) }
func (s *Settings) idleTimeout() time.Duration { return max(0, cmp.Or(s.IdleTimeout, 5*time.Minute)) }

// hsts is what the edge says for itself about https; nil for nothing.
func (s *Settings) hsts() []byte {
	if s.HSTS <= 0 {
		return nil
	}
	return fmt.Appendf(nil, "max-age=%d", int(s.HSTS.Seconds()))
}

func (s *Settings) limits() *limits {
	return &limits{
		idle: s.idleTimeout(), head: s.headTimeout(), service: s.serviceTimeout(), silence: s.silence(),
		rate: s.minRate(),
	}
}

// settings are those in force.
func (e *Edge) settings() *Settings {
	if s := e.now.Load(); s != nil {
		return s
	}
	return &e.Settings
}

// Set puts other settings in force, all at once, for what begins from now on:
// connections that are there stay, requests under way keep the limits of their
// services, and connections of HTTP/2 the idle timeout with which they came.
func (e *Edge) Set(s Settings) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now.Store(&s)
	for p := range e.parts { // which only take note
		p.Set(&s)
	}
}

// Set is for the edge to call.
func (g *gate) Set(s *Settings) {
	if g.redirect {
		s = redirectSettings(s)
		g.edge.now.Store(s)
	}
	g.door.set(s)
}
