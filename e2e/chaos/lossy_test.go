//go:build linux

package chaos

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// A long road that loses one packet in a hundred: every request succeeds, and
// bulk is as fast as a download by TLS alone that uses the road at the same
// time. The road has no bottleneck, so neither is in the other's way, and what
// they get is what TCP makes of the losses.
func lossyRoad(t *testing.T, f *finding) {
	w := newWorld(t, road{delay: 50 * time.Millisecond, loss: 0.01})
	n, s := w.startNode(), w.startService("blog")
	n.startAgent("blog", s.target)
	n.works(t, "blog")
	c := n.invite(50, &crowd{names: func(int) string { return "blog" }})

	const endless = 100e9
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	through := download(ctx, n.visitor(false, true), "blog", endless, 0)
	var direct atomic.Int64
	stop := w.directTLS(&direct)
	time.Sleep(3 * time.Second)
	through0, direct0, began := through.passed.Load(), direct.Load(), time.Now()
	time.Sleep(whole(2*time.Minute, 15*time.Second))
	seconds := time.Since(began).Seconds()
	got, base := float64(through.passed.Load()-through0), float64(direct.Load()-direct0)
	cancel()
	stop()
	<-through.done

	f.say("%.2f MB/s, %.0f %% of %.2f MB/s by TLS alone (bar 80 %%)", got/1e6/seconds, 100*got/base, base/1e6/seconds)
	if got < 0.8*base {
		t.Errorf("%.0f %% of what TLS alone gets; want 80", 100*got/base)
	}
	visits := c.enough()
	f.say("%d requests, the slowest %v", len(visits), ms(slowest(visits)))
	f.none("failed", failed(t, visits, (*visit).good))
}

// directTLS downloads from the agent's machine to the node's without any tunnel,
// until the function that it returns is called.
func (w *world) directTLS(passed *atomic.Int64) (stop func()) {
	w.t.Helper()
	cert := certificate(w.t)
	ln := listen(w.t, w.ag, agentAddr+":0")
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
		io.CopyBuffer(onlyWriter{c}, generate(100e9), make([]byte, 64<<10))
	}()
	raw, err := dial(w.ed, ln.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) // who it is does not matter
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(io.Discard, counted{onlyReader{c}, passed, 0})
	}()
	return func() {
		raw.Close()
		ln.Close()
		<-done
	}
}

// certificate returns one that nobody has signed but itself.
func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &cert, &cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// onlyReader hides everything but Read.
type onlyReader struct{ net.Conn }

// Bulk each way over a road that loses packets, and whose connections are reset
// all the time.
func bulkOverLoss(t *testing.T, f *finding) {
	bytes := chosen(size, 200e6, 20e6)
	w := newWorld(t, road{delay: 2 * time.Millisecond, loss: 0.01, rate: 200})
	n, s := w.startNode(), w.startService("blog")
	n.startAgent("blog", s.target)
	n.works(t, "blog")
	want := hashOf(bytes)
	for _, http2 := range []bool{false, true} {
		began, resets := time.Now(), 0
		v := n.visitor(http2, true)
		down, up := download(t.Context(), v, "blog", bytes, 0), upload(t.Context(), v, "blog", bytes)
		tick := time.NewTicker(3 * time.Second)
		ended := make(chan struct{})
		go func() {
			<-down.done
			<-up.done
			close(ended)
		}()
		for over := false; !over; {
			select {
			case <-ended:
				over = true
			case <-tick.C:
				w.reset([]string{w.ed, w.ag}[resets%2])
				resets++
			}
		}
		tick.Stop()
		for what, x := range map[string]*transfer{"download": down, "upload": up} {
			if x.err != nil || x.hash != want {
				t.Errorf("%s: %v, %d bytes, hash %s; want %s", what, x.err, x.passed.Load(), x.hash, want)
			}
		}
		seconds := time.Since(began).Seconds()
		f.say("%s: %d MB each way in %.1fs, %d resets", map[bool]string{false: "HTTP/1.1", true: "HTTP/2"}[http2], bytes/1e6, seconds, resets)
	}
	f.say("hashes right")
}
