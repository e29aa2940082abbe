package edge

import (
	"bytes"
	"errors"
	"io"
	"net"

	"github.com/culvertd/culvert/internal/h1"
	"github.com/culvertd/culvert/internal/relay"
)

// A duplex is the visitor's side of an upgraded connection. Its Break may be
// called together with Read and Write, and its Close sends what was written.
type duplex interface {
	relay.HalfCloser
	relay.Breaker
}

// upgrade joins the visitor and the service, who have agreed on another
// protocol. From now on silence is nobody's business but theirs.
func (s *stream) upgrade(v *visit) error {
	if !upgradable(v.req) || !offered(v.req.Upgrade, s.res.Upgrade) {
		return badAnswer("switches to a protocol that nobody asked for")
	}
	v.watch.turnTo(phaseFree)
	cleanAnswer(v, &s.res)
	v.status = s.res.Status
	to, err := v.visitor.upgrade(&s.res)
	if bad, ok := errors.AsType[badAnswer](err); ok {
		v.status = 0
		return bad
	}
	if err != nil {
		return &visitorError{err}
	}
	s.reader.Raw()
	if _, _, err := relay.Pipe(to, &upgradedStream{s.conn, s}); err != nil {
		return &visitorError{err} // whoever it was: both have been told
	}
	return nil
}

// offered reports whether the protocol of an answer is in the list that was
// asked for (RFC 9110, section 7.8).
func offered(list, one []byte) bool {
	for protocol := range bytes.SplitSeq(list, []byte(",")) {
		if bytes.EqualFold(bytes.Trim(protocol, " \t"), one) {
			return true
		}
	}
	return false
}

// upgradable reports whether we pass the wish for another protocol on. It may
// be ignored (RFC 9110, section 7.8). A service that took up h2c would answer
// requests that we never saw; and what follows a body is not worth the trouble.
func upgradable(q *h1.Request) bool {
	return q.Upgrade != nil && q.Length == 0 && !offered(q.Upgrade, []byte("h2c"))
}

// An upgradedStream is a stream behind a 101. Bytes may have come with that.
type upgradedStream struct {
	net.Conn
	s *stream
}

func (u *upgradedStream) Read(p []byte) (int, error) {
	if len(u.s.reader.Buffered()) > 0 {
		return u.s.reader.Read(p)
	}
	return u.Conn.Read(p)
}

// WriteTo holds no buffer while nothing comes.
func (u *upgradedStream) WriteTo(w io.Writer) (n int64, err error) {
	for len(u.s.reader.Buffered()) > 0 {
		b, _ := u.s.reader.Next()
		m, err := w.Write(b)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	u.s.reader.Release()
	m, err := io.Copy(w, u.Conn)
	return n + m, err
}

func (u *upgradedStream) CloseWrite() error {
	if half, ok := u.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

func (u *upgradedStream) Break(error) { u.s.abort() }
