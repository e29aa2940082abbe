package edge

import (
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/culvertd/culvert/internal/h1"
)

// translateUpgrade makes an extended CONNECT the upgrade that services of
// HTTP/1.1 know (RFC 8441, section 5). For a WebSocket that takes a key, which
// HTTP/2 has no use for (RFC 6455, section 4.1).
func (c *h2Visitor) translateUpgrade(protocol string) bool {
	if !h1.ValidName(protocol) || len(protocol) > 32 {
		return false
	}
	q := &c.req
	q.Upgrade = []byte(protocol)
	c.visit.connect = true
	if strings.EqualFold(protocol, "websocket") {
		for i := range q.Fields {
			if like(q.Fields[i].Name, "sec-websocket-key") {
				q.Fields[i].Name = nil
			}
		}
		q.Fields = compact(q.Fields)
		var key [16]byte
		rand.Read(key[:])
		c.key = base64.StdEncoding.AppendEncode(nil, key[:])
		q.Fields = append(q.Fields, h1.Field{Name: []byte("Sec-WebSocket-Key"), Value: c.key})
	}
	return true
}

// upgrade answers an extended CONNECT: 200 is its 101. The key was ours, and so
// it is for us to see that the service has understood it.
func (c *h2Visitor) upgrade(s *h1.Response) (duplex, error) {
	var accept []byte
	for i := range s.Fields {
		if like(s.Fields[i].Name, "sec-websocket-accept") {
			accept = s.Fields[i].Value
			s.Fields[i].Name = nil
		}
	}
	if c.key != nil {
		const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" // RFC 6455, section 4.2.2
		sum := sha1.Sum(append(c.key, guid...))
		if string(accept) != base64.StdEncoding.EncodeToString(sum[:]) {
			return nil, badAnswer("accepts another WebSocket")
		}
	}
	s.Fields = compact(s.Fields)
	c.part(c.setHeader(s))
	c.w.WriteHeader(http.StatusOK)
	if err := c.flush(); err != nil {
		return nil, err
	}
	return &upgradedH2{c: c}, nil
}

// An upgradedH2 is a stream of HTTP/2 behind an extended CONNECT.
type upgradedH2 struct {
	c     *h2Visitor
	ended atomic.Bool
}

func (u *upgradedH2) Read(p []byte) (int, error) {
	n, err := u.c.r.Body.Read(p)
	if err != nil && u.ended.Load() {
		err = io.EOF
	}
	return n, err
}

// WriteTo holds but a small buffer while nothing comes: the standard library has
// another.
func (u *upgradedH2) WriteTo(w io.Writer) (n int64, err error) {
	var small [4 << 10]byte
	for {
		m, err := u.Read(small[:])
		if m > 0 {
			k, err := w.Write(small[:m])
			n += int64(k)
			if err != nil {
				return n, err
			}
		}
		if err != nil {
			return n, endOf(err)
		}
	}
}

func (u *upgradedH2) Write(p []byte) (int, error) {
	n, err := u.c.w.Write(p)
	if err == nil {
		err = u.c.control.Flush()
	}
	return n, err
}

// CloseWrite ends both directions: ours ends when the handler returns, and that
// waits for the other.
func (u *upgradedH2) CloseWrite() error {
	u.ended.Store(true)
	u.c.stopReading()
	return nil
}

func (u *upgradedH2) Close() error {
	u.ended.Store(true)
	u.c.stopReading()
	return nil
}

func (u *upgradedH2) Break(error) {
	u.c.abort()
	u.c.stopReading()
}

func (u *upgradedH2) SetDeadline(t time.Time) error {
	return errors.Join(u.SetReadDeadline(t), u.SetWriteDeadline(t))
}
func (u *upgradedH2) SetReadDeadline(t time.Time) error  { return u.c.control.SetReadDeadline(t) }
func (u *upgradedH2) SetWriteDeadline(t time.Time) error { return u.c.control.SetWriteDeadline(t) }
func (u *upgradedH2) LocalAddr() net.Addr                { return &net.TCPAddr{} }
func (u *upgradedH2) RemoteAddr() net.Addr               { return net.TCPAddrFromAddrPort(u.c.visit.from.addr) }
