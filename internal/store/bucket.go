package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Entry is what a bucket holds under one key.
type Entry struct {
	Value []byte // not to be changed by the reader
	Rev   uint64 // grows with every write to the bucket, never 0
}

// Bucket is a set of keys with values. It is safe for concurrent use.
type Bucket struct {
	name  string
	store *Store

	// turn holds one token: writes of this node go one at a time (the engine's
	// disk takes them so anyway), and the ledger's marks are exact. Whoever
	// suspends the store keeps it.
	turn chan struct{}

	// For whoever has the turn.
	kv      jetstream.KeyValue
	watcher jetstream.KeyWatcher
	done    chan struct{} // closed when follow has returned

	mu     sync.RWMutex // guards the fields below
	mirror map[string]slot
	keys   int // in mirror, without the deleted
}

// A slot is the mirror's entry for one key. After a delete of our own it stays,
// marked, until the watch has come as far; or an older write, still on its way
// in the watch, would bring the key back.
type slot struct {
	Entry
	deleted bool
}

// openBucket finds or creates the engine's bucket, checks it against the
// ledger, and fills the mirror. To follow is the caller's.
func openBucket(ctx context.Context, s *Store, name string) (*Bucket, error) {
	known := s.ledger.has(name)
	kv, err := s.js.KeyValue(ctx, name)
	switch {
	case err == nil && !known:
		return nil, fmt.Errorf("%w: the ledger does not know it", ErrDamaged)
	case errors.Is(err, jetstream.ErrBucketNotFound) && s.ledger.mark(name).last > 0:
		return nil, fmt.Errorf("%w: the ledger knows it, the engine could not read it", ErrDamaged)
	case errors.Is(err, jetstream.ErrBucketNotFound):
		kv, err = s.create(ctx, name)
	}
	if err != nil {
		return nil, err
	}
	stream, err := s.js.Stream(ctx, "KV_"+name)
	if err != nil {
		return nil, err
	}
	state := stream.CachedInfo().State
	mark := s.ledger.mark(name)
	if state.LastSeq < mark.last {
		return nil, fmt.Errorf("%w: it ends at revision %d, but %d was acknowledged", ErrDamaged, state.LastSeq, mark.last)
	}
	if state.Lost != nil {
		return nil, fmt.Errorf("%w: the engine lost %d records", ErrDamaged, len(state.Lost.Msgs))
	}
	b := &Bucket{name: name, store: s, kv: kv, done: make(chan struct{}),
		turn: make(chan struct{}, 1), mirror: make(map[string]slot)}
	// The watch outlives ctx; stop ends it.
	if b.watcher, err = kv.WatchAll(context.WithoutCancel(ctx)); err != nil {
		return nil, err
	}
	if err := b.load(ctx, stream, state.Msgs, mark); err != nil {
		b.watcher.Stop()
		return nil, err
	}
	return b, nil
}

// replace makes b the bucket that f is, which was opened later.
func (b *Bucket) replace(f *Bucket) {
	b.kv, b.watcher, b.done = f.kv, f.watcher, f.done
	b.mu.Lock()
	b.mirror, b.keys = f.mirror, f.keys
	b.mu.Unlock()
	go b.follow(b.watcher, b.done)
}

// create makes a bucket in which nothing was ever acknowledged. The ledger comes
// first: a crash in between leaves a bucket in the ledger that ends at revision
// 0, and the next start makes it anew.
func (s *Store) create(ctx context.Context, name string) (jetstream.KeyValue, error) {
	if err := s.ledger.add(name); err != nil {
		return nil, err
	}
	return s.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket:       name,
		Description:  "culvert " + name,
		History:      1,
		MaxValueSize: MaxValue + 4096, // it counts our envelope and its own headers too
		MaxBytes:     -1,
		Storage:      jetstream.FileStorage,
		Replicas:     1,
	})
}

// load fills the mirror with all there is: msgs records, markers of deleted
// keys included, and no fewer keys than the ledger's mark says, except for those
// that were deleted after it. One that cannot be read is one too few.
func (b *Bucket) load(ctx context.Context, stream jetstream.Stream, msgs uint64, mark mark) error {
	var seen, last, gone uint64
	silence := time.NewTicker(time.Second)
	defer silence.Stop()
	for {
		select {
		case e, ok := <-b.watcher.Updates():
			if !ok {
				return errors.New("the engine stopped while the bucket was read")
			}
			if e == nil { // that was all
				if seen != msgs {
					return fmt.Errorf("%w: %d of %d records can be read", ErrDamaged, seen, msgs)
				}
				if keys := uint64(b.Len()); keys+gone < mark.keys {
					return fmt.Errorf("%w: %d keys are there, %d were acknowledged", ErrDamaged, keys, mark.keys)
				}
				return nil
			}
			if err := b.apply(e); err != nil {
				return fmt.Errorf("%w: %w", ErrDamaged, err)
			}
			if e.Operation() != jetstream.KeyValuePut && e.Revision() > mark.last {
				gone++ // and nobody lived to hear it
			}
			seen, last = seen+1, e.Revision()
			silence.Reset(time.Second)
		case <-silence.C:
			// A watch that meets a record it cannot read waits for ever. Ask for
			// that record: an answer says that the watch is merely slow.
			_, err := stream.GetMsg(ctx, last+1, jetstream.WithGetMsgSubject(">"))
			if _, ok := errors.AsType[*jetstream.APIError](err); ok || errors.Is(err, jetstream.ErrMsgNotFound) {
				return fmt.Errorf("%w: the record after revision %d cannot be read", ErrDamaged, last)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// follow carries what others write into the mirror, until the watch is stopped.
func (b *Bucket) follow(watcher jetstream.KeyWatcher, done chan<- struct{}) {
	defer close(done)
	for e := range watcher.Updates() {
		if e == nil {
			continue
		}
		if err := b.apply(e); err != nil {
			b.store.log.Error("store record ignored", "bucket", b.name, "rev", e.Revision(), "err", err)
		}
	}
}

// apply takes one record of the watch.
func (b *Bucket) apply(e jetstream.KeyValueEntry) error {
	key, err := decodeKey(e.Key())
	if err != nil {
		return err
	}
	next := slot{Entry: Entry{Rev: e.Revision()}, deleted: e.Operation() != jetstream.KeyValuePut}
	if !next.deleted {
		if next.Value, err = open(e.Value()); err != nil {
			return fmt.Errorf("key %q: %w", key, err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	have, ok := b.mirror[key]
	if ok && have.Rev > next.Rev {
		return nil // ours, and newer
	}
	b.putLocked(key, next)
	if next.deleted {
		delete(b.mirror, key) // the watch has come this far: no older write follows
	}
	return nil
}

func (b *Bucket) putLocked(key string, next slot) {
	if have, ok := b.mirror[key]; ok && !have.deleted {
		b.keys--
	}
	if !next.deleted {
		b.keys++
	}
	b.mirror[key] = next
}

// Get gives the value under key and its revision. The value must not be changed.
func (b *Bucket) Get(key string) (value []byte, rev uint64, ok bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	s, ok := b.mirror[key]
	if !ok || s.deleted {
		return nil, 0, false
	}
	return s.Value, s.Rev, true
}

// All gives every key with its entry, sorted by key, as they were at the moment
// of the call to the iterator.
func (b *Bucket) All() iter.Seq2[string, Entry] {
	return func(yield func(string, Entry) bool) {
		b.mu.RLock()
		mirror := maps.Clone(b.mirror)
		b.mu.RUnlock()
		for _, key := range slices.Sorted(maps.Keys(mirror)) {
			if s := mirror[key]; !s.deleted && !yield(key, s.Entry) {
				return
			}
		}
	}
}

// Len is the number of keys.
func (b *Bucket) Len() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.keys
}

// Create stores value under a key that has none, or fails with ErrExists. Of
// many who try at the same time, one succeeds.
func (b *Bucket) Create(ctx context.Context, key string, value []byte) (rev uint64, err error) {
	if _, _, ok := b.Get(key); ok {
		return 0, wrap("create", key, ErrExists) // without troubling the disk
	}
	rev, err = b.write(ctx, key, notNil(value), func(ctx context.Context, k string, sealed []byte) (uint64, error) {
		return b.kv.Create(ctx, k, sealed)
	})
	if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, ErrConflict) {
		err = ErrExists
	}
	return rev, wrap("create", key, err)
}

// Update replaces the value under key if its revision is still rev, or fails
// with ErrConflict.
func (b *Bucket) Update(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	if rev == 0 {
		return 0, wrap("update", key, ErrConflict) // the engine would read it as "create"
	}
	next, err := b.write(ctx, key, notNil(value), func(ctx context.Context, k string, sealed []byte) (uint64, error) {
		return b.kv.Update(ctx, k, sealed, rev)
	})
	return next, wrap("update", key, err)
}

// Delete removes key if its revision is still rev, or fails with ErrConflict;
// with ErrNotFound when there is no such key.
func (b *Bucket) Delete(ctx context.Context, key string, rev uint64) error {
	if _, _, ok := b.Get(key); !ok {
		return wrap("delete", key, ErrNotFound)
	}
	if rev == 0 {
		return wrap("delete", key, ErrConflict)
	}
	_, err := b.write(ctx, key, nil, func(ctx context.Context, k string, _ []byte) (uint64, error) {
		// What KeyValue.Delete sends; but that keeps the revision of the marker to
		// itself, and without it the mirror could not tell older from newer.
		m := nats.NewMsg("$KV." + b.name + "." + k)
		m.Header.Set("KV-Operation", "DEL")
		m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(rev, 10))
		ack, err := b.store.js.PublishMsg(ctx, m)
		if err != nil {
			return 0, err
		}
		return ack.Sequence, nil
	})
	return wrap("delete", key, err)
}

// write waits for its turn, has do write the sealed value (nil to delete), and
// brings mirror and ledger up to it. ctx ends the waiting only: a write under
// way is short, and its outcome must be known.
func (b *Bucket) write(ctx context.Context, key string, value []byte, do func(ctx context.Context, k string, sealed []byte) (uint64, error)) (uint64, error) {
	k, err := encodeKey(key)
	if err != nil {
		return 0, err
	}
	if len(value) > MaxValue {
		return 0, fmt.Errorf("value of %d bytes; %d are allowed", len(value), MaxValue)
	}
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-b.store.gone:
		return 0, ErrClosed
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	if b.store.isClosed() {
		return 0, ErrClosed
	}
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	rev, err := do(call, k, seal(value))
	switch {
	case err != nil && b.store.isClosed():
		return 0, ErrClosed // whatever the engine says while it is being stopped
	case errors.Is(err, jetstream.ErrKeyRevisionMismatch) || wrongLastSequence(err):
		return 0, ErrConflict
	case err != nil:
		return 0, err
	}
	next := slot{Entry: Entry{Value: bytes.Clone(value), Rev: rev}, deleted: value == nil}
	return rev, b.wrote(key, next)
}

// wrote notes an acknowledged write of our own, so that whoever asks from now
// on sees it, whether the watch has come as far or not.
func (b *Bucket) wrote(key string, s slot) error {
	b.mu.Lock()
	if have, ok := b.mirror[key]; !ok || have.Rev < s.Rev {
		b.putLocked(key, s)
	}
	b.mu.Unlock()
	return b.store.ledger.advance(b.name, mark{last: s.Rev, keys: uint64(b.Len())})
}

// wrongLastSequence reports whether the engine refused a write because another
// came first.
func wrongLastSequence(err error) bool {
	e, ok := errors.AsType[*jetstream.APIError](err)
	return ok && e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// notNil keeps an empty value apart from none, which write takes for a delete.
func notNil(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}

func wrap(verb, key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %q: %w", verb, key, err)
}

// A value is stored behind four bytes of checksum. The engine has its own for
// what it reads from disk; ours says that the value is one of ours.
const envelope = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func seal(value []byte) []byte {
	out := binary.BigEndian.AppendUint32(make([]byte, 0, envelope+len(value)), crc32.Checksum(value, castagnoli))
	return append(out, value...)
}

func open(sealed []byte) ([]byte, error) {
	if len(sealed) < envelope {
		return nil, errors.New("value is cut short")
	}
	value := sealed[envelope:]
	if binary.BigEndian.Uint32(sealed) != crc32.Checksum(value, castagnoli) {
		return nil, errors.New("value does not match its checksum")
	}
	return value, nil
}
