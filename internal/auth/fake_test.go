package auth

import (
	"context"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/culvertd/culvert/internal/store"
)

// mapBucket is a bucket that forgets, for tests in virtual time.
type mapBucket struct {
	mu   sync.Mutex // guards the fields below
	rev  uint64
	data map[string]store.Entry
}

func newMapBucket() *mapBucket { return &mapBucket{data: make(map[string]store.Entry)} }

func (b *mapBucket) put(key string, value []byte) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rev++
	b.data[key] = store.Entry{Value: value, Rev: b.rev}
	return b.rev
}

func (b *mapBucket) Get(key string) ([]byte, uint64, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.data[key]
	return e.Value, e.Rev, ok
}

func (b *mapBucket) All() iter.Seq2[string, store.Entry] {
	b.mu.Lock()
	defer b.mu.Unlock()
	data := maps.Clone(b.data)
	return func(yield func(string, store.Entry) bool) {
		for _, k := range slices.Sorted(maps.Keys(data)) {
			if !yield(k, data[k]) {
				return
			}
		}
	}
}

func (b *mapBucket) Create(_ context.Context, key string, value []byte) (uint64, error) {
	if _, _, ok := b.Get(key); ok {
		return 0, store.ErrExists
	}
	return b.put(key, value), nil
}

func (b *mapBucket) Delete(_ context.Context, key string, rev uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.data[key]
	switch {
	case !ok:
		return store.ErrNotFound
	case e.Rev != rev:
		return store.ErrConflict
	}
	delete(b.data, key)
	return nil
}
