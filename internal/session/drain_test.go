package session

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/router"
	"github.com/culvertd/culvert/internal/wire"
)

// TestDrain: agents are told, and carry visitors until Shutdown.
func TestDrain(t *testing.T) {
	bubble(t, func(f *fixture) {
		p := f.join("ann-1", 1)
		p.bind(1, "blog")
		f.Drain(30 * time.Second)
		f.Drain(20 * time.Second) // who has been told need not hear it again
		p.want("everybody is told", &wire.Drain{Deadline: 30_000})
		time.Sleep(10 * time.Second)
		conn, stream := f.mustVisit("blog", p)
		io.WriteString(stream, "still here")
		stream.Close()
		if got, err := readAll(conn); got != "still here" || err != nil {
			f.Errorf("a visitor read %q, %v", got, err)
		}
		p.say(&wire.Bind{Request: 2, Name: "wiki"})
		p.wantRefused("a new tunnel", 2, wire.ShuttingDown)
		conn.Close()
		done := make(chan error)
		go func() { done <- f.Shutdown(f.Context()) }()
		p.wantGone("who has no visitors", time.Second)
		if err := <-done; err != nil {
			f.Errorf("Shutdown: %v", err)
		}
	})
}

// TestShutdown: stop taking, tell, wait, cut.
func TestShutdown(t *testing.T) {
	bubble(t, func(f *fixture) {
		idle := f.join("bob-1", 1)
		p := f.join("ann-1", 1)
		p.bind(1, "blog")
		conn, stream := f.mustVisit("blog", p)
		half, _ := f.dial() // a stranger in the middle of it
		defer half.Close()

		ctx, cancel := context.WithTimeout(f.Context(), 30*time.Second)
		defer cancel()
		done := make(chan error)
		go func() { done <- f.Shutdown(ctx) }()
		idle.want("everybody is told", &wire.Drain{Deadline: 30_000})
		p.want("everybody is told", &wire.Drain{Deadline: 30_000})
		idle.wantGone("who has no visitors leaves at once", time.Second)
		if _, err := f.visit("blog"); !errors.Is(err, router.ErrOffline) {
			f.Errorf("a new visitor: %v", err)
		}
		p.say(&wire.Bind{Request: 2, Name: "wiki"})
		p.wantRefused("a new tunnel", 2, wire.ShuttingDown)
		late, _ := f.dial()
		if _, err := late.Read(make([]byte, 1)); err == nil {
			f.Error("a new agent was let in")
		}

		time.Sleep(5 * time.Second)
		io.WriteString(stream, "finished")
		stream.Close()
		if got, err := readAll(conn); got != "finished" || err != nil {
			f.Errorf("a visitor in flight read %q, %v", got, err)
		}
		conn.Close()
		p.wantGone("after its last visitor", time.Second)
		if err := <-done; err != nil {
			f.Errorf("Shutdown: %v", err)
		}
		if err := f.Shutdown(f.Context()); err != nil {
			f.Errorf("Shutdown again: %v", err)
		}
	})
	bubble(t, func(f *fixture) {
		p := f.join("ann-1", 1)
		p.bind(1, "blog")
		conn, _ := f.mustVisit("blog", p)
		ctx, cancel := context.WithTimeout(f.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		if err := f.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			f.Errorf("Shutdown with a visitor that stays: %v", err)
		}
		if took := time.Since(start); took > 5*time.Second {
			f.Errorf("it took %v", took)
		}
		if _, err := readAll(conn); err == nil {
			f.Error("what was cut looked finished")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := newFixture(t).Server
		if s.Shutdown(t.Context()) != nil || s.Close() != nil || s.Close() != nil {
			t.Error("a server that nobody came to did not close")
		}
	})
}
