package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestSuspend: another one has the directory, reads go on, writes wait, and
// what the other one wrote is there afterwards.
func TestSuspend(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	s := openStore(t, dir)
	b := bucket(t, s, "things")
	rev, err := b.Create(ctx, "mine", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := s.Suspend(ctx); err != nil {
		t.Fatal(err)
	}
	suspended := time.Now()
	want(t, b, "mine=1", "reads do not need the engine")
	late := make(chan error, 1)
	go func() {
		_, err := b.Create(ctx, "late", []byte("3"))
		late <- err
	}()
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := b.Update(short, "mine", []byte("x"), rev); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a write while another one has the directory: %v; want it to wait", err)
	}

	opening := time.Now()
	other := openStore(t, dir)
	opened := time.Now()
	ob := bucket(t, other, "things")
	if _, err := ob.Create(ctx, "theirs", []byte("2")); err != nil {
		t.Fatal(err)
	}
	if err := ob.Delete(ctx, "mine", rev); err != nil {
		t.Fatal(err)
	}
	if err := s.Resume(ctx); !errors.Is(err, ErrLocked) {
		t.Errorf("resume while another one has the directory: %v; want %v", err, ErrLocked)
	}
	want(t, b, "mine=1", "nothing changes when resuming fails")
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	resuming := time.Now()
	if err := s.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("suspended in %v, opened in %v, resumed in %v", suspended.Sub(start), opened.Sub(opening), time.Since(resuming))
	if err := <-late; err != nil {
		t.Errorf("the write that waited: %v", err)
	}
	want(t, b, "late=3 theirs=2", "what both have written")
	if _, err := b.Create(ctx, "again", nil); err != nil {
		t.Error(err)
	}
}

// TestSuspendThenClose: writes that wait hear of the end.
func TestSuspendThenClose(t *testing.T) {
	s := openStore(t, t.TempDir())
	b := bucket(t, s, "things")
	if err := s.Suspend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Suspend(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("suspended twice: %v", err)
	}
	late := make(chan error, 1)
	go func() {
		_, err := b.Create(t.Context(), "late", nil)
		late <- err
	}()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-late; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v; want %v", err, ErrClosed)
	}
	other := openStore(t, s.dir[:len(s.dir)-len("/store")])
	if got := bucket(t, other, "things").Len(); got != 0 {
		t.Errorf("%d keys; want none", got)
	}
}

// TestSuspendUnderWrites: whoever writes meanwhile loses nothing.
func TestSuspendUnderWrites(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	b := bucket(t, s, "things")
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 20 {
				if _, err := b.Create(t.Context(), fmt.Sprintf("%d-%d", i, n), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 3 {
		if err := s.Suspend(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if b.Len() != 80 {
		t.Errorf("%d keys; want 80", b.Len())
	}
	s.Close()
	if got := bucket(t, openStore(t, dir), "things").Len(); got != 80 {
		t.Errorf("%d keys on disk; want 80", got)
	}
}
