package edge

import (
	"crypto/tls"
	"io"
	"testing"
)

// TestExtendedConnectIsOffered: net/http was told in time; see package xconnect.
func TestExtendedConnectIsOffered(t *testing.T) {
	w := newWorld(t, nil)
	c, err := w.step.dial(w.from)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn := tls.Client(c, &tls.Config{RootCAs: w.roots, ServerName: blog, NextProtos: []string{"h2"}})
	io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	var head [9]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		t.Fatal(err)
	}
	settings := make([]byte, int(head[1])<<8|int(head[2]))
	if _, err := io.ReadFull(conn, settings); err != nil {
		t.Fatal(err)
	}
	const enableConnect = 8 // RFC 8441, section 3
	for ; len(settings) >= 6; settings = settings[6:] {
		if settings[1] == enableConnect && settings[5] == 1 {
			return
		}
	}
	t.Error("SETTINGS_ENABLE_CONNECT_PROTOCOL is not 1")
}
