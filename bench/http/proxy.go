package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// proxy is the role of a plain ReverseProxy, tuned as one would: it keeps as
// many connections to the service as there are visitors, asks for no
// compression that it would have to undo, and copies through buffers that it
// keeps.
func proxy(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("proxy", flag.ContinueOnError)
	service := f.String("service", "", "where all goes")
	uploads := f.String("counter", "", "where /upload goes")
	plain := f.String("plain", "", "where visitors come in")
	secure := f.String("tls", "", "where visitors with TLS come in")
	cert := f.String("cert", "", "certificate")
	key := f.String("key", "", "its key")
	if err := f.Parse(args); err != nil {
		return err
	}
	transport := &http.Transport{
		MaxIdleConnsPerHost: 4096,
		IdleConnTimeout:     time.Hour,
		DisableCompression:  true,
	}
	buffers := new(bufferPool)
	to := func(addr string) http.Handler {
		target := &url.URL{Scheme: "http", Host: addr}
		return &httputil.ReverseProxy{
			Transport:  transport,
			BufferPool: buffers,
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(target)
				r.Out.Host = r.In.Host
				r.SetXForwarded()
			},
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/", to(*service))
	mux.Handle("/upload", to(*uploads))

	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		return err
	}
	silent := log.New(io.Discard, "", 0) // a load that ends in the middle is none of its worries
	config := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}}
	return serve(ctx, map[string]*http.Server{
		*plain:  {Handler: mux, ErrorLog: silent},
		*secure: {Handler: mux, ErrorLog: silent, TLSConfig: config},
	})
}

// counter is the role of a service for uploads: it counts and forgets them.
func counter(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("counter", flag.ContinueOnError)
	listen := f.String("listen", "", "where to listen")
	if err := f.Parse(args); err != nil {
		return err
	}
	buffers := sync.Pool{New: func() any { return new([256 << 10]byte) }}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := buffers.Get().(*[256 << 10]byte)
		defer buffers.Put(b)
		var n int64
		for {
			got, err := r.Body.Read(b[:])
			n += int64(got)
			if err == io.EOF {
				break
			}
			if err != nil {
				return // nobody is there to be told
			}
		}
		fmt.Fprintln(w, n)
	})
	return serve(ctx, map[string]*http.Server{*listen: {Handler: handler}})
}

// serve runs servers by their addresses until ctx ends, says when all listen, and
// speaks TLS where it is configured.
func serve(ctx context.Context, servers map[string]*http.Server) error {
	failed := make(chan error, len(servers))
	var wg sync.WaitGroup
	defer wg.Wait()
	for addr, s := range servers {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		defer s.Close()
		wg.Go(func() {
			if s.TLSConfig != nil {
				failed <- s.ServeTLS(ln, "", "")
			} else {
				failed <- s.Serve(ln)
			}
		})
	}
	fmt.Println("ready")
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// A bufferPool keeps buffers of the size that ReverseProxy makes by itself.
type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[32 << 10]byte); ok {
		return b[:]
	}
	return make([]byte, 32<<10)
}

func (p *bufferPool) Put(b []byte) { p.pool.Put((*[32 << 10]byte)(b)) }
