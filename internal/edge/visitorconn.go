package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// A visitorConn is a visitor's connection that speaks HTTP/1.1.
//
// The standard library answers what it cannot read before any handler runs,
// in words of its own. A visitorConn puts ours in their place. And with full
// duplex, the standard library goes on with the next request where it stopped
// reading the body of the last one, which is a way to smuggle requests. So a
// connection on which a body was not read to its end is spent: nothing on it
// is a request any more.
type visitorConn struct {
	net.Conn                  // what HTTP is spoken over
	raw       net.Conn        // the socket under it; the same without TLS
	answering atomic.Bool     // a handler has run since the connection was idle
	spent     atomic.Bool     // a body was left unread
	mute      atomic.Bool     // and its answer has been written
	hurry     context.Context // ends when there is no time for those who do
}

func newVisitorConn(ctx context.Context, c net.Conn) *visitorConn {
	return &visitorConn{Conn: c, raw: c, hurry: ctx}
}

func (c *visitorConn) http1() *visitorConn { return c }

func (c *visitorConn) Read(p []byte) (int, error) {
	if c.spent.Load() {
		return 0, net.ErrClosed
	}
	return c.Conn.Read(p)
}

func (c *visitorConn) Write(p []byte) (int, error) {
	if c.mute.Load() {
		return 0, net.ErrClosed
	}
	if !c.answering.Load() {
		if f, ok := ownWords(p); ok {
			_, err := c.Conn.Write(f.wire(newVisitID()))
			return len(p), err
		}
	}
	return c.Conn.Write(p)
}

// idle is called between two requests.
func (c *visitorConn) idle() {
	c.answering.Store(false)
	c.mute.Store(c.spent.Load())
}

// ownWords recognises the head of an error that net/http wrote by itself.
func ownWords(p []byte) (refusal, bool) {
	if !bytes.HasPrefix(p, []byte("HTTP/1.1 ")) && !bytes.HasPrefix(p, []byte("HTTP/1.0 ")) || len(p) < 12 {
		return refusal{}, false
	}
	status, err := strconv.Atoi(string(p[9:12]))
	if err != nil || status < 400 || http.StatusText(status) == "" {
		return refusal{}, false
	}
	f := badRequest
	f.status = status
	return f, true
}

// CloseWrite is what net/http looks for before it hangs up on somebody who is
// still sending, and how an upgraded conversation ends in one direction.
func (c *visitorConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close closes the connection. Closing a socket while the visitor is sending
// resets it, and with it goes what he has not read of our answer (RFC 9112,
// section 9.6). So we say that we have finished, and listen for a while.
func (c *visitorConn) Close() error {
	if !c.spent.Load() || c.hurry.Err() != nil {
		return c.Conn.Close()
	}
	defer context.AfterFunc(c.hurry, func() { c.raw.Close() })()
	c.raw.SetDeadline(time.Now().Add(leftover))
	c.CloseWrite()
	if half, ok := c.raw.(interface{ CloseWrite() error }); ok {
		half.CloseWrite() // TLS has ended only itself
	}
	io.Copy(io.Discard, c.raw)
	return c.raw.Close()
}

// abort closes the connection so that it cannot be taken for a clean end: with
// a reset, since many do not look for the closing alert of TLS.
func (c *visitorConn) abort() {
	if l, ok := c.raw.(interface{ SetLinger(int) error }); ok {
		l.SetLinger(0)
	}
	c.raw.Close()
}

// A secureConn is a visitorConn with TLS. net/http takes the state of the
// connection from it.
type secureConn struct {
	*visitorConn
	tls *tls.Conn
}

func newSecureConn(ctx context.Context, raw net.Conn, c *tls.Conn) secureConn {
	return secureConn{&visitorConn{Conn: c, raw: raw, hurry: ctx}, c}
}

func (c secureConn) ConnectionState() tls.ConnectionState { return c.tls.ConnectionState() }

type visitorConnKey struct{}

// withVisitorConn is for [http.Server.ConnContext].
func withVisitorConn(ctx context.Context, c net.Conn) context.Context {
	if vc, ok := c.(interface{ http1() *visitorConn }); ok {
		return context.WithValue(ctx, visitorConnKey{}, vc.http1())
	}
	return ctx
}

// visitorConnOf returns nil for a request that came by HTTP/2.
func visitorConnOf(ctx context.Context) *visitorConn {
	c, _ := ctx.Value(visitorConnKey{}).(*visitorConn)
	return c
}
