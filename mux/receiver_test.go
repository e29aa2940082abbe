package mux

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvertd/culvert/internal/memnet"
)

// FuzzReceiver: whatever a peer sends, and however it is cut on the way, the
// application gets what a naive receiver (reference) would give it. For every
// stream that is the same bytes and the same end; for the connection the same
// verdict, said to the peer in a close; for the peer never more credit than the
// protocol has, and never so little that it would wait for ever.
//
// What is fuzzed is a script for the peer and the application: a byte of flags,
// and then steps of one letter and its arguments, which are in the table of
// script_test.go. Numbers in it are relative to where the conversation stands,
// so that most of what a mutation gives is close to what the protocol allows.
//
// Nothing depends on time: before the application does anything, all that was
// sent has been handled.
func FuzzReceiver(f *testing.F) {
	f.Fuzz(func(t *testing.T, script []byte) {
		synctest.Test(t, func(t *testing.T) { converse(t, script) })
	})
}

var (
	receiverSeeds = flag.Int("receiver.seeds", 300, "how many scripts TestReceiver plays")
	receiverSeed  = flag.Int64("receiver.seed", -1, "the one seed that TestReceiver repeats; with -v, as a transcript")
)

// TestReceiver is the law of FuzzReceiver for scripts made at random.
func TestReceiver(t *testing.T) {
	first, last := int64(0), int64(*receiverSeeds)
	if *receiverSeed >= 0 {
		first, last = *receiverSeed, *receiverSeed+1
	}
	for seed := first; seed < last; seed++ {
		script := randomScript(rand.New(rand.NewPCG(uint64(seed), 3)))
		synctest.Test(t, func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("the script was %q\nrepeat with: go test -v -run TestReceiver ./mux -receiver.seed %d", script, seed)
				}
			}()
			converse(t, script)
		})
		if t.Failed() {
			return
		}
	}
}

// A conversation is a Conn between a scripted peer and a scripted application,
// and a reference to hold it against.
type conversation struct {
	t     *testing.T
	conn  *Conn
	wire  *wire
	ref   *reference
	sent  []byte       // all that the peer sends
	given int          // and how much of it the Conn was given
	held  []heldStream // the streams that the application has

	settled int // how often

	spelling, trim, extra int // of the next frame
}

type heldStream struct {
	*Stream
	ref *refStream
}

func converse(t *testing.T, script []byte) {
	p := &player{script: script}
	flags := p.next()
	cfg := Config{KeepAlive: -1, Budget: 1 << 20, MaxStreams: 16}
	if flags&flagManyStreams != 0 {
		cfg.MaxStreams = 64
	}
	w := newWire(flags&flagEndWithData != 0)
	c := &conversation{t: t, wire: w, conn: Server(w, cfg), ref: newReference(1<<20, uint64(cfg.MaxStreams))}
	defer c.conn.Close()
	c.ref.hear = func() { c.give(c.ref.taken) }
	c.ref.dead = func() bool {
		c.give(c.ref.taken + 3 + (int(c.ref.in[1])<<8 | int(c.ref.in[2])))
		return c.conn.Err() != nil
	}
	c.give(0)
	if flags&flagRaw == 0 {
		c.send([]byte("culvmux\x01\x0c\x00\x00"))
	}
	p.play(c)
	c.finish()
}

// send makes the peer send b. The Conn is given it when that matters.
func (c *conversation) send(b []byte) {
	if c.ref.legal == nil {
		c.sent = append(c.sent, b...)
		c.ref.feed(b)
	}
}

// give gives the Conn what was sent up to there, waits until it has nothing
// left to do and takes what it says.
func (c *conversation) give(to int) {
	c.t.Helper()
	if to > c.given {
		c.wire.give(c.sent[c.given:to])
		c.given = to
	}
	synctest.Wait()
	if err := c.ref.listen(c.wire.taken()); err != nil {
		c.t.Fatalf("the Conn: %v", err)
	}
}

// settle brings both to the same point, and reports whether the connection
// lives.
func (c *conversation) settle() bool {
	c.t.Helper()
	if c.ref.legal != nil {
		return false
	}
	c.settled++
	c.give(c.ref.taken)
	to := len(c.sent)
	if safe, _, _ := c.ref.begun(); !safe {
		to = c.ref.taken
	}
	c.give(to)
	if err := c.conn.Err(); err != nil {
		c.t.Fatalf("the Conn ended with %v, and there is no reason to", err)
	}
	if err := c.ref.atRest(); err != nil {
		c.t.Fatalf("the peer waits for ever: %v", err)
	}
	open := 0
	for _, s := range c.ref.live {
		if !s.over() {
			open++
		}
	}
	if n := c.conn.NumStreams(); n != open {
		c.t.Fatalf("%d streams are open, want %d", n, open)
	}
	return true
}

// finish lets the connection end, and looks at what is left of it.
func (c *conversation) finish() {
	opens := uint64(0)
	legal := c.ref.legal
	if !c.wire.withData {
		c.settle()
	}
	if legal == nil {
		var safe bool
		if safe, legal, opens = c.ref.begun(); !safe {
			c.wire.mute() // what it says to a part of a frame depends on when it came
		}
		legal = append(legal, refLost)
	}
	if !c.wire.withData {
		c.give(len(c.sent))
	}
	c.wire.end(c.sent[c.given:])
	c.given = len(c.sent)
	c.give(c.given)
	got := ending(c.conn.Err())
	if !slices.Contains(legal, got) {
		c.t.Fatalf("the Conn ended with %s (%v), want one of %v", got, c.conn.Err(), legal)
	}
	said := "" // only a verdict of ours is of interest to the peer
	if strings.HasPrefix(got, "close ") {
		said = got
	}
	if told := c.ref.said.close; told != said && !c.wire.muted {
		c.t.Errorf("the Conn ended with %s and told the peer %q", got, told)
	}
	for _, s := range c.held {
		c.drain(s, got)
	}
	for {
		want := c.ref.accept()
		s, err := c.conn.Accept(context.Background())
		switch {
		case err != nil && want != nil:
			c.t.Fatalf("stream %d was not given out: %v", want.id, err)
		case err != nil:
			return
		case want == nil && opens > 0 && s.id == 2*c.ref.arrived:
			want = c.ref.open(s.id) // by the beginning of its first frame
			c.ref.arrived, opens = c.ref.arrived+1, opens-1
		case want == nil || s.id != want.id:
			c.t.Fatalf("stream %d was given out, want %v", s.id, want)
		}
		c.drain(heldStream{s, want}, got)
	}
}

// drain reads s to its end, either way.
func (c *conversation) drain(s heldStream, ended string) {
	want, why := c.ref.take(s.ref, len(s.ref.bytes))
	if len(want) > 0 {
		_, why = c.ref.take(s.ref, 1)
	}
	why = cmp.Or(why, ended)
	var got bytes.Buffer
	var err error
	if s.id&2 == 0 {
		_, err = io.Copy(&got, struct{ io.Reader }{s.Stream})
	} else {
		_, err = io.Copy(&got, s.Stream)
	}
	if !bytes.Equal(got.Bytes(), want) || ending(err) != why {
		c.t.Errorf("stream %d: got %d bytes and %q, want %d and %q; the first difference is at %d",
			s.id, got.Len(), ending(err), len(want), why, difference(got.Bytes(), want))
	}
}

// read reads n bytes of s if there are any, or its end.
func (c *conversation) read(s heldStream, n int) {
	want, why := c.ref.take(s.ref, n)
	if len(want) == 0 && why == "" {
		return // it would wait
	}
	got := make([]byte, max(1, len(want)))
	m, err := io.ReadFull(s, got)
	if !bytes.Equal(got[:m], want) || why != "" && ending(err) != why {
		c.t.Fatalf("stream %d: read %d bytes and %v, want %d and %q; the first difference is at %d",
			s.id, m, err, len(want), why, difference(got[:m], want))
	}
}

func difference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// ending says why a stream or a connection has ended as the reference would.
func ending(err error) string {
	if e, ok := errors.AsType[*StreamError](err); ok {
		if e.Remote {
			return fmt.Sprintf("reset by peer %d", e.Code)
		}
		return fmt.Sprintf("reset %d", e.Code)
	}
	if e, ok := errors.AsType[*ConnError](err); ok {
		if e.Remote {
			return fmt.Sprintf("closed by peer %d", e.Code)
		}
		return fmt.Sprintf("close %d", e.Code)
	}
	switch {
	case err == nil, err == io.EOF:
		return "EOF"
	case err == errStreamClosed:
		return "closed"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return refLost
	}
	return err.Error()
}

// A wire is a net.Conn that gives what it was given in pieces, and keeps what
// is written.
type wire struct {
	net.Conn // nil: nothing else is called

	mu       sync.Mutex // guards the fields below
	readable sync.Cond
	in       []byte
	piece    int  // how much a Read gives; 0: all it can take
	pieces   int  // how many more are that small
	ended    bool // after in
	withData bool // the end comes with the last bytes
	closed   bool
	said     []byte
	muted    bool
}

// maxPieces bounds how long a conversation takes.
const maxPieces = 20_000

func newWire(withData bool) *wire {
	w := &wire{withData: withData, pieces: maxPieces}
	w.readable.L = &w.mu
	return w
}

func (w *wire) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.in) == 0 && !w.ended && !w.closed {
		w.readable.Wait()
	}
	if w.closed {
		return 0, net.ErrClosed
	}
	if w.piece > 0 && w.pieces > 0 {
		p = p[:min(len(p), w.piece)]
		w.pieces--
	}
	n := copy(p, w.in)
	w.in = w.in[n:]
	if w.ended && len(w.in) == 0 && (n == 0 || w.withData) {
		return n, io.EOF
	}
	return n, nil
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.muted {
		w.said = append(w.said, p...)
	}
	return len(p), nil
}

func (w *wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.readable.Broadcast()
	return nil
}

func (w *wire) LocalAddr() net.Addr         { return memnet.Addr("node") }
func (w *wire) RemoteAddr() net.Addr        { return memnet.Addr("peer") }
func (w *wire) SetDeadline(time.Time) error { return nil }

func (w *wire) give(b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.in = append(w.in, b...)
	w.readable.Broadcast()
}

func (w *wire) end(last []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.in = append(w.in, last...)
	w.ended = true
	w.readable.Broadcast()
}

func (w *wire) mute() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.muted = true
}

func (w *wire) cut(piece int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.piece = piece
}

// taken returns what was written since the last time.
func (w *wire) taken() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	said := w.said
	w.said = nil
	return said
}
