package culvert

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/culvertd/culvert/internal/wire"
)

// A Transport is a way to carry a session to the node. Both are TLS on the
// same port.
type Transport int

const (
	// TransportAuto offers our own protocol in the TLS handshake (ALPN), and
	// speaks WebSocket when something between us and the node knows nothing of
	// it: a front end that terminates TLS, or a box that inspects it. What
	// worked last is tried first.
	TransportAuto Transport = iota

	// TransportTLS is our protocol in TLS, and nothing else.
	TransportTLS

	// TransportWebSocket is our protocol in binary messages of a WebSocket
	// (RFC 6455), for roads on which only HTTP passes.
	TransportWebSocket
)

// String returns "auto", "tls" or "websocket".
func (t Transport) String() string {
	switch t {
	case TransportTLS:
		return "tls"
	case TransportWebSocket:
		return "websocket"
	}
	return "auto"
}

// A road remembers how the node was reached. It belongs to Agent.run, and a
// copy of it to each session.
type road struct {
	fixed    Transport // what the user wants, if not TransportAuto
	now      Transport // TransportAuto or TransportWebSocket
	failures int       // since now was chosen or has worked
}

func (r *road) choose() Transport {
	if r.fixed != TransportAuto {
		return r.fixed
	}
	return r.now
}

func (r *road) worked() { r.failures = 0 }

// failed notes that an attempt did not come to a session. When the network was
// there and the node was not heard, twice, the other transport has its turn: a
// box may cut a handshake that it does not know, or what follows it. When
// somebody did answer, if only with a refusal, the road is not to blame.
func (r *road) failed(err error) {
	if _, ok := errors.AsType[*unreachableError](err); ok {
		return
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return
	}
	if _, ok := errors.AsType[*RefusedError](err); ok {
		return
	}
	if _, ok := errors.AsType[*statusError](err); ok {
		return
	}
	if r.failures++; r.failures < 2 {
		return
	}
	r.failures = 0
	if r.now == TransportAuto {
		r.now = TransportWebSocket
	} else {
		r.now = TransportAuto
	}
}

// An unreachableError is a TCP connection that did not come to be.
type unreachableError struct{ err error }

func (e *unreachableError) Error() string { return e.err.Error() }
func (e *unreachableError) Unwrap() error { return e.err }

// dial opens a verified connection to the node, ready for a mux.
func (a *Agent) dial(ctx context.Context, how Transport) (net.Conn, Transport, error) {
	host, addr, err := splitServer(a.Server)
	if err != nil {
		return nil, 0, err
	}
	raw, err := a.dialTCP(ctx, addr)
	if err != nil {
		return nil, 0, err
	}
	conn := tls.Client(raw, &tls.Config{
		ServerName: host,
		RootCAs:    a.RootCAs,
		MinVersion: oldest(how),
		NextProtos: protocols(how),
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, 0, err
	}
	switch state := conn.ConnectionState(); {
	case state.NegotiatedProtocol == wire.ALPN && state.Version < tls.VersionTLS13:
		raw.Close()
		return nil, 0, errors.New("the node speaks a TLS older than 1.3")
	case state.NegotiatedProtocol == wire.ALPN:
		return conn, TransportTLS, nil
	case how == TransportTLS:
		raw.Close()
		return nil, 0, fmt.Errorf("the node does not speak %s", wire.ALPN)
	}
	ws, err := upgrade(ctx, conn, addr)
	if err != nil {
		raw.Close()
		return nil, 0, err
	}
	return ws, TransportWebSocket, nil
}

// oldest is the TLS that we still speak. A node has 1.3. A front end need not:
// what Debian 12 calls nginx has only 1.2, unless it is told otherwise.
func oldest(how Transport) uint16 {
	if how == TransportTLS {
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}

func protocols(how Transport) []string {
	switch how {
	case TransportTLS:
		return []string{wire.ALPN}
	case TransportWebSocket:
		return []string{"http/1.1"}
	}
	return []string{wire.ALPN, "http/1.1"}
}

// dialTCP opens the connection below TLS, through a proxy if there is one.
func (a *Agent) dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	dial := a.Dial
	if dial == nil {
		// A first packet that is lost is sent again after one second, and after
		// three; who waits for the one after seven may as well begin anew, with
		// the addresses of then. FallbackDelay is that of RFC 8305, section 5.
		dial = (&net.Dialer{Timeout: 6 * time.Second, FallbackDelay: 250 * time.Millisecond}).DialContext
	}
	var proxy *url.URL
	if a.Proxy != nil {
		var err error
		if proxy, err = a.Proxy(&url.URL{Scheme: "https", Host: addr}); err != nil {
			return nil, fmt.Errorf("choose a proxy: %w", err)
		}
	}
	if proxy != nil {
		return dialThrough(ctx, dial, proxy, addr)
	}
	conn, err := dial(ctx, "tcp", localhost(addr))
	if err != nil {
		return nil, &unreachableError{err}
	}
	return conn, nil
}

// localhost turns names under localhost into localhost, which they are (RFC
// 6761, section 6.3). Browsers and curl do the same; many resolvers do not.
func localhost(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || !strings.HasSuffix(strings.ToLower(host), ".localhost") {
		return addr
	}
	return net.JoinHostPort("localhost", port)
}

// upgrade turns conn into a WebSocket at the node's path. On an error conn is
// still the caller's.
func upgrade(ctx context.Context, conn *tls.Conn, addr string) (net.Conn, error) {
	once := make(chan net.Conn, 1)
	once <- conn
	take := func(context.Context, string, string) (net.Conn, error) {
		select {
		case c := <-once:
			return c, nil
		default:
			return nil, errors.New("the connection is used up")
		}
	}
	web := &http.Client{
		Transport:     &http.Transport{DialTLSContext: take, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	host := strings.TrimSuffix(addr, ":443") // as a browser would spell it
	ws, resp, err := websocket.Dial(ctx, "wss://"+host+wire.Path, &websocket.DialOptions{
		HTTPClient:   web,
		Subprotocols: []string{wire.Subprotocol},
	})
	switch {
	case err != nil && resp != nil && resp.StatusCode != http.StatusSwitchingProtocols:
		seconds, _ := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16)
		return nil, &statusError{wire.Text(resp.Status, 64), time.Duration(seconds) * time.Second}
	case err != nil:
		return nil, fmt.Errorf("WebSocket handshake: %w", err)
	case ws.Subprotocol() != wire.Subprotocol:
		ws.CloseNow()
		return nil, fmt.Errorf("the WebSocket at %s is not a node's", wire.Path)
	}
	return &webConn{
		Conn: websocket.NetConn(context.Background(), ws, websocket.MessageBinary),
		ws:   ws, tcp: conn,
	}, nil
}

// A webConn is a WebSocket that knows its addresses and what it is made of, and
// that closes without waiting for the peer: the mux has said its goodbye
// already.
type webConn struct {
	net.Conn
	ws  *websocket.Conn
	tcp net.Conn
}

func (c *webConn) LocalAddr() net.Addr  { return c.tcp.LocalAddr() }
func (c *webConn) RemoteAddr() net.Addr { return c.tcp.RemoteAddr() }
func (c *webConn) NetConn() net.Conn    { return c.tcp }

func (c *webConn) Close() error {
	err := c.ws.CloseNow()
	c.Conn.Close() // stops its timers
	return err
}

// splitServer reads Agent.Server: HOST, HOST:PORT, or the same behind https://,
// as it stands in a browser. The error is a *ConfigError.
func splitServer(server string) (host, addr string, err error) {
	bad := func(problem string) (string, string, error) {
		return "", "", &ConfigError{"server", fmt.Sprintf("%q: %s", server, problem)}
	}
	rest := strings.TrimSuffix(strings.TrimPrefix(server, "https://"), "/")
	u, err := url.Parse("https://" + rest)
	switch {
	case server == "":
		return "", "", &ConfigError{"server", "none given"}
	case err != nil || u.Host != rest || u.Hostname() == "" || strings.Contains(rest, "@"):
		return bad("want HOST or HOST:PORT")
	case u.Port() == "" && strings.HasSuffix(rest, ":"):
		return bad("no port behind the colon")
	case u.Port() == "":
		return u.Hostname(), net.JoinHostPort(u.Hostname(), "443"), nil
	case !validPort(u.Port()):
		return bad("a port is a number from 1 to 65535")
	}
	return u.Hostname(), net.JoinHostPort(u.Hostname(), u.Port()), nil
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}
