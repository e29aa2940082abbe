package edge

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
)

// inRecords sends the first record, which is the ClientHello, in several.
type inRecords struct {
	net.Conn
	size int // of each
	sent bool
}

func (c *inRecords) Write(p []byte) (int, error) {
	if c.sent {
		return c.Conn.Write(p)
	}
	c.sent = true
	length := int(binary.BigEndian.Uint16(p[3:]))
	var b bytes.Buffer
	for hello := p[5 : 5+length]; len(hello) > 0; {
		n := min(c.size, len(hello))
		b.Write(p[:3])
		b.Write(binary.BigEndian.AppendUint16(nil, uint16(n)))
		b.Write(hello[:n])
		hello = hello[n:]
	}
	b.Write(p[5+length:])
	if _, err := (bytewise{c.Conn}).Write(b.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// TestHelloInRecords: however many records a ClientHello comes in, and byte by
// byte at that, it is for the host and the protocol that it says, and never for
// what is usual (TL-02, CVE-2026-32305).
func TestHelloInRecords(t *testing.T) {
	for _, size := range []int{20, 77, 500, 1 << 14} { // crypto/tls has no patience with more than sixteen that bring nothing
		for _, protocol := range []string{"http/1.1", "h2", agentProtocol} {
			t.Run(fmt.Sprintf("%d bytes each, %s", size, protocol), func(t *testing.T) {
				stays := make(agents, 1)
				w := newWorld(t, func(e *Edge) { e.Agents = stays })
				w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, r.Host) }))
				c, err := w.step.dial(w.from)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				tc := tls.Client(&inRecords{Conn: c, size: size}, &tls.Config{RootCAs: w.roots, ServerName: blog, NextProtos: []string{protocol}})
				if err := tc.Handshake(); err != nil {
					t.Fatal(err)
				}
				if got := tc.ConnectionState().NegotiatedProtocol; got != protocol {
					t.Fatalf("spoke %q", got)
				}
				switch protocol {
				case agentProtocol:
					close(within(t, "agent", stays).done)
				case "http/1.1":
					for host, status := range map[string]int{blog: 200, "other." + domain: 421} {
						v := &rawVisitor{t: t, Conn: tc, r: nil}
						fmt.Fprintf(v, "HEAD / HTTP/1.1\r\nHost: %s\r\n\r\n", host)
						b := make([]byte, 4<<10)
						n, _ := tc.Read(b)
						if want := fmt.Sprintf("HTTP/1.1 %d ", status); !bytes.HasPrefix(b[:n], []byte(want)) {
							t.Errorf("%s: got %q", host, b[:n])
						}
					}
				}
			})
		}
	}
}
