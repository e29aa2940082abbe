package session

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
	"github.com/culvertd/culvert/internal/wire"
)

// A connFrom came from an address of the test's choice.
type connFrom struct {
	net.Conn
	remote net.Addr
}

func (c connFrom) RemoteAddr() net.Addr { return c.remote }

// dialFrom is a silent stranger from there.
func (f *fixture) dialFrom(addr string) *memnet.Conn {
	ours, theirs := memnet.Pipe()
	remote := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))
	f.serving.Go(func() { f.ServeAgent(context.Background(), connFrom{theirs, remote}) })
	synctest.Wait()
	return ours
}

// TestCrowd: whoever takes all places makes room for the others, and only the
// oldest of its own conns pay for it.
func TestCrowd(t *testing.T) {
	for why, crowd := range map[string]string{"IPv4": "192.0.2.1:1000", "IPv6": "[2001:db8::1]:1000"} {
		bubble(t, func(f *fixture) {
			f.MaxStrangers = 8
			begun := time.Now()
			honest := f.dialFrom("198.51.100.7:1") // older than all of the crowd, and slow
			var silent []*memnet.Conn
			for range 20 {
				silent = append(silent, f.dialFrom(crowd))
			}
			late := f.dialFrom("198.51.100.8:1")

			for id, raw := range []*memnet.Conn{honest, late} {
				p := &agentPeer{f: f, raw: raw}
				p.say(&wire.Hello{Version: 1, Agent: [16]byte{byte(id + 1)}, Token: "ann-1"})
				p.welcomed()
			}
			if n := len(f.strangers); n != 6 {
				f.Errorf("%s: %d of the crowd are left, want 6", why, n)
			}
			for _, c := range silent[:14] {
				io.Copy(io.Discard, c)
			}
			if waited := time.Since(begun); waited > time.Second {
				f.Errorf("%s: the oldest of the crowd were borne for %v", why, waited)
			}
			for _, c := range silent {
				c.Close()
			}
		})
	}
}

// TestStrangersHoldUpNobody: whoever comes while a node stops, which could be the
// next lane of somebody who may stay, is not waited for.
func TestStrangersHoldUpNobody(t *testing.T) {
	for why, stop := range map[string]func(*fixture){
		"Shutdown": func(f *fixture) { f.Shutdown(f.Context()) },
		"Close":    func(f *fixture) { f.Close() },
	} {
		bubble(t, func(f *fixture) {
			p := f.join("ann-1", 1)
			p.bind(1, "blog")
			conn, stream := f.mustVisit("blog", p)
			p.raw.Pause(500 * time.Millisecond) // or Close would not take any time
			stopped := make(chan time.Time)
			go func() {
				stop(f)
				stopped <- time.Now()
			}()
			synctest.Wait()
			f.dialFrom("192.0.2.1:1000")
			time.Sleep(time.Second)
			begun := time.Now()
			stream.Close()
			conn.Close()
			if took := (<-stopped).Sub(begun); took > 2*time.Second {
				f.Errorf("%s took %v after the last visitor", why, took)
			}
		})
	}
}

func TestSourceOf(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:1":          "192.0.2.1/32",
		"[::ffff:192.0.2.1]:2": "192.0.2.1/32",
		"[2001:db8::1]:1":      "2001:db8::/64",
		"[fe80::1%eth0]:1":     "fe80::/64",
		"pipe":                 "invalid Prefix",
		"":                     "invalid Prefix",
	} {
		if got := sourceOf(memnet.Addr(addr)).String(); got != want {
			t.Errorf("%q is from %s, want %s", addr, got, want)
		}
	}
}
