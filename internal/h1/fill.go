package h1

import (
	"fmt"
	"io"
)

// maxEmptyReads is how often an io.Reader may return nothing and no error.
const maxEmptyReads = 100

// fill reads once into the room behind what is there.
func (r *Reader) fill() error {
	room := r.blk.b[r.w:]
	n, err := r.read(room)
	r.w += n
	r.full = n == len(room)
	if n == 0 {
		return err
	}
	return nil
}

// read reads at least one byte, or returns an error. One that comes with bytes
// is kept for the next time.
func (r *Reader) read(b []byte) (int, error) {
	if r.peeked {
		r.peeked = false
		b[0] = r.first[0]
		return 1, nil
	}
	if err := r.late; err != nil {
		r.late = nil
		return 0, err
	}
	for range maxEmptyReads {
		n, err := r.src.Read(b)
		if n < 0 || n > len(b) {
			panic("BUG: io.Reader returned a count that can not be")
		}
		if n > 0 {
			r.late = err
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}

// move makes k the block that is read into, and moves there what is not looked
// at. The last one is given back, unless it has the head.
func (r *Reader) move(k *block) {
	if r.blk != nil {
		r.w = copy(k.b, r.blk.b[r.r:r.w])
		if r.blk != r.head {
			r.blk.free()
		}
	}
	r.blk, r.r = k, 0
}

// fail makes err the error of all that is called from now on.
func (r *Reader) fail(err error) error {
	r.fatal = err
	r.p = parser{}
	return err
}

// failed returns what a failed read means to the caller.
func (r *Reader) failed(doing string, err error) error {
	switch err {
	case io.EOF:
		return err
	case io.ErrUnexpectedEOF:
		return r.fail(err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
