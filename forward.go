package culvert

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/culvertd/culvert/internal/relay"
)

// parting is how long visitors in flight may take to finish after the listener
// has ended by itself.
const parting = 10 * time.Second

// Forward joins each visitor that ln accepts with a conn of its own to a
// service, until ctx or ln ends. It dials nothing else. A service that is away costs its visitors an error, and
// the tunnel nothing.
//
// Forward owns ln, and closes it. When ctx ends it cuts visitors in flight and
// returns the cause of ctx; when ln ends it lets them finish for a few seconds
// and returns the error of Accept. By the time it returns, everything that it
// started has ended.
//
// Any listener will do. From a [Listener] visitors also learn in what way the
// service failed, and its agent reports it; and a service with TLS is asked for
// the HTTP that stands in its [Tunnel], which is HTTP/1.1 for others.
func Forward(ctx context.Context, ln net.Listener, service Service) error {
	defer ln.Close()
	d, err := service.dialler()
	if err != nil {
		return err
	}
	if l, ok := ln.(*Listener); ok && service.Insecure {
		l.agent.emit(Event{Kind: EventServiceUnverified, Name: l.Name(), URL: l.URL()})
	}
	visits, cut := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cut()
	defer context.AfterFunc(ctx, func() { ln.Close() })()

	for {
		conn, err := ln.Accept()
		if err == nil {
			wg.Go(func() { serve(visits, conn, d) })
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		waitAtMost(ctx, &wg, parting)
		return err
	}
}

// waitAtMost waits for wg, but not beyond d or ctx. Its goroutine ends with wg.
func waitAtMost(ctx context.Context, wg *sync.WaitGroup, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	go func() {
		wg.Wait()
		cancel()
	}()
	<-ctx.Done()
}

// serve joins one visitor with the service.
func serve(ctx context.Context, conn net.Conn, d *dialler) {
	defer func() {
		if v := recover(); v != nil { // one visitor must not take the others with it
			relay.Sever(conn, fmt.Errorf("BUG: panic: %v", v))
			report(conn, fmt.Errorf("BUG: panic: %v\n%s", v, debug.Stack()))
		}
	}()
	service, err := d.dial(ctx, proto(conn))
	if err != nil {
		if ctx.Err() != nil { // not the service's fault
			err = context.Cause(ctx)
		} else {
			report(conn, err)
		}
		relay.Sever(conn, err)
		return
	}
	if c, ok := conn.(*Conn); ok {
		var wg sync.WaitGroup
		defer wg.Wait()
		service = c.watch(service, &wg)
	}
	defer context.AfterFunc(ctx, func() {
		relay.Sever(conn, context.Cause(ctx))
		relay.Sever(service, context.Cause(ctx))
	})()
	relay.Pipe(halfCloser(conn), service)
}

// proto is the HTTP of the tunnel that conn is from.
func proto(conn net.Conn) Proto {
	if c, ok := conn.(*Conn); ok {
		return c.listener.tunnel.Proto
	}
	return HTTP1
}

// report tells the agent that its service failed, if conn has an agent.
func report(conn net.Conn, err error) {
	if c, ok := conn.(*Conn); ok {
		l := c.listener
		l.agent.emit(Event{Kind: EventServiceFailed, Name: l.Name(), URL: l.URL(), Err: err})
	}
}

func halfCloser(conn net.Conn) relay.HalfCloser {
	if c, ok := conn.(relay.HalfCloser); ok {
		return c
	}
	return whole{conn}
}

// A whole conn cannot end by halves, so it ends when the service has spoken.
type whole struct{ net.Conn }

func (w whole) CloseWrite() error {
	if err := w.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
