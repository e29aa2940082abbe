package e2e

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// A webSocket is a visitor who speaks RFC 6455 frame by frame, and writes down
// what he hears, so that two conversations can be compared.
type webSocket struct {
	r     io.Reader
	w     io.Writer
	heard []string
}

// Opcodes (RFC 6455, section 5.2), and the bits beside them.
const (
	wsMore   = 0x0
	wsText   = 0x1
	wsBinary = 0x2
	wsClose  = 0x8
	wsPing   = 0x9
	wsPong   = 0xa

	wsFin        = 0x80
	wsCompressed = 0x40 // RFC 7692, section 6
)

// send writes one frame, masked as visitors must.
func (s *webSocket) send(head byte, payload []byte) {
	s.w.Write(wsFrame(head, 0x80, payload))
}

func wsFrame(head, mask byte, payload []byte) []byte {
	b := []byte{head}
	switch n := len(payload); {
	case n < 126:
		b = append(b, mask|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, mask|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, mask|127), uint64(n))
	}
	if mask == 0 {
		return append(b, payload...)
	}
	key := [4]byte{0x12, 0x34, 0x56, 0x78}
	b = append(b, key[:]...)
	for i, c := range payload {
		b = append(b, c^key[i%4])
	}
	return b
}

// message sends one message in that many frames, compressed if asked to.
func (s *webSocket) message(kind byte, payload []byte, frames int, compressed bool) {
	if compressed {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, flate.DefaultCompression)
		w.Write(payload)
		w.Flush()
		payload = bytes.TrimSuffix(b.Bytes(), []byte{0, 0, 0xff, 0xff}) // RFC 7692, section 7.2.1
		kind |= wsCompressed
	}
	for i := range frames {
		part := payload[i*len(payload)/frames : (i+1)*len(payload)/frames]
		head := byte(wsMore)
		if i == 0 {
			head = kind
		}
		if i == frames-1 {
			head |= wsFin
		}
		s.send(head, part)
	}
}

// hear reads one frame and writes it down; it reports whether there was one.
func (s *webSocket) hear() bool {
	head := make([]byte, 2, 10)
	if _, err := io.ReadFull(s.r, head); err != nil {
		s.heard = append(s.heard, "the end")
		return false
	}
	n := uint64(head[1] & 0x7f)
	if extra := map[uint64]int{126: 2, 127: 8}[n]; extra > 0 {
		b := make([]byte, 8)
		io.ReadFull(s.r, b[8-extra:])
		n = binary.BigEndian.Uint64(b)
	}
	payload := make([]byte, min(n, 4<<20))
	if got, err := io.ReadFull(s.r, payload); err != nil {
		s.heard = append(s.heard, fmt.Sprintf("the end, %d bytes into a frame of %d", got, n))
		return false
	}
	said := fmt.Sprintf("%x", payload)
	if n > 32 {
		said = fmt.Sprintf("%d bytes, SHA-256 %x", n, sha256.Sum256(payload))
	}
	s.heard = append(s.heard, fmt.Sprintf("%02x %s", head[0], said))
	return true
}

// A wsHandshake is what the visitor asks with. The zero value is a good one.
type wsHandshake struct {
	target  string // "" means /
	replace map[string]string
	behind  string // bytes right behind it
}

// bytes writes the handshake for host.
func (h wsHandshake) bytes(host string) string {
	fields := []field{
		{"Host", host}, {"Connection", "Upgrade"}, {"Upgrade", "websocket"},
		{"Sec-WebSocket-Version", "13"}, {"Sec-WebSocket-Key", base64.StdEncoding.EncodeToString([]byte("sixteen bytes...")[:16])},
		{"Origin", "https://" + host}, {"Sec-WebSocket-Protocol", ""}, {"Sec-WebSocket-Extensions", ""},
	}
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\n", orSlash(h.target))
	for _, f := range fields {
		if value, ok := h.replace[f.name]; ok {
			f.value = value
		}
		if f.value != "" {
			fmt.Fprintf(&b, "%s: %s\r\n", f.name, f.value)
		}
	}
	return b.String() + "\r\n" + h.behind
}

func orSlash(target string) string {
	if target == "" {
		return "/"
	}
	return target
}

// openWebSocket makes the handshake on c, and writes down the answer.
func openWebSocket(c net.Conn, host string, h wsHandshake) (s *webSocket, open bool) {
	io.WriteString(c, h.bytes(host))
	v := &speaker1{r: &strictReader{r: c}, c: c}
	answer, err := v.hear("GET")
	s = &webSocket{r: io.MultiReader(bytes.NewReader(v.r.b[v.r.at:]), c), w: c}
	s.heard = append(s.heard, fmt.Sprint(answer.status, " ", answer.body, " ", err))
	for _, name := range []string{"upgrade", "sec-websocket-accept", "sec-websocket-protocol", "sec-websocket-extensions", "sec-websocket-version"} {
		if values := answer.values(name); values != nil {
			s.heard = append(s.heard, fmt.Sprint(name, ": ", values))
		}
	}
	return s, answer.status == http.StatusSwitchingProtocols
}

// serveWebSockets is a service that repeats every message, with what RFC 6455
// and RFC 7692 leave to it, on.
func serveWebSockets(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/nothing" {
		http.NotFound(w, r)
		return
	}
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:         []string{"echo", "parrot"},
		CompressionMode:      websocket.CompressionNoContextTakeover,
		CompressionThreshold: 64,
	})
	if err != nil {
		return // Accept has answered
	}
	defer c.CloseNow()
	c.SetReadLimit(2 << 20)
	if r.URL.Path == "/leave" {
		c.Close(websocket.StatusGoingAway, "out of patience")
		return
	}
	for {
		kind, message, err := c.Read(r.Context())
		if err != nil || c.Write(r.Context(), kind, message) != nil {
			return
		}
	}
}

// wsService runs it, and says where.
func wsService(t *testing.T) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(serveWebSockets)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(ln)
	}()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
	return ln.Addr().String()
}
