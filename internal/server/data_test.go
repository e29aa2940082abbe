package server_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/culvertd/culvert/internal/server"
)

// TestDataMode: what is open to others is closed, if it is ours to close.
func TestDataMode(t *testing.T) {
	for what, c := range map[string]struct {
		prepare func(dir string) error
		refused bool
	}{
		"empty":      {func(dir string) error { return nil }, false},
		"used":       {func(dir string) error { return os.Mkdir(filepath.Join(dir, "store"), 0o700) }, false},
		"somebody's": {func(dir string) error { return os.Mkdir(filepath.Join(dir, "dpkg"), 0o700) }, true},
		"shared":     {func(dir string) error { return os.Chmod(dir, 0o777|os.ModeSticky) }, true},
		"another's": {func(dir string) error {
			if os.Geteuid() != 0 {
				return os.Mkdir(filepath.Join(dir, "other"), 0o700) // only root can give it away
			}
			return os.Chown(dir, 12345, 12345)
		}, true},
	} {
		dir := t.TempDir()
		if err := errors.Join(os.Chmod(dir, 0o755), c.prepare(dir)); err != nil {
			t.Fatal(err)
		}
		before, _ := os.Stat(dir)
		err := runFor(t, dir, "a.test")
		e, refused := errors.AsType[*server.ConfigError](err)
		if refused != c.refused || refused && e.Field != "data" {
			t.Errorf("%s: got %v; want refused: %t", what, err, c.refused)
		}
		after, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if c.refused && after.Mode() != before.Mode() || !c.refused && after.Mode().Perm() != 0o700 {
			t.Errorf("%s: mode went from %v to %v", what, before.Mode(), after.Mode())
		}
	}
}

// TestOtherDomain: a CA made for another domain is a mistake in the settings.
func TestOtherDomain(t *testing.T) {
	dir := t.TempDir()
	if err := runFor(t, dir, "a.test"); err != nil {
		t.Fatal(err)
	}
	err := runFor(t, dir, "b.test")
	if e, ok := errors.AsType[*server.ConfigError](err); !ok || e.Field != "tls" || e.Err == nil {
		t.Errorf("got %v; want an error about tls", err)
	}
}

// runFor runs a node until it is ready, or fails.
func runFor(t *testing.T, dir, domain string) error {
	t.Helper()
	ready := make(chan server.Ready, 1)
	n, err := server.New(server.Config{Domain: domain, Data: dir, Listen: "127.0.0.1:0", OnReady: func(r server.Ready) { ready <- r }})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- n.Run(t.Context()) }()
	select {
	case <-ready:
		n.Close()
		return <-ended
	case err := <-ended:
		return err
	}
}
