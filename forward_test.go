package culvert

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
	"github.com/culvertd/culvert/internal/wire"
	"github.com/culvertd/culvert/mux"
)

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]string{
		"3000":                  "tcp 127.0.0.1:3000 [::1]:3000",
		"localhost:3000":        "tcp 127.0.0.1:3000 [::1]:3000",
		"http://LOCALHOST":      "tcp 127.0.0.1:80 [::1]:80",
		"pi.lan:80":             "tcp pi.lan:80",
		"[::1]:80":              "tcp [::1]:80",
		"http://pi.lan":         "tcp pi.lan:80",
		"http://pi.lan/":        "tcp pi.lan:80",
		"http://pi.lan:8080":    "tcp pi.lan:8080",
		"https://pi.lan":        "tcp pi.lan:443 tls pi.lan",
		"https://[::1]:8443":    "tcp [::1]:8443 tls ::1",
		"unix:/run/app.sock":    "unix /run/app.sock",
		"":                      "no target",
		"0":                     "1 to 65535",
		"65536":                 "1 to 65535",
		"99999999999999999999":  "1 to 65535",
		"-1":                    "want PORT, HOST:PORT",
		"pi.lan":                "want PORT, HOST:PORT",
		"pi.lan:":               "want PORT, HOST:PORT",
		":3000":                 "want PORT, HOST:PORT",
		"pi.lan:x":              "not a host and a port",
		"pi.lan:70000":          "1 to 65535",
		"::1:3000":              "want PORT, HOST:PORT",
		"http://":               "missing",
		"http://:80":            "missing",
		"http://pi.lan:":        "missing",
		"http://pi.lan/app":     "no path",
		"http://pi.lan?a=b":     "no path",
		"http://me:pw@pi.lan":   "no user",
		"ftp://pi.lan":          `unknown scheme "ftp"`,
		"unix:app.sock":         "unix:/PATH",
		"unix:":                 "unix:/PATH",
		"unix:///run/app.sock":  "unix ///run/app.sock",
		"pi lan:80":             "not a host and a port",
		"https://pi.lan:443/ok": "no path",
	} {
		target, err := ParseTarget(in)
		got := strings.Join(append([]string{target.network}, target.addrs...), " ")
		if target.tls != "" {
			got += " tls " + target.tls
		}
		if err != nil {
			got = err.Error()
		} else if target.String() != in {
			t.Errorf("%q: prints as %q", in, target)
		}
		if !strings.Contains(got, want) || err == nil && got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// TestTargetHost: what a browser would send.
func TestTargetHost(t *testing.T) {
	for in, want := range map[string]string{
		"3000":               "localhost:3000",
		"80":                 "localhost",
		"443":                "localhost:443",
		"localhost:3000":     "localhost:3000",
		"http://LOCALHOST":   "localhost",
		"Pi.lan:8080":        "pi.lan:8080",
		"pi.lan:80":          "pi.lan",
		"http://pi.lan:443":  "pi.lan:443",
		"https://pi.lan":     "pi.lan",
		"https://pi.lan:443": "pi.lan",
		"https://pi.lan:80":  "pi.lan:80",
		"http://192.0.2.7":   "192.0.2.7",
		"[::1]:3000":         "[::1]:3000",
		"https://[::1]":      "[::1]",
		"unix:/run/app.sock": "localhost",
	} {
		target, err := ParseTarget(in)
		if err != nil || target.Host() != want {
			t.Errorf("%s: got %q, %v; want %q", in, target.Host(), err, want)
		}
		if err := (Tunnel{HostHeader: target.Host()}).check(); err != nil {
			t.Errorf("%s: %v", in, err)
		}
	}
}

// A door is a listener whose visitors are streams of a mux, as a Listener's
// are, without a node.
type door struct {
	conns    chan net.Conn
	closed   chan struct{}
	agent    *Agent
	listener *Listener // whose conns they are
	remote   *mux.Conn
	ours     *mux.Conn
}

func newDoor(t testing.TB) *door {
	a, b := memnet.Pipe()
	d := &door{
		conns: make(chan net.Conn), closed: make(chan struct{}), agent: &Agent{},
		remote: mux.Server(a, mux.Config{}), ours: mux.Client(b, mux.Config{}),
	}
	d.listener = newListener(d.agent, Tunnel{Name: "blog"})
	d.listener.bound("blog", "https://blog.node.test")
	t.Cleanup(func() { d.remote.Close(); d.ours.Close() })
	return d
}

func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

func (d *door) Close() error {
	select {
	case <-d.closed:
	default:
		close(d.closed)
	}
	return nil
}

func (d *door) Addr() net.Addr { return addr("door") }

// visit opens a stream and hands its other end to Accept.
func (d *door) visit(t testing.TB) *mux.Stream {
	t.Helper()
	stream, err := d.remote.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other, err := d.ours.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.conns <- &Conn{stream: other, listener: d.listener}
	return stream
}

// forwarding runs Forward until the test ends, and wants it to end then.
func forwarding(t testing.TB, ln net.Listener, service Service) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := async(func() (struct{}, error) { return struct{}{}, Forward(ctx, ln, service) })
	stop = func() error {
		cancel()
		_, err := done.wait()
		return err
	}
	t.Cleanup(func() { stop() })
	return stop
}

// TestForward: through a TCP, a Unix and a TLS service, both ways, with a
// half-close in between.
func TestForward(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "app.sock")
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	unix, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	for target, ln := range map[string]net.Listener{tcp.Addr().String(): tcp, "unix:" + socket: unix} {
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() { // an echo that answers only when it has heard all
					all, _ := io.ReadAll(c)
					c.Write(all)
					c.Close()
				}()
			}
		}()
		d := newDoor(t)
		stop := forwarding(t, d, Service{Target: target})
		data := bytes.Repeat([]byte("culvert "), 1<<17)
		visitor := d.visit(t)
		go func() { visitor.Write(data); visitor.CloseWrite() }()
		if got, err := io.ReadAll(visitor); !bytes.Equal(got, data) || err != nil {
			t.Errorf("%s: %d bytes came back, %v", target, len(got), err)
		}
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("Forward returned %v", err)
		}
		ln.Close()
	}
}

// TestServiceIsAway: a service that refuses, or is nobody we know, costs the
// visitor an error with a reason, and the next one nothing.
func TestServiceIsAway(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := ln.Addr().String()
	ln.Close()
	var events diary
	d := newDoor(t)
	d.agent.OnEvent = events.note
	forwarding(t, d, Service{Target: target})
	wantReset(t, "nobody listens", d.visit(t), wire.ServiceRefused)
	if e := events.of(EventServiceFailed); len(e) != 1 || e[0].Name != "blog" || !strings.Contains(e[0].Err.Error(), "refused") {
		t.Errorf("events were %+v", e)
	}

	if ln, err = net.Listen("tcp", target); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	visitor := d.visit(t)
	service, err := ln.Accept()
	if err != nil {
		t.Fatalf("the service is back, and nobody asks it: %v", err)
	}
	io.WriteString(visitor, "?")
	io.ReadFull(service, make([]byte, 1))
	service.(*net.TCPConn).SetLinger(0)
	service.Close()
	wantReset(t, "the service breaks off", visitor, wire.ServiceReset)

	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = quiet()
	untrusted.StartTLS()
	defer untrusted.Close()
	secure := newDoor(t)
	forwarding(t, secure, Service{Target: untrusted.URL})
	wantReset(t, "a certificate that nobody vouches for", secure.visit(t), wire.ServiceRefused)
}

// TestServiceIsSilent: the time to take a connection is bounded.
func TestServiceIsSilent(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // TCP is taken by the kernel, TLS by nobody
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	d, err := Service{Target: "https://" + ln.Addr().String()}.dialler()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = d.dial(ctx, HTTP1)
	if e, ok := errors.AsType[*ServiceError](err); !ok || !e.Timeout {
		t.Errorf("got %v, want a timeout", err)
	}
}

// TestForwardEnds: with the listener, and with what it had begun.
func TestForwardEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	d := newDoor(t)
	stop := forwarding(t, d, Service{Target: ln.Addr().String()})
	visitor := d.visit(t)
	service, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	io.WriteString(visitor, "?")
	io.ReadFull(service, make([]byte, 1))
	stop()
	if _, err := service.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the service saw %v, want a reset", err)
	}
	wantReset(t, "a visitor in flight", visitor, wire.ServiceReset)

	d = newDoor(t)
	d.Close()
	if err := Forward(t.Context(), d, Service{Target: "3000"}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Forward of a closed listener: %v", err)
	}
	if err := Forward(t.Context(), newDoor(t), Service{Target: "nonsense"}); err == nil || !strings.HasPrefix(err.Error(), `target "nonsense"`) {
		t.Errorf("Forward to nonsense: %v", err)
	}
}

// TestAnyListener: a conn that cannot end by halves ends when the service has
// spoken.
func TestAnyListener(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	defer service.Close()
	d := newDoor(t)
	forwarding(t, d, Service{Target: service.URL})
	ours, theirs := net.Pipe()
	d.conns <- theirs
	io.WriteString(ours, "GET / HTTP/1.0\r\n\r\n")
	if got, err := io.ReadAll(ours); !strings.HasSuffix(string(got), "hello") || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
