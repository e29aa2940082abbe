package edge

import (
	"bufio"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/coder/websocket"

	"github.com/culvertd/culvert/internal/h1"
)

// agentSubprotocol is what an agent's WebSocket carries: the bytes of the
// connection as binary messages, cut anywhere.
const agentSubprotocol = "culvert.1"

// serveNode answers at the node's own host.
func (d *door) serveNode(v *visit) {
	path, _, _ := strings.Cut(string(v.req.AppendTarget(nil)), "?")
	switch {
	case path == "/connect" && d.edge.Agents != nil && isAgent(v):
		d.upgradeAgent(v)
	case path == "/connect", path == "/" && string(v.req.Method) != http.MethodGet && !v.isHEAD():
		d.refuse(v, badRequest, nil)
	case path == "/":
		v.answer(http.StatusOK, [][2]string{
			{"Content-Type", "text/html; charset=utf-8"},
			{"Content-Security-Policy", pagePolicy},
			{"X-Content-Type-Options", "nosniff"},
		}, renderPage(d.domain, "This is a Culvert node. It carries visitors to services that nobody outside can reach.", "culvert"))
	default:
		d.refuse(v, nothingHere, nil)
	}
}

// isAgent reports whether a request to /connect is made as agents make it.
// Browsers are not agents: a page must not reach us with a visitor's address.
func isAgent(v *visit) bool {
	if v.h2 || string(v.req.Method) != http.MethodGet || !like(v.req.Upgrade, "websocket") || v.req.Length != 0 {
		return false
	}
	ours := false
	for i := range v.req.Fields {
		f := &v.req.Fields[i]
		switch {
		case like(f.Name, "origin"):
			return false
		case like(f.Name, "sec-websocket-protocol"):
			ours = ours || listed(f.Value, agentSubprotocol)
		}
	}
	return ours
}

func (d *door) upgradeAgent(v *visit) {
	c := v.visitor.(*h1Visitor)
	ws, err := websocket.Accept(&handshake{c: c, header: make(http.Header)}, c.request(), &websocket.AcceptOptions{
		Subprotocols:    []string{agentSubprotocol},
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil { // Accept has answered
		d.log.Debug("visitor refused", "visit", v.id, "peer", v.from.addr, "err", err)
		return
	}
	var remote net.Addr = net.TCPAddrFromAddrPort(v.from.addr)
	if !v.from.addr.IsValid() {
		remote = nil
	}
	d.leftH1(c)
	// An agent outlives the visits, whose contexts end before it does.
	conn := websocket.NetConn(d.agents, ws, websocket.MessageBinary)
	d.serveAgent(&agentConn{conn, ws, c.raw, remote})
}

// request is the visitor's request as the library for WebSockets wants it.
func (c *h1Visitor) request() *http.Request {
	r := &http.Request{
		Method: string(c.req.Method), URL: &url.URL{Path: "/connect"}, Host: string(c.req.Host),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: make(http.Header),
	}
	for i := range c.req.Fields {
		r.Header.Add(string(c.req.Fields[i].Name), string(c.req.Fields[i].Value))
	}
	return r
}

// A handshake is the answer to an agent's request, as that library makes it.
type handshake struct {
	c      *h1Visitor
	header http.Header
	status int
}

func (h *handshake) Header() http.Header { return h.header }

// WriteHeader writes a 101 at once. What else there is to say is no more than a
// line, and behind it the connection ends.
func (h *handshake) WriteHeader(status int) {
	if h.status != 0 {
		return
	}
	h.status = status
	h.c.last, h.c.begun = true, true
	s := h1.Response{Status: status, Reason: []byte(http.StatusText(status))}
	s.Fields, _ = fieldsOf(nil, h.header)
	h.c.head(&s)
	if status != http.StatusSwitchingProtocols {
		h.c.out.b = append(h.c.out.b, "Connection: close\r\n"...)
	}
	h.c.out.b = h1.AppendEnd(h.c.out.b)
	h.c.flush()
}

func (h *handshake) Write(p []byte) (int, error) {
	h.WriteHeader(http.StatusOK)
	return h.c.conn.Write(p)
}

func (h *handshake) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn := h.c.takeOver()
	return conn, bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn)), nil
}

// An agentConn is an agent's connection inside a WebSocket.
type agentConn struct {
	net.Conn
	ws     *websocket.Conn
	raw    net.Conn // under it
	remote net.Addr // behind a front end, the agent's own; nil if it is not known
}

// NetConn lets the mux tune the socket, and close it when TLS would wait.
func (c *agentConn) NetConn() net.Conn { return c.raw }

func (c *agentConn) RemoteAddr() net.Addr {
	if c.remote != nil {
		return c.remote
	}
	return c.Conn.RemoteAddr()
}

// Close does not wait for the agent to agree: what both have to say about the
// end of the connection, they say inside it.
func (c *agentConn) Close() error { return c.ws.CloseNow() }
