package mux

import (
	"encoding/binary"
	"io"
)

const (
	// quietBuffer is what a connection holds on to while nothing happens.
	quietBuffer = 512

	// busyBuffer is what it borrows while much arrives.
	busyBuffer = 2 * maxPayload

	// headBuffer is how much is read when the payload that follows shall go
	// into a chunk of its own.
	headBuffer = 64
)

// frameReader reads from a connection through a buffer that is small when
// little arrives. It belongs to the reader.
type frameReader struct {
	conn  io.Reader
	quiet [quietBuffer]byte
	busy  *chunk // borrowed, or nil
	buf   []byte // quiet or busy's
	r, w  int    // buf[r:w] was not looked at yet
	big   bool   // the next frame is likely to be of big data

	waking []*Stream // streams whose readers have something to read
}

func (f *frameReader) buffered() []byte { return f.buf[f.r:f.w] }

// skip moves on by n bytes, which are in the buffer.
func (f *frameReader) skip(n int) { f.r += n }

// header returns type and length of the frame whose header is in the buffer.
func (f *frameReader) header() (kind byte, size int) {
	b := f.buf[f.r:f.w]
	return b[0], int(binary.BigEndian.Uint16(b[1:]))
}

// need reads until at least n bytes are in the buffer, n ≤ busyBuffer.
func (f *frameReader) need(n int) error {
	for f.w-f.r < n {
		f.makeRoom(n)
		space := f.buf[f.w:]
		if f.big && len(space) > headBuffer && n <= headBuffer {
			space = space[:headBuffer]
		}
		m, err := f.conn.Read(space)
		f.w += m
		if err != nil && f.w-f.r < n {
			return err
		}
		f.big = false
	}
	return nil
}

// makeRoom prepares the buffer for a read after which it may hold n bytes. It
// borrows the big buffer when the small one was filled or is too small, and
// gives it back when it is empty and was not made much use of.
func (f *frameReader) makeRoom(n int) {
	left := f.w - f.r
	filled := f.w == len(f.buf)
	switch {
	case f.busy == nil && (n > quietBuffer || filled && f.w > 0):
		k := newChunk(busyBuffer)
		copy(k.buf, f.buf[f.r:f.w])
		f.busy, f.buf = k, k.buf
	case f.busy != nil && left == 0 && f.w <= quietBuffer && !f.big && n <= quietBuffer:
		f.release()
		f.buf = f.quiet[:]
	case f.buf == nil:
		f.buf = f.quiet[:]
	case f.r > 0:
		copy(f.buf, f.buf[f.r:f.w])
	}
	f.r, f.w = 0, left
}

// release gives back what was borrowed.
func (f *frameReader) release() {
	if f.busy != nil {
		f.busy.free()
		f.busy, f.buf = nil, nil
	}
	f.r, f.w = 0, 0
}

// expectBig makes the next read short, so that the payload after it can be
// read to where it belongs.
func (f *frameReader) expectBig() { f.big = true }

// read takes what is in the buffer, or else what the connection has.
func (f *frameReader) read(p []byte) (int, error) {
	if f.r < f.w {
		n := copy(p, f.buf[f.r:f.w])
		f.r += n
		return n, nil
	}
	return f.conn.Read(p)
}

// discard throws away n bytes, n ≤ maxPayload.
func (f *frameReader) discard(n int) error {
	for n > 0 {
		if f.r == f.w {
			if err := f.need(1); err != nil {
				return err
			}
		}
		m := min(n, f.w-f.r)
		f.r += m
		n -= m
	}
	return nil
}

// wakes notes that somebody may wait for what has arrived on s.
func (f *frameReader) wakes(s *Stream) {
	f.waking = append(f.waking, s)
}

// wakeReaders wakes them, without the lock: they want it at once.
func (f *frameReader) wakeReaders() {
	for i, s := range f.waking {
		s.readable.Broadcast()
		f.waking[i] = nil
	}
	f.waking = f.waking[:0]
}
