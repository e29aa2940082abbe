package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/culvertd/culvert/internal/name"
)

const (
	redirectTimeout  = 10 * time.Second // for a request, and for its answer
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
	log := e.logger()
	var conns tally
	server := &http.Server{
		Handler:        redirector{e, domain, log},
		ReadTimeout:    redirectTimeout,
		WriteTimeout:   redirectTimeout,
		MaxHeaderBytes: maxRedirectHead,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnContext:    withVisitorConn,
		ConnState: func(c net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				if conns.add(1) > maxRedirectConns {
					c.Close()
				}
			case http.StateHijacked, http.StateClosed:
				conns.add(-1)
			}
		},
		DisableGeneralOptionsHandler: true,
	}
	server.SetKeepAlivesEnabled(false)
	if !e.begin(server) {
		return ln.Close()
	}
	defer e.end(server)
	defer context.AfterFunc(ctx, func() { server.Close() })()
	err = server.Serve(ownWordsListener{ctx, ln})
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	} else {
		server.Close()
		err = fmt.Errorf("accept: %w", err)
	}
	conns.wait(context.Background())
	return err
}

// ownWordsListener lets [visitorConn] speak for net/http.
type ownWordsListener struct {
	ctx context.Context
	net.Listener
}

func (l ownWordsListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newVisitorConn(l.ctx, c), nil
}

type redirector struct {
	edge   *Edge
	domain string
	log    *slog.Logger
}

func (d redirector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	visitorConnOf(r.Context()).answering.Store(true)
	id := newVisitID()
	refuse := func(f refusal) {
		d.log.Debug("visitor refused", "visit", id, "tunnel", r.Host, "peer", r.RemoteAddr, "status", f.status, "reason", f.code)
		f.write(w, r, id)
	}
	host, err := name.Host(r.Host)
	if err != nil || !forwardable(r) {
		refuse(badRequest)
		return
	}
	if label, ok := strings.CutSuffix(host, "."+d.domain); host != d.domain && (!ok || strings.Contains(label, ".")) {
		refuse(noTunnel)
		return
	}
	if p := d.edge.RedirectPort; p != 0 && p != 443 {
		host = fmt.Sprintf("%s:%d", host, p)
	}
	// The method must survive, except where every program agrees that it does
	// anyway (RFC 9110, section 15.4).
	status := http.StatusPermanentRedirect
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		status = http.StatusMovedPermanently
	}
	w.Header().Set("Location", "https://"+host+location(r))
	w.WriteHeader(status)
}

// location is the target of a request in a form that is safe to repeat: what
// does not belong in a URL is escaped.
func location(r *http.Request) string {
	target := r.RequestURI
	if r.URL.Host != "" {
		target = r.URL.RequestURI()
	}
	if target == "*" {
		return "/"
	}
	var b strings.Builder
	for i := range len(target) {
		switch c := target[i]; {
		case c <= ' ', c >= 0x7f, strings.IndexByte("\"<>\\^`{|}", c) >= 0:
			fmt.Fprintf(&b, "%%%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
