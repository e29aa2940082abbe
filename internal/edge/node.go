package edge

import (
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/coder/websocket"
)

// agentSubprotocol is what an agent's WebSocket carries: the bytes of the
// connection as binary messages, cut anywhere.
const agentSubprotocol = "culvert.1"

// serveNode answers at the node's own host.
func (d *door) serveNode(v *visit, w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/connect":
		if d.edge.Agents == nil || !isAgent(r) {
			d.refuse(v, w, r, badRequest, nil)
			return
		}
		d.upgradeAgent(v, w, r)
	case "/":
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			d.refuse(v, w, r, badRequest, nil)
			return
		}
		d.homePage(w, r)
	default:
		d.refuse(v, w, r, nothingHere, nil)
	}
}

func (d *door) homePage(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	if r.Method == http.MethodGet {
		w.Write(renderPage(d.domain, "This is a Culvert node. It carries visitors to services that nobody outside can reach.", "culvert"))
	}
}

// isAgent reports whether a request to /connect is made as agents make it.
// Browsers are not agents: a page must not reach us with a visitor's address.
func isAgent(r *http.Request) bool {
	var protocols []string
	for _, list := range r.Header["Sec-Websocket-Protocol"] {
		for p := range strings.SplitSeq(list, ",") {
			protocols = append(protocols, strings.TrimSpace(p))
		}
	}
	return r.Method == http.MethodGet && r.ProtoMajor == 1 &&
		strings.EqualFold(r.Header.Get("Upgrade"), "websocket") &&
		slices.Contains(protocols, agentSubprotocol) &&
		r.Header["Origin"] == nil
}

func (d *door) upgradeAgent(v *visit, w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
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
	// An agent outlives the visits, whose contexts end before it does.
	conn := websocket.NetConn(d.agents, ws, websocket.MessageBinary)
	d.serveAgent(&agentConn{conn, ws, visitorConnOf(r.Context()).raw, remote})
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
