package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// What visitors ask for by name.
const (
	domain     = "localhost" // of the node
	pageHost   = "bench.localhost"
	uploadHost = "upload.localhost"
)

type contestantName string

const (
	ours         contestantName = "Culvert"
	nginx        contestantName = "nginx"
	reverseProxy contestantName = "ReverseProxy"
)

// A contestant carries visitors to the service.
type contestant struct {
	name       contestantName
	plain, tls string // addresses
}

// A door is where visitors of a contestant come in.
type door struct {
	addr string
	tls  bool
}

func (c contestant) door(tls bool) door {
	if tls {
		return door{c.tls, true}
	}
	return door{c.plain, false}
}

// url is what a visitor asks for at the door.
func (d door) url(host, path string) string {
	_, port, _ := net.SplitHostPort(d.addr)
	if d.tls {
		return "https://" + host + ":" + port + path
	}
	return "http://" + host + ":" + port + path
}

// A site is all that runs while we measure, and the files that it needs.
type site struct {
	tools    tools
	dir      string
	bulk     int64  // bytes of the large file
	crowd    int    // no load has more connections at once
	profiles string // where they go; "" for none
	identity identity

	service, counter string // addresses
	contestants      []contestant
	running          []*process // in the order in which they were started
	profiled         []*process // Culvert's, if profiles are wanted
}

// build makes the site. The caller closes it; if build fails, it has been.
func (b *bench) build(ctx context.Context, t tools) (_ *site, err error) {
	s := &site{tools: t, bulk: b.bulk, crowd: math.MaxInt, profiles: b.profiles}
	if b.quick {
		s.crowd = 32 // a busy machine has handshaken with all of 512 after a second, and not more
	}
	if s.dir, err = os.MkdirTemp("", "bench-http-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.identity, err = newIdentity(s.dir); err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.scriptFile(), []byte(script), 0o644); err != nil {
		return nil, err
	}
	if err := s.buildCulvert(ctx); err != nil {
		return nil, err
	}
	addrs, err := freeAddrs(9)
	if err != nil {
		return nil, err
	}
	s.service, s.counter = addrs[0], addrs[1]
	s.contestants = []contestant{
		{ours, addrs[2], addrs[3]},
		{nginx, addrs[4], addrs[5]},
		{reverseProxy, addrs[6], addrs[7]},
	}
	for _, step := range []func(context.Context) error{
		s.startCounter, s.startNginx, s.startProxy,
		func(ctx context.Context) error { return s.startCulvert(ctx, addrs[8]) },
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// freeAddrs returns addresses on which nobody listens. The kernel gives ports
// from 32768 on to whoever connects somewhere; these lie before, and before
// those of e2e, and begin at one of our own, so that two runs seldom meet.
func freeAddrs(n int) (addrs []string, err error) {
	for port := 10_000 + 10*(os.Getpid()%1_000); len(addrs) < n; port++ {
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		ln, err := net.Listen("tcp", addr)
		switch {
		case err == nil:
			ln.Close()
			addrs = append(addrs, addr)
		case !errors.Is(err, syscall.EADDRINUSE):
			return nil, err
		}
	}
	return addrs, nil
}

// keep remembers a process that was started, to be stopped.
func (s *site) keep(p *process, err error) (*process, error) {
	if err == nil {
		s.running = append(s.running, p)
	}
	return p, err
}

func (s *site) startCounter(ctx context.Context) error {
	p, err := s.keep(startRole("counter", nil, "-listen", s.counter))
	if err != nil {
		return err
	}
	_, err = p.ready(ctx)
	return err
}

func (s *site) startNginx(ctx context.Context) error {
	c := s.contestants[1]
	file, err := s.writeConf(c.plain, c.tls)
	if err != nil {
		return err
	}
	p, err := s.keep(start("nginx", exec.Command(s.tools.nginx, "-p", s.dir, "-c", file, "-e", "stderr")))
	if err != nil {
		return err
	}
	return p.listens(ctx, c.tls)
}

func (s *site) startProxy(ctx context.Context) error {
	c := s.contestants[2]
	p, err := s.keep(startRole("proxy", nil, "-service", s.service, "-counter", s.counter,
		"-plain", c.plain, "-tls", c.tls, "-cert", s.identity.cert, "-key", s.identity.key))
	if err != nil {
		return err
	}
	_, err = p.ready(ctx)
	return err
}

// check asks every contestant at every door for the page: what is measured is to
// be the same of all.
func (s *site) check(ctx context.Context) error {
	for _, c := range s.contestants {
		for _, d := range []door{c.door(false), c.door(true)} {
			for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
				if protocol == "HTTP/2.0" && !d.tls {
					continue
				}
				if err := s.ask(ctx, d, protocol); err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
			}
		}
	}
	return nil
}

// ask asks for the page.
func (s *site) ask(ctx context.Context, d door, protocol string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	t := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, d.addr)
		},
		TLSClientConfig: &tls.Config{RootCAs: s.identity.roots},
		Protocols:       new(http.Protocols),
	}
	t.Protocols.SetHTTP1(protocol == "HTTP/1.1")
	t.Protocols.SetHTTP2(protocol == "HTTP/2.0")
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, "GET", d.url(pageHost, "/1k"), nil)
	if err != nil {
		return err
	}
	res, err := t.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("%s: %w", req.URL, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil || res.StatusCode != 200 || res.Proto != protocol || string(body) != page {
		return fmt.Errorf("%s: %s %s with %d bytes: %w", req.URL, res.Proto, res.Status, len(body), err)
	}
	return nil
}

// ended is an error when something that should run does not any more.
func (s *site) ended() error {
	for _, p := range s.running {
		if err := p.running(); err != nil {
			return err
		}
	}
	return nil
}

// close stops everything, the latest first, and takes the files away.
func (s *site) close() error {
	var errs []error
	for len(s.running) > 0 {
		last := len(s.running) - 1
		errs = append(errs, s.running[last].stop())
		s.running = s.running[:last]
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// program is where build put one of ours.
func (s *site) program(name string) string { return filepath.Join(s.dir, "bin", name) }

// port of an address.
func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }
