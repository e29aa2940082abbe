package mux

import "sync"

// A chunk holds bytes that arrived and were not read yet. Chunks come in a few
// sizes from pools, so that a stream with little to read holds little.
type chunk struct {
	next *chunk
	r, w int // buf[r:w] is unread
	pool *sync.Pool
	buf  []byte
}

// chunkSizes are such that a chunk is never more than four times what it was
// made for, or 512 bytes. The last is for copying: no frame needs it.
var chunkSizes = [...]int{512, 2 << 10, 4 << 10, 8 << 10, maxPayload, 2 * maxPayload}

var chunkPools [len(chunkSizes)]sync.Pool

// newChunk returns an empty chunk for at least n bytes, n ≤ 2*maxPayload.
func newChunk(n int) *chunk {
	i := 0
	for chunkSizes[i] < n {
		i++
	}
	k, _ := chunkPools[i].Get().(*chunk)
	if k == nil {
		k = &chunk{buf: make([]byte, chunkSizes[i])}
	}
	k.pool = &chunkPools[i]
	return k
}

// free gives k back. The caller forgets it.
func (k *chunk) free() {
	k.next, k.r, k.w = nil, 0, 0
	k.pool.Put(k)
}

// chunks is a queue of bytes.
type chunks struct {
	head, tail *chunk
	size       int
}

// put copies b to the end of the queue: first into what is free in its last
// chunk, so that many small pieces do not cost a chunk each.
func (q *chunks) put(b []byte) {
	q.size += len(b)
	if q.tail != nil {
		n := copy(q.tail.buf[q.tail.w:], b)
		q.tail.w, b = q.tail.w+n, b[n:]
	}
	for len(b) > 0 {
		k := newChunk(min(len(b), maxPayload))
		k.w = copy(k.buf, b)
		b = b[k.w:]
		q.link(k)
	}
}

// putChunk appends k itself.
func (q *chunks) putChunk(k *chunk) {
	q.size += k.w - k.r
	q.link(k)
}

func (q *chunks) link(k *chunk) {
	if q.tail == nil {
		q.head = k
	} else {
		q.tail.next = k
	}
	q.tail = k
}

// pop takes the first chunk, which must be there.
func (q *chunks) pop() *chunk {
	k := q.head
	if q.head = k.next; q.head == nil {
		q.tail = nil
	}
	k.next = nil
	q.size -= k.w - k.r
	return k
}

// take moves whole chunks for at most n bytes into a list of their own, for
// the caller to copy and free when it no longer holds the lock.
func (q *chunks) take(n int) (list *chunk, taken int) {
	last := &list
	for q.head != nil && q.head.w-q.head.r <= n-taken {
		k := q.pop()
		taken += k.w - k.r
		*last, last = k, &k.next
	}
	return list, taken
}

// peel copies from the first chunk, without emptying it.
func (q *chunks) peel(p []byte) int {
	if q.head == nil {
		return 0
	}
	n := copy(p, q.head.buf[q.head.r:q.head.w])
	q.head.r += n
	q.size -= n
	return n
}

// drop frees everything and says how much it was.
func (q *chunks) drop() int {
	n := q.size
	for q.head != nil {
		q.pop().free()
	}
	return n
}
