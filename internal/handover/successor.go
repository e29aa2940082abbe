//go:build linux || darwin || freebsd || netbsd || openbsd

package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Program is what is to be started, and what it gets.
type Program struct {
	Path string
	Args []string // with its name
	Env  []string // without the variables that Inherit reads

	Sockets []Socket
	Hello   Hello

	// Stderr gets what it says until it is ready, and after that it has
	// StderrFD. Standard input and output are those of this process.
	Stderr   io.Writer
	StderrFD int
}

// A Successor is a process that is to become the node. Its methods are called
// by one goroutine.
type Successor struct {
	process  *os.Process
	talk     *talk
	software string
	said     lastWords
	copied   chan struct{} // closed when nothing is said any more
	pipe     *os.File      // from its stderr
	ended    *os.ProcessState
}

// Start starts a program. Whoever starts it calls Abort, or sees it take over.
func Start(p Program) (_ *Successor, err error) {
	var ours, theirs []int // descriptors
	defer func() {
		for _, fd := range theirs {
			unix.Close(fd)
		}
		for _, fd := range ours {
			unix.Close(fd)
		}
	}()
	var names []string
	for _, s := range p.Sockets {
		fd, err := duplicate(s.Listener)
		if err != nil {
			return nil, fmt.Errorf("socket %s: %w", s.Name, err)
		}
		names, theirs = append(names, s.Name), append(theirs, fd)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs, names = append(ours, pair[0]), append(theirs, pair[1]), append(names, line)
	unix.CloseOnExec(pair[0])
	unix.CloseOnExec(pair[1])
	log, err := unix.FcntlInt(uintptr(p.StderrFD), unix.F_DUPFD_CLOEXEC, 100)
	if err != nil {
		return nil, err
	}
	theirs, names = append(theirs, log), append(names, stderr)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()

	conn, err := connOf(pair[0])
	if err != nil {
		r.Close()
		return nil, err
	}
	s := &Successor{talk: newTalk(conn), copied: make(chan struct{}), pipe: r}
	files := []uintptr{0, 1, w.Fd()}
	for _, fd := range theirs {
		files = append(files, uintptr(fd))
	}
	env := append(p.Env[:len(p.Env):len(p.Env)],
		fmt.Sprintf("LISTEN_PID=%d", os.Getpid()), // as Inherit wants it of a predecessor
		fmt.Sprintf("LISTEN_FDS=%d", len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	pid, _, err := syscall.StartProcess(p.Path, p.Args, &syscall.ProcAttr{Env: env, Files: files})
	if err != nil {
		conn.Close()
		r.Close()
		return nil, fmt.Errorf("start %s: %w", p.Path, err)
	}
	s.process, _ = os.FindProcess(pid) // never fails here
	go s.listen(p.Stderr)
	s.talk.say(message{Say: sayHello, Hello: &p.Hello}) // who has ended by now says so when asked
	return s, nil
}

// connOf takes a copy of fd.
func connOf(fd int) (net.Conn, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 100)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dup), line)
	defer f.Close()
	return net.FileConn(f)
}

// listen passes on what the program says until it has a log of its own.
func (s *Successor) listen(to io.Writer) {
	defer close(s.copied)
	io.Copy(io.MultiWriter(to, &s.said), s.pipe)
	s.pipe.Close()
}

// PID is the number of the process.
func (s *Successor) PID() int { return s.process.Pid }

// Software is what it says that it is, once it is ready.
func (s *Successor) Software() string { return s.software }

// AwaitData returns when the process needs the data directory, or why it does
// not.
func (s *Successor) AwaitData(ctx context.Context) error {
	_, err := s.hear(ctx, sayData)
	return err
}

// GiveData says that the directory is free.
func (s *Successor) GiveData() error { return s.talk.say(message{Say: sayData}) }

// AwaitReady returns when the process serves the sockets, or why it does not.
func (s *Successor) AwaitReady(ctx context.Context) error {
	m, err := s.hear(ctx, sayReady)
	if err != nil {
		return err
	}
	s.software = m.Software
	select {
	case <-s.copied: // it has another stderr by now
	case <-ctx.Done():
	}
	return nil
}

// Main says that this process does not serve the sockets any more.
func (s *Successor) Main() { s.talk.say(message{Say: sayMain}) }

// Follow tells which tokens are revoked from now on, until ctx ends or the
// successor has.
func (s *Successor) Follow(ctx context.Context, revoked func(token string)) {
	for {
		m, err := s.talk.hear(ctx, sayRevoked)
		if err != nil {
			s.talk.conn.Close()
			return
		}
		revoked(m.Token)
	}
}

// hear waits for what the process says; if it has ended instead, the error tells
// how, and its last words.
func (s *Successor) hear(ctx context.Context, want string) (message, error) {
	m, err := s.talk.hear(ctx, want)
	if errors.Is(err, errBroken) {
		s.end(time.Second)
		err = &EndedError{s.how(), s.said.String()}
	}
	return m, err
}

// Abort ends the process, and returns when it has ended.
func (s *Successor) Abort() { s.end(0) }

// end waits for the end of the process, and does not wait long.
func (s *Successor) end(grace time.Duration) {
	if s.ended != nil {
		return
	}
	kill := time.AfterFunc(grace, func() { s.process.Kill() })
	s.ended, _ = s.process.Wait()
	kill.Stop()
	s.talk.conn.Close()
	select {
	case <-s.copied:
	case <-time.After(time.Second): // somebody else holds its stderr
		s.pipe.Close()
		<-s.copied
	}
}

// how says how the process has ended.
func (s *Successor) how() string {
	if s.ended == nil {
		return "in an unknown way"
	}
	if status, ok := s.ended.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return "by signal: " + status.Signal().String()
	}
	return fmt.Sprintf("with exit code %d", s.ended.ExitCode())
}

// lastWords keeps the end of what is written.
type lastWords struct {
	mu sync.Mutex // guards b
	b  []byte
}

const maxWords = 4 << 10 // bytes

func (l *lastWords) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, b...)
	if cut := len(l.b) - maxWords; cut > 0 {
		l.b = append(l.b[:0], l.b[cut:]...)
	}
	return len(b), nil
}

func (l *lastWords) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(string(l.b))
}
