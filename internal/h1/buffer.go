package h1

import (
	"math/bits"
	"sync"
)

const (
	// smallBlock is what a Reader reads into at first, and bodies that come
	// in drops go on with.
	smallBlock = 4 << 10

	// bigBlock is what bodies are read into that come in floods. It is also
	// the biggest that is kept for others.
	bigBlock = 32 << 10
)

// A block is memory to read into.
type block struct {
	b    []byte
	idle bool // it is nobody's
}

// blocks are those that nobody uses, by size: 4, 8, 16 and 32 KiB.
var blocks [4]sync.Pool

// newBlock returns a block of at least n bytes.
func newBlock(n int) *block {
	class := blockClass(n)
	if class < len(blocks) {
		if k, ok := blocks[class].Get().(*block); ok {
			k.idle = false
			return k
		}
	}
	return &block{b: make([]byte, smallBlock<<class)}
}

// free gives a block back. Given back twice, it would be that of two
// connections.
func (k *block) free() {
	if k.idle {
		panic("BUG: block given back twice")
	}
	k.idle = true
	if class := blockClass(len(k.b)); class < len(blocks) {
		blocks[class].Put(k)
	}
}

func blockClass(n int) int {
	return bits.Len(uint(max(n, smallBlock)-1) / smallBlock)
}
