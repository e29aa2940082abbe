package edge

import (
	"encoding/binary"
	"errors"
	"math"
	"net"
	"sync"
	"sync/atomic"

	"github.com/culvertd/culvert/internal/router"
)

// A flowGuard is a connection of HTTP/2 to a service that ends when the service
// lets the window of a stream grow beyond all bounds (RFC 9113, section 6.9.1).
// The standard library, up to Go 1.26 at least, answers that under a lock which
// it holds already (processWindowUpdate and abortStream), and with it stand all
// requests to all services, for ever.
type flowGuard struct {
	net.Conn
	in, out frameScanner
	closed  func() // called by Close

	heard  atomic.Bool           // a byte of the service has come
	failed atomic.Pointer[error] // by the agent

	mu      sync.Mutex // guards the fields below
	initial int64
	windows map[uint32]*window // of the streams that are open
}

// A window is what we may still send on a stream, besides the initial window.
type window struct {
	n     int64
	ended [2]bool // by the service, by us
}

const maxWindow = math.MaxInt32

var errFlow = errors.New("service let a window grow beyond all bounds")

func newFlowGuard(c net.Conn) *flowGuard {
	g := &flowGuard{Conn: c, initial: 65535, windows: make(map[uint32]*window)}
	g.out.skip = len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	return g
}

func (g *flowGuard) Close() error {
	if g.closed != nil {
		g.closed()
	}
	return g.Conn.Close()
}

func (g *flowGuard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if n > 0 {
		g.heard.Store(true)
	}
	g.blame(err)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.in.scan(p[:n], g.heardLocked) {
		return 0, errFlow
	}
	return n, err
}

func (g *flowGuard) Write(p []byte) (int, error) {
	g.mu.Lock()
	g.out.scan(p, g.saidLocked)
	g.mu.Unlock()
	n, err := g.Conn.Write(p)
	g.blame(err)
	return n, err
}

// blame remembers what the agent says, since of the errors of a connection the
// standard library passes on some and words others anew.
func (g *flowGuard) blame(err error) {
	if errors.Is(err, router.ErrOffline) || errors.Is(err, router.ErrLost) {
		g.failed.CompareAndSwap(nil, &err)
	}
}

// agentError is what the agent said why the connection broke; nil if it was not
// the agent. An [router.ErrOffline] means that it has not looked at it.
func (g *flowGuard) agentError() error {
	if err := g.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// heardLocked reports whether a window is within its bounds.
func (g *flowGuard) heardLocked(f *frameHead, part []byte) bool {
	w := g.windows[f.stream]
	switch {
	case f.kind == 0x4 && len(part) == 6 && binary.BigEndian.Uint16(part) == 0x4: // SETTINGS
		g.initial = int64(binary.BigEndian.Uint32(part[2:]))
	case w == nil:
	case f.kind == 0x8 && len(part) == 4: // WINDOW_UPDATE
		w.n += int64(binary.BigEndian.Uint32(part) & math.MaxInt32)
		return g.initial+w.n <= maxWindow
	case part == nil:
		g.endLocked(f, w, 0)
	}
	return true
}

func (g *flowGuard) saidLocked(f *frameHead, part []byte) bool {
	w := g.windows[f.stream]
	if part != nil || f.stream == 0 {
		return true
	}
	if w == nil && f.kind == 0x1 { // HEADERS
		w = new(window)
		g.windows[f.stream] = w
	}
	if w == nil {
		return true
	}
	if f.kind == 0x0 { // DATA
		w.n -= int64(f.size)
	}
	g.endLocked(f, w, 1)
	return true
}

// endLocked notes the end of one direction of a stream, or of both.
func (g *flowGuard) endLocked(f *frameHead, w *window, side int) {
	const endStream = 0x1 // of DATA and HEADERS
	w.ended[side] = w.ended[side] || f.kind <= 0x1 && f.flags&endStream != 0
	if f.kind == 0x3 || w.ended[0] && w.ended[1] { // RST_STREAM
		delete(g.windows, f.stream)
	}
}

// A frameScanner finds the frames in the bytes of one direction, however they
// come (RFC 9113, section 4.1).
type frameScanner struct {
	skip int // before the first frame
	f    frameHead
	head [9]byte
	n    int // bytes of head
	left int // bytes of payload
	part []byte
	room [6]byte
}

type frameHead struct {
	kind, flags byte
	stream      uint32
	size        int
}

// scan calls each with the head of every frame, and then, of those that are
// about windows, with every part of the payload. It goes on as long as that
// returns true.
func (s *frameScanner) scan(p []byte, each func(f *frameHead, part []byte) bool) bool {
	for len(p) > 0 {
		if s.skip > 0 {
			n := min(s.skip, len(p))
			s.skip, p = s.skip-n, p[n:]
			continue
		}
		if s.left == 0 {
			n := copy(s.head[s.n:], p)
			s.n, p = s.n+n, p[n:]
			if s.n < len(s.head) {
				return true
			}
			s.n, s.part = 0, s.room[:0]
			s.f = frameHead{
				kind: s.head[3], flags: s.head[4],
				stream: binary.BigEndian.Uint32(s.head[5:]) & math.MaxInt32,
				size:   int(binary.BigEndian.Uint32(s.head[:4]) >> 8),
			}
			s.left = s.f.size
			if !each(&s.f, nil) {
				return false
			}
			continue
		}
		unit := 0
		switch s.f.kind {
		case 0x4:
			unit = 6
		case 0x8:
			unit = 4
		}
		n := min(s.left, len(p))
		if unit > 0 {
			n = min(n, unit-len(s.part))
			s.part = append(s.part, p[:n]...)
		}
		s.left, p = s.left-n, p[n:]
		if unit > 0 && len(s.part) == unit {
			if !each(&s.f, s.part) {
				return false
			}
			s.part = s.part[:0]
		}
	}
	return true
}
