package edge

import (
	"io"
	"time"

	"github.com/culvertd/culvert/internal/h1"
)

// lastWrite is how long an upload may take to notice that it is complete, when
// the answer is.
const lastWrite = 10 * time.Millisecond

// exchange sends the request of v and passes the answer on. When that is all,
// err is nil; clean says whether the stream is between two messages then.
//
// The answer is passed on here. A body that is not here as a whole is sent by a
// goroutine at the same time, because an answer may come before the end of the
// request, and may have to.
func (s *stream) exchange(v *visit, body []byte, whole bool) (clean bool, err error) {
	out := takeBuffer()
	head := appendRequest(out.b[:0], v)
	if whole {
		head = append(head, body...)
	}
	_, unsent := s.conn.Write(head)
	out.free()

	var up *upload
	if whole {
		v.watch.advance(phaseSending, phaseWaiting)
	} else {
		up = &upload{v: v, s: s, done: make(chan struct{})}
		go up.run()
	}
	err = s.answer(v)
	if up != nil {
		up.stop(err != nil)
		unsent = up.err
	}
	return err == nil && unsent == nil && s.reader.Done() && len(s.reader.Buffered()) == 0, err
}

// done gives back what the stream holds, when it is not kept.
func (s *stream) done() { s.reader.Release() }

// answer passes the answer on. What fails is the service, except for a
// *visitorError.
func (s *stream) answer(v *visit) error {
	for interim := 0; ; interim++ {
		if err := s.reader.ReadResponse(&s.res, v.isHEAD()); err != nil {
			s.answered = s.answered || len(s.reader.Buffered()) > 0
			return err
		}
		s.answered = true
		s.last = s.last || s.res.Close
		v.watch.heard.Add(1)
		if s.res.Status >= 200 || s.res.Status == 101 {
			break
		}
		if interim == maxInterim {
			return badAnswer("too many 1xx answers")
		}
		cleanAnswer(v, &s.res)
		if err := v.visitor.interim(&s.res); err != nil {
			return &visitorError{err}
		}
	}
	if s.res.Status == 101 {
		return s.upgrade(v)
	}
	v.watch.turnTo(phaseAnswering)
	cleanAnswer(v, &s.res)
	if err := v.acceptable(&s.res); err != nil {
		return err
	}
	v.status = s.res.Status
	if err := v.visitor.begin(&s.res, s.reader.Ready()); err != nil {
		return &visitorError{err}
	}
	for {
		b, err := s.reader.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		v.watch.heard.Add(uint64(len(b)))
		if err := v.visitor.write(b, s.reader.Ready()); err != nil {
			return &visitorError{err}
		}
	}
	if err := v.visitor.end(cleanTrailers(s.reader.Trailers(), answerOwned)); err != nil {
		return &visitorError{err}
	}
	return nil
}

// acceptable returns why the head of an answer cannot be passed on.
func (v *visit) acceptable(s *h1.Response) error {
	if v.connect && s.Status < 300 {
		return badAnswer("no WebSocket, but it would look like one over HTTP/2")
	}
	return nil
}

// An upload sends the body of a request.
type upload struct {
	v    *visit
	s    *stream
	done chan struct{} // closed when run has ended
	err  error         // why the body is not sent as a whole; to be read after done
}

func (u *upload) run() {
	defer close(u.done)
	defer u.v.door.contain(u.v, func() { u.err = errPanicked })
	if u.err = u.send(); u.err == nil {
		u.v.watch.advance(phaseSending, phaseWaiting)
	}
}

// send passes the body on. A service that takes no more may have answered; so
// only what the visitor does wrong stops the visit.
func (u *upload) send() error {
	v, chunked := u.v, u.v.req.Length == h1.Chunked
	held := v.req.ExpectContinue // he may be waiting himself
	for {
		v.watch.reading.Store(!held)
		b, err := v.visitor.next()
		v.watch.reading.Store(false)
		switch {
		case err == io.EOF && chunked:
			_, err = u.s.conn.Write(h1.AppendLastChunk(nil, cleanTrailers(v.visitor.trailers(), requestOwned)))
			return err
		case err == io.EOF:
			return nil
		case err != nil:
			v.stop(bodyCause(err))
			return err
		}
		held = false
		v.watch.in.Add(uint64(len(b)))
		if err := u.write(b, chunked); err != nil {
			return err
		}
	}
}

// write sends a piece, as a chunk if the body comes in chunks.
func (u *upload) write(b []byte, chunked bool) error {
	if !chunked {
		_, err := u.s.conn.Write(b)
		return err
	}
	out := takeBuffer()
	defer out.free()
	_, err := u.s.conn.Write(h1.AppendChunk(out.b[:0], b))
	return err
}

// stop returns when run has ended. The answer is over: what is not sent by now
// nobody waits for. A service may have answered the last byte faster than we
// noticed that it was the last.
func (u *upload) stop(failed bool) {
	select {
	case <-u.done:
		return
	default:
	}
	u.v.visitor.stopReading()
	if !failed {
		t := time.NewTimer(lastWrite)
		defer t.Stop()
		select {
		case <-u.done:
			return
		case <-t.C:
		}
	}
	u.s.abort()
	<-u.done
}
