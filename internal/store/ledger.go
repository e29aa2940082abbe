package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// The ledger is a directory of our own beside the engine's: one small file for
// each bucket, which says up to which revision writes were acknowledged and how
// many keys there were then, and a file named condemned once the store was found damaged. The engine repairs a
// broken file by forgetting what it cannot read, and a repaired store looks
// like a store in which that was never written. The ledger knows better.
type ledger struct {
	dir string

	mu    sync.Mutex // guards the fields below, and is held over writes to local disk
	lines map[string]*line
}

// A line is one bucket's file: two slots, written in turn, so that a torn write
// leaves the other one whole.
type line struct {
	file *os.File
	mark
	next int // the slot to write
}

// A mark is what a slot holds: a magic u32, then these, then the CRC-32C of all
// that, big-endian.
type mark struct {
	last uint64 // the revision of the last write that was acknowledged
	keys uint64 // how many keys there were after it
}

const (
	condemned = "condemned"
	slotMagic = 0x63766c31 // "cvl1"
	slotSize  = 24
	slotPlace = 512 // two sectors: a torn write spoils one slot
)

// openLedger reads the ledger, or starts one where there is no engine yet.
func openLedger(dir, engine string) (*ledger, error) {
	l := &ledger{dir: dir, lines: make(map[string]*line)}
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if there, err := os.ReadDir(engine); err == nil && len(there) > 0 {
			return nil, fmt.Errorf("%w: %s was not written by culvertd", ErrDamaged, engine)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
		return l, syncDir(filepath.Dir(dir))
	}
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if f.Name() == condemned {
			why, _ := os.ReadFile(filepath.Join(dir, condemned))
			l.close()
			return nil, fmt.Errorf("%w: %s", ErrDamaged, why)
		}
		if err := l.read(f.Name()); err != nil {
			l.close()
			return nil, err
		}
	}
	return l, nil
}

// read reads one bucket's file and keeps it open.
func (l *ledger) read(name string) error {
	f, err := os.OpenFile(filepath.Join(l.dir, name), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	ln := &line{file: f}
	l.lines[name] = ln
	raw := make([]byte, slotPlace+slotSize)
	n, _ := f.ReadAt(raw, 0)
	raw = raw[:n]
	if n == 0 {
		return nil // made, and never written to: nothing was acknowledged
	}
	whole := false
	for i := range 2 {
		if len(raw) < i*slotPlace+slotSize {
			continue
		}
		if m, ok := parseSlot(raw[i*slotPlace:][:slotSize]); ok && (!whole || m.last > ln.last) {
			ln.mark, ln.next, whole = m, 1-i, true
		}
	}
	if !whole {
		return fmt.Errorf("%w: ledger file %q cannot be read", ErrDamaged, name)
	}
	return nil
}

// names lists the buckets, sorted.
func (l *ledger) names() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.lines))
}

func (l *ledger) has(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines[name] != nil
}

// mark is the last mark of bucket name, the zero mark if nothing was written.
func (l *ledger) mark(name string) mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ln := l.lines[name]; ln != nil {
		return ln.mark
	}
	return mark{}
}

// add starts the file of a new bucket; one that is there stays as it is.
func (l *ledger) add(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines[name] != nil {
		return nil
	}
	if name == condemned || filepath.Base(name) != name {
		return fmt.Errorf("bucket name %q is not allowed", name)
	}
	f, err := os.OpenFile(filepath.Join(l.dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	l.lines[name] = &line{file: f}
	return syncDir(l.dir)
}

// advance notes, on disk, how far bucket name has come. A bucket's writes take
// turns, so marks only grow.
func (l *ledger) advance(name string, m mark) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln := l.lines[name]
	if ln == nil {
		return ErrClosed
	}
	if _, err := ln.file.WriteAt(slotOf(m), int64(ln.next)*slotPlace); err != nil {
		return err
	}
	if err := ln.file.Sync(); err != nil {
		return err
	}
	ln.mark, ln.next = m, 1-ln.next
	return nil
}

// condemn makes the refusal outlive this process: the engine may have repaired
// its files by now, and would look healthy next time.
func (l *ledger) condemn(why error) {
	reason := why.Error()
	if inner := errors.Unwrap(why); errors.Is(inner, ErrDamaged) {
		reason = inner.Error()
	}
	os.WriteFile(filepath.Join(l.dir, condemned), []byte(reason+"\n"), 0o600)
	syncDir(l.dir)
}

func (l *ledger) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, ln := range l.lines {
		errs = append(errs, ln.file.Close())
	}
	clear(l.lines)
	return errors.Join(errs...)
}

func slotOf(m mark) []byte {
	b := binary.BigEndian.AppendUint32(nil, slotMagic)
	b = binary.BigEndian.AppendUint64(b, m.last)
	b = binary.BigEndian.AppendUint64(b, m.keys)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func parseSlot(b []byte) (mark, bool) {
	if binary.BigEndian.Uint32(b) != slotMagic || binary.BigEndian.Uint32(b[20:]) != crc32.Checksum(b[:20], castagnoli) {
		return mark{}, false
	}
	return mark{binary.BigEndian.Uint64(b[4:]), binary.BigEndian.Uint64(b[12:])}, true
}

// syncDir makes the making of a file durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
