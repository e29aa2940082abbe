// Package store remembers what a node must still know after a restart: tokens,
// names, and whatever else fits in small values under a key. It is a NATS
// server with JetStream, run inside this process with no listener, and a mirror
// of every bucket in memory.
//
// Writes are compare-and-set and are on disk (fsync) when they return. Reads
// come from the mirror: they never block, never fail, and see every write of
// this node that has returned. A watch carries into the mirror what others wrote.
//
// What was acknowledged once is never silently missing. Beside the engine's
// files stands a ledger of ours (which buckets exist, and how far each has
// come), and every value carries a checksum. When the files do not live up to
// the ledger the store refuses to open, and goes on refusing: an operator
// restores a copy, or says that the loss is accepted by removing the directory.
// A node that has forgotten who owns a name must not start to give names away.
//
// Open starts everything, Close stops it and waits. In between, Suspend lets
// another process have the directory, and Resume takes it back. The store does
// not know what its values mean, does not expire them, and is not a queue.
package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// MaxKey and MaxValue bound what a bucket takes, in bytes.
	MaxKey   = 256
	MaxValue = 256 << 10

	// Every JetStream limit is explicit: left alone, the engine takes its share
	// of whatever disk and memory it finds. Memory is for its own consumers.
	maxDisk   = 4 << 30
	maxMemory = 32 << 20

	startTimeout = 20 * time.Second // recovery of a large store included
	callTimeout  = 10 * time.Second // one request to the engine in this process
)

var (
	ErrExists   = errors.New("key exists")
	ErrConflict = errors.New("value changed meanwhile")
	ErrNotFound = errors.New("key not found")
	ErrClosed   = errors.New("store closed")

	// ErrLocked means that another node is running on the same directory.
	ErrLocked = errors.New("in use by another node")

	// ErrDamaged means that the directory is not ours, or that what it holds is
	// less than what was once acknowledged.
	ErrDamaged = errors.New("store is damaged")
)

// Config says where the store lives.
type Config struct {
	// Dir is the node's data directory; the store keeps to DIR/store. It is
	// created, for this user only, if it is missing.
	Dir string

	// Log receives what the engine has to say. Nil means silence.
	Log *slog.Logger
}

// Store is an open store. It is safe for concurrent use.
type Store struct {
	dir  string // DIR/store
	log  *slog.Logger
	gone chan struct{} // closed by Close

	// What runs, and nothing while the store is suspended. Whoever has the turn
	// of every bucket may change it, and of any bucket read it.
	lock   *os.File
	ledger *ledger
	server *server.Server
	conn   *nats.Conn
	js     jetstream.JetStream

	mu        sync.Mutex // guards the fields below
	buckets   map[string]*Bucket
	suspended bool
	closed    bool
}

// Open opens the store of a node and creates it if there is none. ctx bounds
// the opening only. It fails with ErrLocked while another process has the
// directory open, and with ErrDamaged when the directory cannot be trusted.
func Open(ctx context.Context, cfg Config) (_ *Store, err error) {
	s := &Store{
		dir:     filepath.Join(cfg.Dir, "store"),
		log:     cmp.Or(cfg.Log, slog.New(slog.DiscardHandler)),
		gone:    make(chan struct{}),
		buckets: make(map[string]*Bucket),
	}
	if cfg.Dir == "" {
		return nil, errors.New("open store: no directory given")
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := s.start(ctx); err != nil {
		return nil, fmt.Errorf("open store %s: %w", s.dir, err)
	}
	if err := s.verify(ctx); err != nil {
		s.stop()
		return nil, fmt.Errorf("open store %s: %w", s.dir, err)
	}
	return s, nil
}

// start takes the directory, and runs what is in it. If it fails, it leaves
// nothing behind.
func (s *Store) start(ctx context.Context) (err error) {
	if s.lock, err = lockFile(filepath.Join(s.dir, "lock")); err != nil {
		return err // and there is none
	}
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	// The engine is told "single" and never anything else: a cluster's engine
	// deletes what a lone one has written (nats-server#5467).
	engine := filepath.Join(s.dir, "single")
	if s.ledger, err = openLedger(filepath.Join(s.dir, "ledger"), engine); err != nil {
		return err // and there is none
	}
	return s.startEngine(ctx, engine)
}

// startEngine runs the engine and connects to it.
func (s *Store) startEngine(ctx context.Context, dir string) error {
	log := &engineLog{log: s.log}
	engine, err := server.NewServer(&server.Options{
		ServerName: "culvert",
		DontListen: true,
		NoSigs:     true,
		StoreDir:   dir,
		JetStream:  true,
		SyncAlways: true,

		JetStreamMaxMemory: maxMemory,
		JetStreamMaxStore:  maxDisk,
		MaxPayload:         2 * MaxValue,
	})
	if err != nil {
		return fmt.Errorf("build the engine: %w", err)
	}
	engine.SetLoggerV2(log, false, false, false)
	s.server = engine
	engine.Start() // returns when it runs, or has said why not
	deadline := startTimeout
	if d, ok := ctx.Deadline(); ok {
		deadline = min(deadline, time.Until(d))
	}
	if log.died() || !engine.ReadyForConnections(deadline) || !engine.JetStreamEnabled() {
		return fmt.Errorf("the engine did not start: %s", cmp.Or(log.lastError(), "no reason given"))
	}
	s.conn, err = nats.Connect("", nats.InProcessServer(engine), nats.Name("culvert store"),
		nats.NoReconnect()) // there is nothing between us that could break
	if err != nil {
		return fmt.Errorf("connect to the engine: %w", err)
	}
	s.js, err = jetstream.New(s.conn, jetstream.WithDefaultTimeout(callTimeout))
	return err
}

// verify loads every bucket the ledger knows of, so that damage shows when the
// node starts and not when somebody asks.
func (s *Store) verify(ctx context.Context) error {
	for _, name := range s.ledger.names() {
		if _, err := s.Bucket(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// Bucket gives the bucket of that name, created if it is missing, with its
// mirror loaded. Asking twice gives the same bucket. Names are letters, digits,
// hyphens and underscores.
func (s *Store) Bucket(ctx context.Context, name string) (*Bucket, error) {
	s.mu.Lock()
	defer s.mu.Unlock() // held over the engine's answer: buckets are opened at start, one by one
	if b := s.buckets[name]; b != nil {
		return b, nil
	}
	if s.closed || s.suspended {
		return nil, ErrClosed
	}
	b, err := openBucket(ctx, s, name)
	if errors.Is(err, ErrDamaged) {
		s.ledger.condemn(err)
	}
	if err != nil {
		return nil, fmt.Errorf("bucket %q: %w", name, err)
	}
	go b.follow(b.watcher, b.done)
	s.buckets[name] = b
	return b, nil
}

// Close stops the engine and waits until everything it holds is closed. Reads
// go on answering from the mirror; writes fail with ErrClosed. It is idempotent.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.gone)
	s.mu.Unlock()
	return s.stop()
}

// Suspend lets another process have the directory, until Resume. Reads go on
// answering from the mirror. Writes under way are finished; others wait for
// Resume, for Close, or for the end of their context. Whoever calls Suspend
// calls Resume and Close as well, one after the other.
func (s *Store) Suspend(ctx context.Context) error {
	s.mu.Lock()
	if s.closed || s.suspended {
		s.mu.Unlock()
		return ErrClosed
	}
	s.suspended = true // no further bucket
	s.mu.Unlock()
	var held []*Bucket
	for _, b := range s.buckets {
		select {
		case b.turn <- struct{}{}:
			held = append(held, b)
		case <-ctx.Done():
			s.goOn(held)
			return context.Cause(ctx)
		}
	}
	return s.release()
}

// Resume takes the directory back. What another process wrote meanwhile is there
// then. If it fails, the store stays suspended, and Resume may be tried again.
func (s *Store) Resume(ctx context.Context) (err error) {
	if err := s.start(ctx); err != nil {
		return fmt.Errorf("resume store %s: %w", s.dir, err)
	}
	fresh := make(map[*Bucket]*Bucket)
	for name, b := range s.buckets {
		if fresh[b], err = openBucket(ctx, s, name); err != nil {
			for _, f := range fresh {
				if f != nil {
					f.watcher.Stop()
				}
			}
			if errors.Is(err, ErrDamaged) {
				s.ledger.condemn(err)
			}
			s.release()
			return fmt.Errorf("resume store %s: bucket %q: %w", s.dir, name, err)
		}
	}
	var held []*Bucket
	for b, f := range fresh {
		b.replace(f)
		held = append(held, b)
	}
	s.goOn(held)
	return nil
}

// goOn lets writes pass again.
func (s *Store) goOn(held []*Bucket) {
	s.mu.Lock()
	s.suspended = false
	s.mu.Unlock()
	for _, b := range held {
		<-b.turn
	}
}

func (s *Store) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// release is stop, for a store that is to start again.
func (s *Store) release() error {
	err := s.stop()
	s.lock, s.ledger, s.server, s.conn, s.js = nil, nil, nil, nil, nil
	return err
}

// stop undoes start, as far as it came, and ends the watches.
func (s *Store) stop() error {
	for _, b := range s.buckets {
		b.watcher.Stop()
	}
	if s.conn != nil {
		s.conn.Close()
	}
	for _, b := range s.buckets {
		<-b.done
	}
	if s.server != nil {
		s.server.Shutdown()
		s.server.WaitForShutdown()
	}
	var errs []error
	if s.ledger != nil {
		errs = append(errs, s.ledger.close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close()) // which unlocks
	}
	return errors.Join(errs...)
}
