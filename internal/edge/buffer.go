package edge

import "sync"

const (
	// batch is how much is gathered before it is written: two records of TLS.
	batch = 32 << 10

	// extra is for the framing of a piece of that size.
	extra = 64
)

// A buffer is memory to write from. Nobody holds one who has nothing to say.
type buffer struct{ b []byte }

var buffers = sync.Pool{New: func() any { return &buffer{make([]byte, 0, batch+extra)} }}

func takeBuffer() *buffer { return buffers.Get().(*buffer) }

// free gives the buffer back; what was appended beyond its room is not kept.
func (k *buffer) free() {
	k.b = k.b[:0]
	buffers.Put(k)
}
