//go:build linux || darwin || freebsd || netbsd || openbsd

package handover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Predecessor is the node that has started this one and passed its sockets
// on. Methods but Revoked are called by one goroutine.
type Predecessor struct {
	talk   *talk
	stderr int // a descriptor; 0 for none
	mu     sync.Mutex
}

// take takes one of the two descriptors that are for the predecessor.
func (p *Predecessor) take(fd int, name string) error {
	if name == stderr {
		p.stderr = fd
		return nil
	}
	f := os.NewFile(uintptr(fd), name)
	if f == nil {
		return &Error{fmt.Sprintf("descriptor %d, the line to the node before this one, is not open", fd), ""}
	}
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return &Error{fmt.Sprintf("the line to the node before this one: %v", err), ""}
	}
	p.talk = newTalk(c)
	return nil
}

// Hello says what the sockets were opened for.
func (p *Predecessor) Hello(ctx context.Context) (Hello, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	m, err := p.talk.hear(ctx, sayHello)
	if err != nil || m.Hello == nil {
		return Hello{}, errors.Join(err, errors.New("the node before this one did not say hello"))
	}
	return *m.Hello, nil
}

// Data asks for the data directory, and returns when it is free. A predecessor
// that has ended holds it no longer.
func (p *Predecessor) Data(ctx context.Context) error {
	return p.ask(ctx, message{Say: sayData}, sayData)
}

// Ready says that this node serves, and returns when it is the only one. The
// log goes where the predecessor's goes from then on.
func (p *Predecessor) Ready(ctx context.Context, software string) error {
	if p.stderr != 0 {
		// Until now it went through the predecessor, who shows an operator the
		// last words of a node that fails.
		if err := unix.Dup2(p.stderr, 2); err != nil {
			return fmt.Errorf("take over stderr: %w", err)
		}
		unix.Close(p.stderr)
		p.stderr = 0
	}
	return p.ask(ctx, message{Say: sayReady, Software: software}, sayMain)
}

func (p *Predecessor) ask(ctx context.Context, m message, want string) error {
	err := p.talk.say(m)
	if err == nil {
		_, err = p.talk.hear(ctx, want)
	}
	if errors.Is(err, errBroken) {
		return nil // it has ended, and what it had is ours
	}
	return err
}

// Revoked says that a token was revoked whose sessions the predecessor may still
// have. After the end of the predecessor, it says nothing. Any goroutine may
// call it.
func (p *Predecessor) Revoked(token string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.talk.say(message{Say: sayRevoked, Token: token})
}

// Close hangs up.
func (p *Predecessor) Close() error {
	if p.stderr != 0 {
		unix.Close(p.stderr)
		p.stderr = 0
	}
	if p.talk != nil {
		return p.talk.conn.Close()
	}
	return nil
}
