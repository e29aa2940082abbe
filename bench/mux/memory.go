package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/culvertd/culvert/bench/internal/report"
)

// The sizes of what is measured, and those of a quick run.
const (
	idleSessions, quickSessions = 200, 10
	idleStreams, quickStreams   = 1000, 50 // go-yamux allows no more
	unreadStreams               = 20
)

// memory prints what idle sessions, idle streams and unread streams hold.
func (b *bench) memory(ctx context.Context) error {
	for _, print := range []func(context.Context) error{b.idleSessions, b.idleStreams, b.unread} {
		if err := print(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) idleSessions(ctx context.Context) error {
	n := idleSessions
	if b.quick {
		n = quickSessions
	}
	results, err := inTurn(ctx, b, "memory: idle sessions", 1, everything, func(ctx context.Context, l library) (holding, error) {
		return holdSessions(ctx, l, n)
	})
	if err != nil {
		return err
	}
	var alone float64
	for _, r := range results {
		if r.library.single {
			alone = r.value(holding.kib)
		}
	}
	t := report.NewTable("Memory: an idle session, both ends",
		fmt.Sprintf("Heap and stacks of %d sessions over which one exchange has gone, and the goroutines. "+
			"quic-go has its TLS inside, and here a UDP socket with a goroutine for each end of each session, of which a server needs only one.", n),
		"", "KiB each", "beyond TLS alone", "goroutines each")
	for _, r := range results {
		beyond := "–"
		if alone > 0 && !r.library.single && !r.library.quic {
			beyond = r.median("%.1f", func(h holding) float64 { return h.kib() - alone })
		}
		t.Add(r.library.name, r.median("%.1f", holding.kib), beyond, r.median("%.1f", holding.routines))
	}
	t.Print(b.out)
	return nil
}

func (b *bench) idleStreams(ctx context.Context) error {
	n := idleStreams
	if b.quick {
		n = quickStreams
	}
	many := slices.Concat(muxes, []library{quicGo})
	results, err := inTurn(ctx, b, "memory: idle streams", 1, many, func(ctx context.Context, l library) (holding, error) {
		return holdStreams(ctx, l, n)
	})
	if err != nil {
		return err
	}
	t := report.NewTable("Memory: an idle stream, both ends",
		fmt.Sprintf("Heap and stacks of %d open streams of one session, after one exchange of 256 B and 1,200 B on each, and the goroutines.", n),
		"", "KiB each", "goroutines each")
	for _, r := range results {
		t.Add(r.library.name, r.median("%.2f", holding.kib), r.median("%.2f", holding.routines))
	}
	t.Print(b.out)
	return nil
}

// A holding is what so many things hold together.
type holding struct {
	bytes      int64
	goroutines int
	things     int
}

func (h holding) kib() float64      { return float64(h.bytes) / 1024 / float64(h.things) }
func (h holding) routines() float64 { return float64(h.goroutines) / float64(h.things) }

// inUse returns what this process holds when everything has calmed down. The
// second collection empties what pools kept through the first; each one halves
// the stacks that have become too large.
func inUse() holding {
	var mem runtime.MemStats
	for range 4 {
		time.Sleep(50 * time.Millisecond)
		runtime.GC()
	}
	runtime.ReadMemStats(&mem)
	return holding{bytes: int64(mem.HeapAlloc + mem.StackInuse), goroutines: runtime.NumGoroutine()}
}

// since is what n things hold, given what was held before there were any.
func (h holding) since(before holding, n int) holding {
	return holding{h.bytes - before.bytes, h.goroutines - before.goroutines, n}
}

func holdSessions(ctx context.Context, l library, n int) (h holding, err error) {
	if err := touch(ctx, l); err != nil {
		return h, err
	}
	pairs := make([]pair, 0, n)
	defer func() {
		for _, p := range pairs {
			p.close()
		}
	}()
	before := inUse()
	for range n {
		p, err := l.over(loopback)
		if err != nil {
			return h, err
		}
		pairs = append(pairs, p)
		client, server, err := exchangeOnce(ctx, p)
		if err != nil {
			return h, err
		}
		if !l.single { // whose stream is the connection
			client.Close()
			server.Close()
		}
	}
	return inUse().since(before, n), nil
}

func holdStreams(ctx context.Context, l library, n int) (h holding, err error) {
	p, err := l.over(loopback)
	if err != nil {
		return h, err
	}
	defer p.close()
	client, server, err := exchangeOnce(ctx, p) // what a session makes only once is there from here on
	if err != nil {
		return h, err
	}
	client.Close()
	server.Close()
	streams := make([]stream, 0, 2*n)
	before := inUse()
	for range n {
		client, server, err := exchangeOnce(ctx, p)
		if err != nil {
			return h, err
		}
		streams = append(streams, client, server)
	}
	h = inUse().since(before, n)
	runtime.KeepAlive(streams)
	return h, nil
}

// touch makes and ends one session, so that what is made only once is there
// before anything is measured.
func touch(ctx context.Context, l library) error {
	p, err := l.over(loopback)
	if err != nil {
		return err
	}
	defer p.close()
	_, _, err = exchangeOnce(ctx, p)
	return err
}

// exchangeOnce opens a stream and has one exchange on it. No goroutine of ours
// is left when it returns, unless it stalled.
func exchangeOnce(ctx context.Context, p pair) (client, server stream, err error) {
	answered, asked := make(chan error, 1), make(chan error, 1)
	go func() {
		var err error
		if server, err = p.server.accept(); err == nil {
			err = answerOnce(server, make([]byte, 256), make([]byte, 1200))
		}
		answered <- err
	}()
	go func() {
		var err error
		if client, err = p.client.open(); err == nil {
			err = ask(client, make([]byte, 256), make([]byte, 1200))
		}
		asked <- err
	}()
	limit := time.After(patience)
	for range 2 {
		select {
		case e := <-answered:
			err = errors.Join(err, e)
		case e := <-asked:
			err = errors.Join(err, e)
		case <-limit:
			return nil, nil, errStalled
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
	return client, server, err
}
