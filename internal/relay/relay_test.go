package relay

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sockets returns the two ends of a TCP connection.
func sockets(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialled, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

// A plain conn is a socket of which a relay knows nothing but HalfCloser.
type plain struct {
	net.Conn
	half interface{ CloseWrite() error }

	mu     sync.Mutex // guards the field below
	broken error
}

func (p *plain) CloseWrite() error { return p.half.CloseWrite() }

func (p *plain) Break(err error) {
	p.mu.Lock()
	p.broken = err
	p.mu.Unlock()
	p.Close()
}

func plainOf(c *net.TCPConn) *plain { return &plain{Conn: c, half: c} }

type result struct {
	aToB, bToA int64
	err        error
}

func start(a, b HalfCloser) <-chan result {
	c := make(chan result, 1)
	go func() {
		var r result
		r.aToB, r.bToA, r.err = Pipe(a, b)
		c <- r
	}()
	return c
}

// TestHalfClose: the visitor has finished asking, and still hears the answer.
func TestHalfClose(t *testing.T) {
	visitor, a := sockets(t)
	b, service := sockets(t)
	done := start(a, b)

	io.WriteString(visitor, "question")
	visitor.CloseWrite()
	if got, err := io.ReadAll(service); string(got) != "question" || err != nil {
		t.Fatalf("the service read %q, %v", got, err)
	}
	io.WriteString(service, "the answer")
	service.Close()
	if got, err := io.ReadAll(visitor); string(got) != "the answer" || err != nil {
		t.Fatalf("the visitor read %q, %v", got, err)
	}
	if r := <-done; r != (result{8, 10, nil}) {
		t.Errorf("got %+v, want 8 and 10 bytes and no error", r)
	}
}

// TestBytes: what goes in comes out, through every way of copying.
func TestBytes(t *testing.T) {
	data := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{1}).Read(data)
	for _, tt := range []struct {
		name string
		wrap func(c *net.TCPConn) HalfCloser
	}{
		{"socket to socket", func(c *net.TCPConn) HalfCloser { return c }},
		{"stream to socket", func(c *net.TCPConn) HalfCloser { return plainOf(c) }},
		{"copies by itself", func(c *net.TCPConn) HalfCloser { return struct{ *net.TCPConn }{c} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			visitor, a := sockets(t)
			b, service := sockets(t)
			done := start(tt.wrap(a), b)
			go func() { visitor.Write(data); visitor.CloseWrite() }()
			go func() { io.Copy(service, service); service.CloseWrite() }() // an echo
			h := sha256.New()
			if _, err := io.Copy(h, visitor); err != nil {
				t.Fatal(err)
			}
			if got, want := h.Sum(nil), sha256.Sum256(data); !bytes.Equal(got, want[:]) {
				t.Error("what came back is not what was sent")
			}
			if r := <-done; r != (result{3 << 20, 3 << 20, nil}) {
				t.Errorf("got %+v", r)
			}
		})
	}
}

// TestBrokenService: the service resets in the middle of its answer. The
// visitor's side is told so, and never sees a clean end.
func TestBrokenService(t *testing.T) {
	visitor, a := sockets(t)
	b, service := sockets(t)
	stream := plainOf(a)
	done := start(stream, b)

	io.WriteString(service, "half an ans")
	io.ReadFull(visitor, make([]byte, 11))
	service.SetLinger(0)
	service.Close()

	r := <-done
	if !errors.Is(r.err, syscall.ECONNRESET) || r.bToA != 11 {
		t.Errorf("got %+v, want a reset after 11 bytes", r)
	}
	stream.mu.Lock()
	defer stream.mu.Unlock()
	if stream.broken != r.err {
		t.Errorf("the stream was told %v, want %v", stream.broken, r.err)
	}
}

// TestBrokenVisitor: an upload breaks off. The service sees a reset, for a
// clean end would make the torso look complete.
func TestBrokenVisitor(t *testing.T) {
	b, service := sockets(t)
	broken := errors.New("the visitor is gone")
	_, _, err := Pipe(&torso{Reader: io.MultiReader(strings.NewReader("torso"), failing{broken}), gone: make(chan struct{})}, b)
	if err != broken {
		t.Errorf("got %v, want %v", err, broken)
	}
	got, err := io.ReadAll(service)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the service read %q, %v; want a reset", got, err)
	}
}

// A torso is a conn that breaks while it is read from. Nobody writes to it.
type torso struct {
	net.Conn
	io.Reader
	once sync.Once
	gone chan struct{}
}

func (c *torso) Read(b []byte) (int, error)      { return c.Reader.Read(b) }
func (c *torso) SetReadDeadline(time.Time) error { return nil }
func (c *torso) Write([]byte) (int, error)       { <-c.gone; return 0, net.ErrClosed }
func (c *torso) CloseWrite() error               { return nil }
func (c *torso) Close() error                    { c.once.Do(func() { close(c.gone) }); return nil }

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestEarlyAnswer: the service refuses a long upload before it has read it, and
// hangs up. Its answer reaches the visitor although the upload cannot end.
func TestEarlyAnswer(t *testing.T) {
	visitor, a := sockets(t)
	answer := &lastWordsConn{Reader: strings.NewReader("413 too large"), refused: make(chan struct{})}
	stream := plainOf(a)
	done := start(stream, answer)

	io.WriteString(visitor, "a long upload")
	if got, err := io.ReadAll(visitor); string(got) != "413 too large" || err != nil {
		t.Errorf("the visitor read %q, %v", got, err)
	}
	visitor.Close()
	if r := <-done; r.bToA != 13 || !errors.Is(r.err, syscall.EPIPE) {
		t.Errorf("got %+v, want 13 bytes and a broken pipe", r)
	}
	if stream.broken != nil {
		t.Errorf("the visitor's stream was broken: %v", stream.broken)
	}
}

// A lastWordsConn takes nothing, and answers once it was asked to.
type lastWordsConn struct {
	net.Conn
	io.Reader
	once    sync.Once
	refused chan struct{}
}

func (c *lastWordsConn) Write([]byte) (int, error) {
	c.once.Do(func() { close(c.refused) })
	return 0, syscall.EPIPE
}
func (c *lastWordsConn) Read(b []byte) (int, error)      { <-c.refused; return c.Reader.Read(b) }
func (c *lastWordsConn) SetReadDeadline(time.Time) error { return nil }
func (c *lastWordsConn) CloseWrite() error               { return nil }
func (c *lastWordsConn) Close() error                    { return nil }

// TestPanic: a bug in one conn ends that pair, and not the program.
func TestPanic(t *testing.T) {
	b, _ := sockets(t)
	_, _, err := Pipe(&torso{Reader: panicking{}, gone: make(chan struct{})}, b)
	if err == nil || !strings.HasPrefix(err.Error(), "BUG: ") {
		t.Errorf("got %v, want an error that admits a bug", err)
	}
}

type panicking struct{}

func (panicking) Read([]byte) (int, error) { panic("out of cheese") }

// TestClosedFromOutside: closing either conn is how a relay is stopped.
func TestClosedFromOutside(t *testing.T) {
	_, a := sockets(t)
	b, _ := sockets(t)
	done := start(plainOf(a), b)
	a.Close()
	if r := <-done; !errors.Is(r.err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", r.err)
	}
}
