package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// piece is how much our visitor reads and writes at once.
const piece = 256 << 10

// download is one visitor who fetches a large file.
func download(path string) load {
	return func(ctx context.Context, s *site, d door, _ time.Duration) (sample, error) {
		c, err := s.visit(ctx, d, pageHost)
		if err != nil {
			return sample{}, err
		}
		defer c.Close()
		defer context.AfterFunc(ctx, func() { c.Close() })()
		began := time.Now()
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, pageHost); err != nil {
			return sample{}, err
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return sample{}, err
		}
		defer res.Body.Close()
		n, err := io.CopyBuffer(justWriter{io.Discard}, res.Body, make([]byte, piece))
		if err != nil || res.StatusCode != 200 || n != s.bulk {
			return sample{}, fmt.Errorf("%s, %d of %d bytes came: %w", res.Status, n, s.bulk, err)
		}
		return sample{rate: float64(n) / time.Since(began).Seconds()}, nil
	}
}

// A justWriter has no other way to take bytes, such as one in smaller pieces.
type justWriter struct{ io.Writer }

// upload is one visitor who sends as much to the counter, which answers how
// much that was. It is over when the answer has come.
func upload(ctx context.Context, s *site, d door, _ time.Duration) (sample, error) {
	c, err := s.visit(ctx, d, uploadHost)
	if err != nil {
		return sample{}, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	began := time.Now()
	if _, err := fmt.Fprintf(c, "POST /upload HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", uploadHost, s.bulk); err != nil {
		return sample{}, err
	}
	b := make([]byte, piece)
	for left := s.bulk; left > 0; {
		n, err := c.Write(b[:min(left, piece)])
		if err != nil {
			return sample{}, fmt.Errorf("with %d bytes to go: %w", left, err)
		}
		left -= int64(n)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: "POST"})
	if err != nil {
		return sample{}, err
	}
	defer res.Body.Close()
	var n int64
	if _, err := fmt.Fscan(res.Body, &n); err != nil || res.StatusCode != 200 || n != s.bulk {
		return sample{}, fmt.Errorf("%s, %d of %d bytes arrived: %w", res.Status, n, s.bulk, err)
	}
	return sample{rate: float64(s.bulk) / time.Since(began).Seconds()}, nil
}

// visit makes a visitor's connection, which lives as long as ctx may.
func (s *site) visit(ctx context.Context, d door, host string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", d.addr)
	if err != nil {
		return nil, err
	}
	if limit, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(limit); err != nil {
			c.Close()
			return nil, err
		}
	}
	if !d.tls {
		return c, nil
	}
	secure := tls.Client(c, &tls.Config{RootCAs: s.identity.roots, ServerName: host, NextProtos: []string{"http/1.1"}})
	if err := secure.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return secure, nil
}
