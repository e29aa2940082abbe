package main

import (
	"io"
	"sync"
)

const (
	parallel = 64
	block    = 32 << 10 // what io.Copy reads and writes
)

// A load keeps a session busy until stop is closed, and has the meter count
// what it does: exchanges, or bytes.
type load func(p pair, m *meter, stop <-chan struct{}) error

// exchange is streams that each ask with 256 bytes and are answered with
// 1,200, over and over.
func exchange(streams int) load {
	return func(p pair, m *meter, stop <-chan struct{}) error {
		go serve(p.server, func(st stream) { answer(st, make([]byte, 256), make([]byte, 1200)) })
		return inParallel(streams, stop, func() error {
			st, err := p.client.open()
			if err != nil {
				return err
			}
			defer st.Close()
			question, reply := make([]byte, 256), make([]byte, 1200)
			laps := m.start()
			defer laps.end()
			for !stopped(stop) {
				if err := ask(st, question, reply); err != nil {
					return err
				}
				laps.done()
			}
			return nil
		})
	}
}

// openClose opens a stream, asks with 512 bytes, is answered with 1 KiB and
// closes it, over and over, so many times at once.
func openClose(streams int) load {
	return func(p pair, m *meter, stop <-chan struct{}) error {
		go serve(p.server, func(st stream) {
			buf := buffers.Get().(*[1024]byte)
			defer buffers.Put(buf)
			if _, err := io.ReadFull(st, buf[:512]); err == nil {
				st.Write(buf[:])
			}
		})
		return inParallel(streams, stop, func() error {
			var buf [1024]byte
			laps := m.start()
			defer laps.end()
			for !stopped(stop) {
				st, err := p.client.open()
				if err != nil {
					return err
				}
				err = ask(st, buf[:512], buf[:])
				st.Close()
				if err != nil {
					return err
				}
				laps.done()
			}
			return nil
		})
	}
}

var buffers = sync.Pool{New: func() any { return new([1024]byte) }}

// bulk moves as many bytes as it can from the client to the server, shared
// among streams.
func bulk(streams int) load {
	return func(p pair, m *meter, stop <-chan struct{}) error {
		go serve(p.server, func(st stream) {
			buf := make([]byte, block)
			for {
				n, err := st.Read(buf)
				m.count.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
		return inParallel(streams, stop, func() error {
			st, err := p.client.open()
			if err != nil {
				return err
			}
			defer st.Close()
			return pour(st, stop)
		})
	}
}

// pour writes to w until stop is closed.
func pour(w io.Writer, stop <-chan struct{}) error {
	buf := make([]byte, block)
	for !stopped(stop) {
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

// ask sends a question and reads the reply to it.
func ask(rw io.ReadWriter, question, reply []byte) error {
	if _, err := rw.Write(question); err != nil {
		return err
	}
	_, err := io.ReadFull(rw, reply)
	return err
}

// answer is the other side of ask, over and over.
func answer(rw io.ReadWriter, question, reply []byte) {
	for answerOnce(rw, question, reply) == nil {
	}
}

func answerOnce(rw io.ReadWriter, question, reply []byte) error {
	if _, err := io.ReadFull(rw, question); err != nil {
		return err
	}
	_, err := rw.Write(reply)
	return err
}

// serve gives each stream that arrives to a goroutine, and closes it after.
func serve(s session, handle func(stream)) {
	for {
		st, err := s.accept()
		if err != nil {
			return
		}
		go func() {
			defer st.Close()
			handle(st)
		}()
	}
}

// inParallel runs do n times at once and returns the first error, unless it
// came after stop.
func inParallel(n int, stop <-chan struct{}, do func() error) error {
	errs := make(chan error, n)
	for range n {
		go func() { errs <- do() }()
	}
	var first error
	for range n {
		if err := <-errs; err != nil && first == nil && !stopped(stop) {
			first = err
		}
	}
	return first
}

func stopped(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}
