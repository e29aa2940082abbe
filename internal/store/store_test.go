package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("CULVERT_STORE_CHILD"); dir != "" {
		writeUntilKilled(dir)
	}
	goleak.VerifyTestMain(m)
}

func openStore(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func bucket(t *testing.T, s *Store, name string) *Bucket {
	t.Helper()
	b, err := s.Bucket(t.Context(), name)
	if err != nil {
		t.Fatalf("bucket: %v", err)
	}
	return b
}

// contents is a bucket as text, sorted.
func contents(b *Bucket) string {
	var out []string
	for k, e := range b.All() {
		out = append(out, k+"="+string(e.Value))
	}
	return strings.Join(out, " ")
}

func want(t *testing.T, b *Bucket, what, why string) {
	t.Helper()
	if got := contents(b); got != what {
		t.Errorf("got %q, want %q: %s", got, what, why)
	}
}

func TestReadYourWrites(t *testing.T) {
	b := bucket(t, openStore(t, t.TempDir()), "things")
	ctx := t.Context()
	for i := range 200 { // often enough for the watch to be behind
		key := "k" + strconv.Itoa(i)
		rev, err := b.Create(ctx, key, []byte("one"))
		if err != nil {
			t.Fatal(err)
		}
		if v, r, ok := b.Get(key); !ok || string(v) != "one" || r != rev {
			t.Fatalf("after create: got %q, %d, %v; want what was just written at %d", v, r, ok, rev)
		}
		if rev, err = b.Update(ctx, key, []byte("two"), rev); err != nil {
			t.Fatal(err)
		}
		if v, r, _ := b.Get(key); string(v) != "two" || r != rev {
			t.Fatalf("after update: got %q at %d; want two at %d", v, r, rev)
		}
		if err := b.Delete(ctx, key, rev); err != nil {
			t.Fatal(err)
		}
		if _, _, ok := b.Get(key); ok {
			t.Fatal("after delete: the key is still there")
		}
		if b.Len() != 0 {
			t.Fatalf("after delete: %d keys; want none", b.Len())
		}
		if _, err = b.Create(ctx, key, []byte("three")); err != nil {
			t.Fatalf("create after delete: %v", err)
		}
		if v, _, ok := b.Get(key); !ok || string(v) != "three" {
			t.Fatalf("after the second create: got %q, %v", v, ok)
		}
		_, rev, _ = b.Get(key)
		if err := b.Delete(ctx, key, rev); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWatchNeverGoesBack(t *testing.T) {
	b := &Bucket{name: "x", mirror: map[string]slot{}}
	at := func(op string, rev uint64) fakeEntry {
		return fakeEntry{key: "k", op: op, rev: rev, value: seal([]byte(op))}
	}
	b.mirror["k"] = slot{Entry: Entry{Value: []byte("own"), Rev: 5}}
	for _, e := range []fakeEntry{at("put", 3), at("del", 4)} {
		if err := b.apply(e); err != nil {
			t.Fatal(err)
		}
		want(t, b, "k=own", "an older record must not replace an own write")
	}
	b.mirror["k"] = slot{Entry: Entry{Rev: 6}, deleted: true}
	b.apply(at("put", 5))
	want(t, b, "", "an older put must not undo an own delete")
	b.apply(at("del", 6))
	if len(b.mirror) != 0 {
		t.Error("the marker is still there; want it gone once the watch has come as far")
	}
	b.apply(at("put", 7))
	want(t, b, "k=put", "a newer record counts")
	if err := b.apply(fakeEntry{key: "k", op: "put", rev: 8, value: []byte("xxxxunsealed")}); err == nil {
		t.Error("a value with a wrong checksum was taken")
	}
	if err := b.apply(fakeEntry{key: "k.k", op: "put", rev: 8, value: seal(nil)}); err == nil {
		t.Error("a key that is not ours was taken")
	}
}

func TestRefusals(t *testing.T) {
	s := openStore(t, t.TempDir())
	b, ctx := bucket(t, s, "things"), t.Context()
	rev, err := b.Create(ctx, "a", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, got, want error) {
		t.Helper()
		if !errors.Is(got, want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	_, err = b.Create(ctx, "a", []byte("2"))
	check("create again", err, ErrExists)
	_, err = b.Update(ctx, "a", []byte("2"), rev+1)
	check("update of a revision that never was", err, ErrConflict)
	_, err = b.Update(ctx, "a", []byte("2"), 0)
	check("update of revision 0", err, ErrConflict)
	_, err = b.Update(ctx, "b", []byte("2"), 1)
	check("update of nothing", err, ErrConflict)
	check("delete of nothing", b.Delete(ctx, "b", 1), ErrNotFound)
	check("delete of a revision that never was", b.Delete(ctx, "a", rev+1), ErrConflict)
	check("delete of revision 0", b.Delete(ctx, "a", 0), ErrConflict)
	rev2, err := b.Update(ctx, "a", []byte("2"), rev)
	check("update", err, nil)
	_, err = b.Update(ctx, "a", []byte("3"), rev)
	check("update of the revision before", err, ErrConflict)
	check("delete of the revision before", b.Delete(ctx, "a", rev), ErrConflict)
	check("delete", b.Delete(ctx, "a", rev2), nil)
	check("delete again", b.Delete(ctx, "a", rev2), ErrNotFound)
	_, err = b.Update(ctx, "a", []byte("3"), rev2)
	check("update of what was deleted", err, ErrConflict)

	for _, key := range []string{"", strings.Repeat("k", MaxKey+1)} {
		if _, err := b.Create(ctx, key, nil); err == nil {
			t.Errorf("a key of %d bytes was taken", len(key))
		}
	}
	if _, err := b.Create(ctx, "big", make([]byte, MaxValue+1)); err == nil {
		t.Error("a value beyond the limit was taken")
	}
	if _, err := b.Create(ctx, "big", make([]byte, MaxValue)); err != nil {
		t.Errorf("a value of the limit: %v", err)
	}
	for _, name := range []string{"", "a.b", "a/b", "..", "a b", "condemned", "a*"} {
		if _, err := s.Bucket(ctx, name); err == nil {
			t.Errorf("bucket name %q was taken", name)
		}
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	keys := []string{"a", "A", "a.b", "*", ">", "$x", "ä", "a b", "=41", "\x00\xff", "../x", strings.Repeat("ü", MaxKey/2)}
	s := openStore(t, dir)
	b := bucket(t, s, "things")
	for _, k := range keys {
		if _, err := b.Create(t.Context(), k, []byte("v"+k)); err != nil {
			t.Fatalf("create %q: %v", k, err)
		}
	}
	_, rev, _ := b.Get("a")
	rev, _ = b.Update(t.Context(), "a", []byte("va2"), rev)
	_, gone, _ := b.Get("A")
	if err := b.Delete(t.Context(), "A", gone); err != nil {
		t.Fatal(err)
	}
	before := contents(b)
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("close again: %v", err)
	}
	want(t, b, before, "reads go on after Close")
	if _, err := b.Create(t.Context(), "late", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("write after Close: got %v, want ErrClosed", err)
	}
	if _, err := s.Bucket(t.Context(), "other"); !errors.Is(err, ErrClosed) {
		t.Errorf("Bucket after Close: got %v, want ErrClosed", err)
	}

	for range 3 {
		s = openStore(t, dir)
		b = bucket(t, s, "things")
		want(t, b, before, "a restart changes nothing")
		if _, got, _ := b.Get("a"); got != rev {
			t.Errorf("revision %d after the restart, want %d", got, rev)
		}
		if _, _, ok := b.Get("A"); ok {
			t.Error("a deleted key came back")
		}
		s.Close()
	}
	if !slices.IsSortedFunc(slices.Collect(keysOf(b)), strings.Compare) {
		t.Error("All is not sorted")
	}
}

func keysOf(b *Bucket) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range b.All() {
			if !yield(k) {
				return
			}
		}
	}
}

// TestCreateRace: of many who want a name at the same moment, one gets it.
func TestCreateRace(t *testing.T) {
	b := bucket(t, openStore(t, t.TempDir()), "names")
	for round := range 20 {
		key := "blog" + strconv.Itoa(round)
		var winners atomic.Int32
		var winner atomic.Value
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				who := "owner" + strconv.Itoa(i)
				switch _, err := b.Create(t.Context(), key, []byte(who)); {
				case err == nil:
					winners.Add(1)
					winner.Store(who)
				case !errors.Is(err, ErrExists):
					t.Errorf("a loser got %v, want ErrExists", err)
				}
			})
		}
		wg.Wait()
		if n := winners.Load(); n != 1 {
			t.Fatalf("%d winners; want one", n)
		}
		if v, _, _ := b.Get(key); string(v) != winner.Load() {
			t.Fatalf("the store holds %q, but %q was told it won", v, winner.Load())
		}
	}
}

// TestUpdateRace: a counter that many raise with compare-and-set misses none.
func TestUpdateRace(t *testing.T) {
	b := bucket(t, openStore(t, t.TempDir()), "things")
	if _, err := b.Create(t.Context(), "n", []byte("0")); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	const workers, each = 8, 15
	for range workers {
		wg.Go(func() {
			for done := 0; done < each; {
				v, rev, _ := b.Get("n")
				n, _ := strconv.Atoi(string(v))
				_, err := b.Update(t.Context(), "n", []byte(strconv.Itoa(n+1)), rev)
				if err == nil {
					done++
				} else if !errors.Is(err, ErrConflict) {
					t.Errorf("update: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	want(t, b, "n="+strconv.Itoa(workers*each), "each success counts once")
}

func TestTwoNodes(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	if second, err := Open(t.Context(), Config{Dir: dir}); !errors.Is(err, ErrLocked) {
		t.Fatalf("second Open: got %v, %v; want ErrLocked", second, err)
	}
	bucket(t, s, "things") // the first is unharmed
	s.Close()
	openStore(t, dir)
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := openStore(t, dir)
	b := bucket(t, s, "things")
	if _, err := b.Create(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Join(dir, "store"), filepath.Join(dir, "store", "ledger")} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v; want it closed to others", path, info.Mode(), err)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	if _, err := Open(t.Context(), Config{}); err == nil {
		t.Error("no directory: opened")
	}
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, nil, 0o600)
	if _, err := Open(t.Context(), Config{Dir: file}); err == nil {
		t.Error("a file for a directory: opened")
	}
	dir := t.TempDir()
	os.MkdirAll(filepath.Join(dir, "store", "ledger"), 0o700)
	os.WriteFile(filepath.Join(dir, "store", "single"), []byte("no directory"), 0o600)
	if _, err := Open(t.Context(), Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("engine's directory is a file: got %v; want the engine's own reason", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := openStore(t, t.TempDir())
	cancel()
	if _, err := s.Bucket(ctx, "things"); !errors.Is(err, context.Canceled) {
		t.Errorf("bucket with a ctx that has ended: got %v", err)
	}
}

// TestKill: what was acknowledged survives kill -9, whatever was under way.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := t.TempDir()
	acked := map[string]bool{}
	for round := range 3 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "CULVERT_STORE_CHILD="+dir, "CULVERT_STORE_ROUND="+strconv.Itoa(round))
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			acked[lines.Text()] = true
			if n == 150 {
				child.Process.Kill()
			}
		}
		child.Wait()

		s := openStore(t, dir)
		b := bucket(t, s, "things")
		for key := range acked {
			if v, _, ok := b.Get(key); !ok || string(v) != "value of "+key {
				t.Fatalf("round %d: %q was acknowledged and is now %q, %v", round, key, v, ok)
			}
		}
		s.Close()
	}
	if len(acked) < 300 {
		t.Fatalf("only %d writes were acknowledged; the test tested nothing", len(acked))
	}
}

// writeUntilKilled is the other process of TestKill: it says each key when its
// write has returned.
func writeUntilKilled(dir string) {
	ctx := context.Background()
	s, err := Open(ctx, Config{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	b, err := s.Bucket(ctx, "things")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for i := 0; ; i++ {
		key := fmt.Sprintf("round%s-%d", os.Getenv("CULVERT_STORE_ROUND"), i)
		if _, err := b.Create(ctx, key, []byte("value of "+key)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(key)
	}
}

// TestOneSpelling: a key has one spelling in the engine, and comes back from it.
func FuzzKey(f *testing.F) {
	for _, k := range []string{"a", "a.b", "=41", "=", "ü", "\x00", "*.>"} {
		f.Add(k)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if enc, err := encodeKey(key); err == nil {
			if back, err := decodeKey(enc); err != nil || back != key {
				t.Errorf("%q became %q and came back as %q, %v", key, enc, back, err)
			}
			if bytes.ContainsAny([]byte(enc), ". *>\t\r\n") {
				t.Errorf("%q became %q, which is no subject", key, enc)
			}
		}
		if dec, err := decodeKey(key); err == nil {
			if back, err := encodeKey(dec); err != nil || back != key {
				t.Errorf("%q was read as %q, but that is written %q, %v", key, dec, back, err)
			}
		}
	})
}
