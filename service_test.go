package culvert

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// secureService is one with TLS, at a name or in the file system, that offers
// these protocols.
func secureService(t *testing.T, id identity, protos ...string) (target string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, r.Proto)
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{id.cert}, NextProtos: protos},
		ErrorLog:  quiet(),
	}
	if len(protos) == 0 {
		s.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Serve(tls.NewListener(ln, s.TLSConfig))
	}()
	t.Cleanup(func() { s.Close(); <-ended })
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return "https://localhost:" + port
}

// TestSecureService: who is believed to be the service, and what is spoken with
// it.
func TestSecureService(t *testing.T) {
	id, other := newIdentity(t, "localhost"), newIdentity(t, "localhost")
	named := newIdentity(t, "pi.lan")
	self := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(id.cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	self.AddCert(leaf)
	h1, h2, both, none := []string{"http/1.1"}, []string{"h2"}, []string{"h2", "http/1.1"}, []string(nil)
	unknown := func(err error) bool { _, ok := errors.AsType[x509.UnknownAuthorityError](err); return ok }
	another := func(err error) bool { _, ok := errors.AsType[x509.HostnameError](err); return ok }
	speaks := func(p Proto) func(error) bool {
		return func(err error) bool { e, ok := errors.AsType[*ProtoError](err); return ok && e.Want == p }
	}
	for what, tt := range map[string]struct {
		id      identity
		offers  []string
		service Service
		proto   Proto
		want    func(error) bool // nil if it is to work
	}{
		"its CA":                              {id, both, Service{RootCAs: id.roots}, HTTP1, nil},
		"its own certificate":                 {id, both, Service{RootCAs: self}, HTTP1, nil},
		"another's CA":                        {id, both, Service{RootCAs: other.roots}, HTTP1, unknown},
		"the system's CAs":                    {id, both, Service{}, HTTP1, unknown},
		"another name":                        {named, both, Service{RootCAs: named.roots}, HTTP1, another},
		"anything":                            {id, both, Service{Insecure: true}, HTTP1, nil},
		"anything, and another name":          {named, both, Service{Insecure: true}, HTTP1, nil},
		"HTTP/1.1 where nobody says so":       {id, none, Service{RootCAs: id.roots}, HTTP1, nil},
		"HTTP/2":                              {id, both, Service{RootCAs: id.roots}, HTTP2, nil},
		"HTTP/2 from one of HTTP/1.1":         {id, h1, Service{RootCAs: id.roots}, HTTP2, speaks(HTTP2)},
		"HTTP/2 from one without ALPN":        {id, none, Service{RootCAs: id.roots}, HTTP2, speaks(HTTP2)},
		"HTTP/1.1 from one of something else": {id, []string{"smtp"}, Service{RootCAs: id.roots}, HTTP1, speaks(HTTP1)},
		"HTTP/2, and anything for granted":    {named, h2, Service{Insecure: true}, HTTP2, nil},
	} {
		t.Run(what, func(t *testing.T) {
			tt.service.Target = secureService(t, tt.id, tt.offers...)
			d, err := tt.service.dialler()
			if err != nil {
				t.Fatal(err)
			}
			conn, err := d.dial(t.Context(), tt.proto)
			if err == nil {
				conn.Close()
			}
			if tt.want == nil && err != nil || tt.want != nil && (err == nil || !tt.want(err)) {
				t.Errorf("got %v", err)
			}
			if _, ok := errors.AsType[*ServiceError](err); err != nil && !ok {
				t.Errorf("%T is no *ServiceError", err)
			}
		})
	}
}

// TestForwardSecure: bytes pass through a service with TLS, and the HTTP is that
// of the tunnel.
func TestForwardSecure(t *testing.T) {
	id := newIdentity(t, "localhost")
	d := newDoor(t)
	forwarding(t, d, Service{Target: secureService(t, id, "h2", "http/1.1"), RootCAs: id.roots})
	visitor := d.visit(t)
	io.WriteString(visitor, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if got, err := io.ReadAll(visitor); !strings.HasSuffix(string(got), "HTTP/1.1") || err != nil {
		t.Errorf("got %q, %v", got, err)
	}

	d = newDoor(t)
	d.listener.tunnel.Proto = HTTP2
	forwarding(t, d, Service{Target: secureService(t, id, "h2", "http/1.1"), RootCAs: id.roots})
	visitor = d.visit(t)
	io.WriteString(visitor, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	head := make([]byte, 9)
	if _, err := io.ReadFull(visitor, head); err != nil || head[3] != 4 { // SETTINGS: RFC 9113, section 6.5
		t.Errorf("got % x, %v; want the frame with which HTTP/2 begins", head, err)
	}
	visitor.Reset(0)
}

// TestServiceConfig: what cannot be meant is told before anybody is dialled.
func TestServiceConfig(t *testing.T) {
	roots := x509.NewCertPool()
	socket := "unix:" + filepath.Join(t.TempDir(), "app.sock")
	for _, s := range []Service{
		{Target: "3000", RootCAs: roots},
		{Target: "http://pi.lan", Insecure: true},
		{Target: socket, Insecure: true},
		{Target: "https://pi.lan", RootCAs: roots, Insecure: true},
	} {
		err := Forward(t.Context(), newDoor(t), s)
		if e, ok := errors.AsType[*ConfigError](err); !ok || e.Field != "service" {
			t.Errorf("%+v: %v", s, err)
		}
	}
	if err := Forward(t.Context(), newDoor(t), Service{}); err == nil {
		t.Error("a service that is nowhere")
	}
}

// TestUnverified: nobody turns verification off without being told.
func TestUnverified(t *testing.T) {
	var events diary
	agent := &Agent{OnEvent: events.note}
	for _, insecure := range []bool{false, true} {
		l := newListener(agent, Tunnel{Name: "blog"})
		l.Close()
		Forward(t.Context(), l, Service{Target: "https://pi.lan", Insecure: insecure})
	}
	if e := events.of(EventServiceUnverified); len(e) != 1 || e[0].Name != "blog" {
		t.Errorf("events were %+v, want one", e)
	}
}

// TestPlainService: a service without TLS, named as one with it, is no riddle.
func TestPlainService(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	d, err := Service{Target: "https://" + plain.Listener.Addr().String()}.dialler()
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.dial(t.Context(), HTTP1)
	if _, ok := errors.AsType[tls.RecordHeaderError](err); !ok {
		t.Errorf("got %v", err)
	}
}
