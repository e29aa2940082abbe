package edge

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	redirectTimeout  = 10 * time.Second // for a head, and for the next
	maxRedirectHead  = 16 << 10         // bytes
	maxRedirectConns = 1024
)

// ServeRedirect answers whoever comes to ln, by plain HTTP, and closes ln. It
// sends visitors of the domain and of the names under it to https, tells all
// others that there is no such tunnel, and serves nothing else. It returns as
// Serve does.
func (e *Edge) ServeRedirect(ctx context.Context, ln net.Listener) error {
	domain, err := e.check()
	if err != nil {
		ln.Close()
		return err
	}
	plain := &Edge{
		Domain: e.Domain, Visitors: e.Visitors, RedirectPort: e.RedirectPort, Log: e.Log,
		MaxHead: maxRedirectHead, Settings: *redirectSettings(e.settings()),
	}
	g := newGate(ctx, plain, domain, ln)
	g.redirect, g.door.handle, g.door.once = true, g.door.redirect, true
	return e.serve(ctx, g)
}

// redirectSettings are what s means for the redirect.
func redirectSettings(s *Settings) *Settings {
	return &Settings{
		MinRate: s.MinRate, HeadTimeout: redirectTimeout, IdleTimeout: redirectTimeout, Silence: redirectTimeout,
		MaxVisitors: maxRedirectConns,
	}
}

// redirect sends one visitor on to https.
func (d *door) redirect(v *visit) {
	if refused := d.check(v); refused != nil {
		d.refuse(v, *refused, nil)
		return
	}
	host := v.host
	if label, ok := strings.CutSuffix(host, "."+d.domain); host != d.domain && (!ok || strings.Contains(label, ".")) {
		d.refuse(v, noTunnel, nil)
		return
	}
	if p := d.edge.RedirectPort; p != 0 && p != 443 {
		host = fmt.Sprintf("%s:%d", host, p)
	}
	// The method must survive, except where every program agrees that it does
	// anyway (RFC 9110, section 15.4).
	status := http.StatusPermanentRedirect
	if string(v.req.Method) == http.MethodGet || v.isHEAD() {
		status = http.StatusMovedPermanently
	}
	v.answer(status, [][2]string{{"Location", "https://" + host + location(v.req.AppendTarget(nil))}}, nil)
}

// location is a target in a form that is safe to repeat: what does not belong
// in a URL is escaped.
func location(target []byte) string {
	if len(target) == 1 && target[0] == '*' {
		return "/"
	}
	var b bytes.Buffer
	for _, c := range target {
		switch {
		case c <= ' ', c >= 0x7f, strings.IndexByte("\"<>\\^`{|}", c) >= 0:
			fmt.Fprintf(&b, "%%%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
