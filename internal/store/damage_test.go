package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// written makes a data directory with 40 keys in it, as it looks after a clean
// stop, or as a crash leaves it (a copy taken while the store is open).
func written(t *testing.T, crash bool) string {
	t.Helper()
	dir := t.TempDir()
	s := openStore(t, dir)
	b := bucket(t, s, "things")
	for i := range 40 {
		if _, err := b.Create(t.Context(), fmt.Sprintf("key%02d", i), []byte(strings.Repeat("v", 100))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10 { // holes in the middle, as in real life
		key := fmt.Sprintf("key%02d", 3*i)
		_, rev, _ := b.Get(key)
		if _, err := b.Update(t.Context(), key, []byte("again"), rev); err != nil {
			t.Fatal(err)
		}
	}
	if !crash {
		s.Close()
		return dir
	}
	copied := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	return copied
}

// find gives the files of the engine whose path ends so; there must be some.
func find(t *testing.T, dir, suffix string) []string {
	t.Helper()
	var found []string
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, suffix) && !strings.Contains(path, "/obs/") {
			found = append(found, path)
		}
		return err
	})
	if len(found) == 0 {
		t.Fatalf("no file …%s under %s", suffix, dir)
	}
	return found
}

func edit(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(raw), 0o600); err != nil {
		t.Fatal(err)
	}
}

func flip(at func(n int) int) func([]byte) []byte {
	return func(b []byte) []byte { b[at(len(b))] ^= 0x55; return b }
}

// TestCrashCopy: the copies the damage is done to are healthy without it.
func TestCrashCopy(t *testing.T) {
	b := bucket(t, openStore(t, written(t, true)), "things")
	if b.Len() != 40 {
		t.Fatalf("%d keys; want 40", b.Len())
	}
}

// TestDamage: data that was lost or altered is refused, never taken for a store
// in which it was not written; and refused again the next time, although the
// engine has repaired its files meanwhile.
func TestDamage(t *testing.T) {
	type change = func(t *testing.T, dir string)
	file := func(suffix string, edits ...func([]byte) []byte) change {
		return func(t *testing.T, dir string) {
			for _, path := range find(t, dir, suffix) {
				for _, e := range edits {
					edit(t, path, e)
				}
			}
		}
	}
	remove := func(suffix string) change {
		return func(t *testing.T, dir string) {
			for _, path := range find(t, dir, suffix) {
				os.Remove(path)
			}
		}
	}
	half := func(b []byte) []byte { return b[:len(b)/2] }
	none := func([]byte) []byte { return nil }
	both := func(a, b change) change { return func(t *testing.T, d string) { a(t, d); b(t, d) } }
	for name, damage := range map[string]change{
		"a value's byte":                    file(".blk", flip(func(n int) int { return n / 2 })),
		"an early record":                   file(".blk", func(b []byte) []byte { b[bytes.Index(b, []byte("key01"))+40] ^= 1; return b }),
		"the last record":                   file(".blk", flip(func(n int) int { return n - 20 })),
		"a value's byte, and no index":      both(file(".blk", flip(func(n int) int { return n / 2 })), remove("/index.db")),
		"the data cut in half":              file(".blk", half),
		"the data cut in half, no index":    both(file(".blk", half), remove("/index.db")),
		"the data emptied":                  file(".blk", none),
		"the data emptied, no index":        both(file(".blk", none), remove("/index.db")),
		"the data removed":                  remove(".blk"),
		"the data removed, no index":        both(remove(".blk"), remove("/index.db")),
		"the data is garbage":               file(".blk", func(b []byte) []byte { clear(b); return b }),
		"the stream's description":          file("/meta.inf", flip(func(n int) int { return n / 2 })),
		"the stream's description emptied":  file("/meta.inf", none),
		"the stream's description removed":  remove("/meta.inf"),
		"the stream's sum":                  file("/meta.sum", flip(func(n int) int { return n / 2 })),
		"the engine's directory removed":    func(t *testing.T, dir string) { os.RemoveAll(filepath.Join(dir, "store", "single")) },
		"the streams removed":               func(t *testing.T, dir string) { os.RemoveAll(filepath.Join(dir, "store", "single", "jetstream")) },
		"the ledger removed":                func(t *testing.T, dir string) { os.RemoveAll(filepath.Join(dir, "store", "ledger")) },
		"the ledger's line removed":         remove("/ledger/things"),
		"the ledger's line is garbage":      file("/ledger/things", func(b []byte) []byte { clear(b); return b }),
		"an older engine under this ledger": func(t *testing.T, dir string) { older(t, dir) },
	} {
		for _, crash := range []bool{false, true} {
			if _, err := os.Stat("/nonexistent"); crash && strings.Contains(name, "index") && err != nil {
				continue // a crash leaves none
			}
			t.Run(fmt.Sprintf("%s/crash=%v", name, crash), func(t *testing.T) {
				dir := written(t, crash)
				damage(t, dir)
				for _, when := range []string{"at once", "again"} {
					s, err := Open(t.Context(), Config{Dir: dir})
					if err == nil {
						var b *Bucket
						if b, err = s.Bucket(t.Context(), "things"); err == nil {
							t.Errorf("%s: opened with %d of 40 keys", when, b.Len())
						}
						s.Close()
					}
					if !errors.Is(err, ErrDamaged) {
						t.Errorf("%s: got %v; want ErrDamaged", when, err)
					}
				}
			})
		}
	}
}

// older replaces the engine's files by those of another, shorter life.
func older(t *testing.T, dir string) {
	other := t.TempDir()
	s := openStore(t, other)
	b := bucket(t, s, "things")
	if _, err := b.Create(t.Context(), "key00", []byte("old")); err != nil {
		t.Fatal(err)
	}
	s.Close()
	os.RemoveAll(filepath.Join(dir, "store", "single"))
	if err := os.Rename(filepath.Join(other, "store", "single"), filepath.Join(dir, "store", "single")); err != nil {
		t.Fatal(err)
	}
}

// TestTornLedger: a line of the ledger is written in turn to two slots, and a
// write that a power cut tore leaves the one before it.
func TestTornLedger(t *testing.T) {
	dir := written(t, false)
	path := filepath.Join(dir, "store", "ledger", "things")
	edit(t, path, func(b []byte) []byte {
		a, _ := parseSlot(b)
		z, _ := parseSlot(b[slotPlace:])
		if max(a.last, z.last) != 50 || a.last+z.last != 99 || a.keys != 40 || z.keys != 40 {
			t.Fatalf("slots say %v and %v; want 49 and 50, and 40 keys", a, z)
		}
		torn := 0
		if z.last > a.last {
			torn = slotPlace
		}
		b[torn+8] ^= 0xff
		return b
	})
	if b := bucket(t, openStore(t, dir), "things"); b.Len() != 40 {
		t.Errorf("%d keys; want all 40", b.Len())
	}
}

// TestCrashWhileCreating: the ledger is told of a bucket before the engine is;
// a crash in between is not damage, since nothing was acknowledged.
func TestCrashWhileCreating(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	if err := s.ledger.add("things"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	b := bucket(t, openStore(t, dir), "things")
	if _, err := b.Create(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
}
