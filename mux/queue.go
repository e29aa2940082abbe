package mux

// A queue is a list of streams, each of which stands in it once at most. Its
// links are in the streams, so that joining and leaving cost no memory and no
// search.
type queue struct {
	head, tail *Stream
	link       int // which of a stream's links are this queue's
}

const (
	linkAccept   = iota // waits for Accept
	linkAnnounce        // the peer does not know of it yet
	linkSend            // has something to send: light or heavy
	linkCredit          // the peer does not know of its limit yet
	linkUnread          // has something that was not read yet
	links
)

type link struct {
	of         *queue // nil: in none
	prev, next *Stream
}

func (q *queue) empty() bool { return q.head == nil }

// push puts s at the end, unless it is in a queue of this kind already.
func (q *queue) push(s *Stream) {
	l := &s.links[q.link]
	if l.of != nil {
		return
	}
	*l = link{of: q, prev: q.tail}
	if q.tail == nil {
		q.head = s
	} else {
		q.tail.links[q.link].next = s
	}
	q.tail = s
}

// pop takes the first, or nil.
func (q *queue) pop() *Stream {
	s := q.head
	if s != nil {
		q.remove(s)
	}
	return s
}

// remove takes s out and reports whether it was in.
func (q *queue) remove(s *Stream) bool {
	l := &s.links[q.link]
	if l.of != q {
		return false
	}
	if l.prev == nil {
		q.head = l.next
	} else {
		l.prev.links[q.link].next = l.next
	}
	if l.next == nil {
		q.tail = l.prev
	} else {
		l.next.links[q.link].prev = l.prev
	}
	*l = link{}
	return true
}
