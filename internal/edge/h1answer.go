package edge

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/culvertd/culvert/internal/h1"
)

// The methods of this file are those of visitor.

func (c *h1Visitor) whole() (body []byte, ok bool) {
	switch {
	case c.req.Length == 0:
		return nil, true
	case c.req.Length < 0 || int64(len(c.reader.Buffered())) < c.req.Length:
		return nil, false
	}
	body, _ = c.reader.Next()
	c.setSent(true)
	return body, true
}

func (c *h1Visitor) next() ([]byte, error) {
	b, err := c.reader.Next()
	if err == io.EOF {
		c.setSent(true)
	}
	return b, err
}

func (c *h1Visitor) trailers() []h1.Field { return c.reader.Trailers() }

func (c *h1Visitor) stopReading() { c.interrupt(errStopped) }

// refusing gives the connection up, unless the rest is little.
func (c *h1Visitor) refusing() {
	if !c.reader.Done() && (c.req.Length < 0 || c.req.Length > maxLeftover) {
		c.last = true
	}
}

// interim is not for those of HTTP/1.0 (RFC 9110, section 15.2).
func (c *h1Visitor) interim(s *h1.Response) error {
	if c.req.Minor == 0 {
		return nil
	}
	if s.Status == 100 {
		c.continued = true
	}
	c.head(s)
	c.out.b = h1.AppendEnd(c.out.b)
	return c.flush()
}

func (c *h1Visitor) begin(s *h1.Response, more bool) error {
	c.begun = true
	// He may or may not send the body that he was not asked for, and nobody
	// would know which (RFC 9110, section 10.1.1).
	if c.req.ExpectContinue && !c.continued && !c.hasSent() || c.door.leaving.Load() {
		c.last = true
	}
	c.head(s)
	b := c.out.b
	if !dated(s.Fields) {
		b = h1.AppendField(b, "Date", *c.door.watchman.date.Load()) // RFC 9110, section 6.6.1
	}
	c.chunked = false
	c.headless = c.visit.isHEAD() || s.Status == 204 || s.Status == 304
	switch {
	case c.headless && s.Declared >= 0 && s.Status != 204:
		b = h1.AppendLength(b, s.Declared)
	case c.headless:
	case s.Length >= 0:
		b = h1.AppendLength(b, s.Length)
	case c.req.Minor == 1:
		b = h1.AppendLength(b, h1.Chunked)
		c.chunked = true
	default:
		c.last = true // the end of the connection is that of the answer
	}
	if c.last {
		b = append(b, "Connection: close\r\n"...)
	} else if c.req.Minor == 0 {
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	c.out.b = h1.AppendEnd(b)
	if more {
		return nil
	}
	return c.flush()
}

// head writes the first line and the fields.
func (c *h1Visitor) head(s *h1.Response) {
	if c.out == nil {
		c.out = takeBuffer()
	}
	b := h1.AppendStatusLine(c.out.b, s.Status, s.Reason)
	for i := range s.Fields {
		b = h1.AppendField(b, s.Fields[i].Name, s.Fields[i].Value)
	}
	c.out.b = b
}

func (c *h1Visitor) write(b []byte, more bool) error {
	if c.headless || len(b) == 0 {
		return nil
	}
	if c.out == nil {
		c.out = takeBuffer()
	}
	if c.chunked {
		c.out.b = h1.AppendChunkSize(c.out.b, len(b))
	} else if len(b) >= batch {
		if err := c.flush(); err != nil {
			return err
		}
		return c.put(b)
	}
	for len(b) > 0 {
		n := min(len(b), max(0, batch-len(c.out.b)))
		c.out.b = append(c.out.b, b[:n]...)
		if b = b[n:]; len(b) > 0 {
			if err := c.send(); err != nil {
				return err
			}
		}
	}
	if c.chunked {
		c.out.b = h1.AppendEnd(c.out.b)
	}
	if more && len(c.out.b) < batch {
		return nil
	}
	return c.flush()
}

func (c *h1Visitor) end(trailers []h1.Field) error {
	if c.chunked {
		if c.out == nil {
			c.out = takeBuffer()
		}
		c.out.b = h1.AppendLastChunk(c.out.b, trailers)
	}
	return c.flush()
}

// flush sends what is there, and holds no memory after that.
func (c *h1Visitor) flush() error {
	if c.out == nil {
		return nil
	}
	err := c.send()
	c.out.free()
	c.out = nil
	return err
}

func (c *h1Visitor) send() error {
	if len(c.out.b) == 0 {
		return nil
	}
	err := c.put(c.out.b)
	c.out.b = c.out.b[:0]
	return err
}

func (c *h1Visitor) put(b []byte) error {
	c.watch.pending.Store(int64(len(b)))
	c.watch.writing.Store(true)
	n, err := c.conn.Write(b)
	c.watch.writing.Store(false)
	c.watch.out.Add(uint64(n))
	return err
}

func (c *h1Visitor) upgrade(s *h1.Response) (duplex, error) {
	c.begun, c.last = true, true
	c.head(s)
	b := append(c.out.b, "Connection: Upgrade\r\n"...)
	b = h1.AppendField(b, "Upgrade", s.Upgrade)
	c.out.b = h1.AppendEnd(b)
	if err := c.flush(); err != nil {
		return nil, err
	}
	return c.takeOver(), nil
}

// takeOver ends HTTP on the connection. Whoever gets it closes it.
func (c *h1Visitor) takeOver() *upgradedVisitor {
	c.stopPeeking()
	c.taken = true
	c.asker.done()
	c.watch.turnTo(phaseFree)
	c.reader.Raw()
	return &upgradedVisitor{c.conn, c}
}

// An upgradedVisitor is a visitor's connection that speaks no HTTP any more.
type upgradedVisitor struct {
	net.Conn
	c *h1Visitor
}

func (u *upgradedVisitor) Read(p []byte) (int, error) { return u.c.reader.Read(p) }

// WriteTo holds no buffer while nothing comes.
func (u *upgradedVisitor) WriteTo(w io.Writer) (n int64, err error) {
	many := false
	for {
		if !many {
			if err := u.c.reader.Wait(); err != nil {
				return n, endOf(err)
			}
		}
		b, err := u.c.reader.Next()
		if err != nil {
			return n, endOf(err)
		}
		many = len(b) >= 2<<10
		m, err := w.Write(b)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
}

func endOf(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// SetReadDeadline ends in what the reader takes for its end.
func (u *upgradedVisitor) SetReadDeadline(t time.Time) error {
	u.c.mu.Lock()
	u.c.why = errLate
	u.c.mu.Unlock()
	return u.Conn.SetReadDeadline(t)
}

func (u *upgradedVisitor) CloseWrite() error {
	err := closeWrite(u.Conn)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

func (u *upgradedVisitor) Break(error) { u.c.abort() }
