package memnet_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"

	"github.com/culvertd/culvert/internal/memnet"
)

func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (a, b net.Conn, stop func(), err error) {
		a, b = memnet.Pipe()
		return a, b, func() { a.Close(); b.Close() }, nil
	})
}

func TestLinkTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Link{Delay: 25 * time.Millisecond, Rate: 1 << 20}.Pipe()
		start := time.Now()
		go func() {
			a.Write(make([]byte, 1<<20))
			a.CloseWrite()
		}()
		n, err := io.Copy(io.Discard, b)
		if took := time.Since(start); n != 1<<20 || err != nil || took.Round(time.Millisecond) != 1025*time.Millisecond {
			t.Errorf("got %d bytes, %v, after %v; want 1 MiB after one second and one delay", n, err, took)
		}
	})
}

func TestBufferFillsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := memnet.Link{Delay: time.Second, Rate: 1 << 10, Buffer: 8 << 10}.Pipe()
		a.SetWriteDeadline(time.Now().Add(time.Millisecond))
		n, err := a.Write(make([]byte, 64<<10))
		if n != 8<<10 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %d, %v; want the buffer's 8 KiB taken and then the deadline", n, err)
		}
	})
}

func TestSilenceSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe()
		a.Silence()
		if _, err := a.Write([]byte("into the void")); err != nil {
			t.Errorf("got %v; want a write that believes it went", err)
		}
		b.SetReadDeadline(time.Now().Add(time.Hour))
		if n, err := b.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %d, %v; want an hour of nothing", n, err)
		}
	})
}

func TestNetRefusesWhereNobodyListens(t *testing.T) {
	var n memnet.Net
	if _, err := n.Dial(context.Background(), "tcp", "node:443"); err == nil {
		t.Fatal("dialled a listener that is not there")
	}
	ln, err := n.Listen("node:443")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Listen("node:443"); err == nil {
		t.Error("two listeners took one address")
	}
	c, err := n.Dial(context.Background(), "tcp", "node:443")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v; want EOF, because nobody accepted", err)
	}
}
