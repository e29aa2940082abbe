package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patience is how long anything may take that ought to be quick.
const patience = 20 * time.Second

// A process is a running program: one of Culvert's, one that it is compared
// with, or this one in a role.
type process struct {
	name   string
	cmd    *exec.Cmd
	orders io.Writer     // its stdin, if it is this program in a role
	lines  chan string   // what it said on stdout; what nobody asked for is dropped
	said   tail          // on stderr
	ended  chan struct{} // closed when it has ended
	err    error         // how; for after ended
}

// start runs cmd. The caller stops it.
func start(name string, cmd *exec.Cmd) (*process, error) {
	p := &process{name: name, cmd: cmd, lines: make(chan string, 16), ended: make(chan struct{})}
	alone(cmd)
	cmd.Stderr = &p.said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			select {
			case p.lines <- s.Text():
			default:
			}
		}
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// startRole runs this program in a role, with a little more environment. A role
// ends when its stdin does, so that none outlives us, however we end.
func startRole(role string, env []string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, append([]string{role}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	orders, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p, err := start(role, cmd)
	if err != nil {
		return nil, err
	}
	p.orders = orders
	return p, nil
}

// alone keeps a ^C at the terminal from cmd, which is stopped in its turn, and
// lets it not outlive us.
func alone(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// output runs cmd until it ends by itself or ctx does, and returns its stdout.
func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	alone(cmd)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		said := string(out)
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			said += string(e.Stderr)
		}
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(said))
	}
	return string(out), nil
}

// line is the next line that the process says on stdout.
func (p *process) line(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("silent on stdout"))
	defer cancel()
	select {
	case line := <-p.lines:
		return line, nil
	case <-p.ended:
		return "", p.running()
	case <-ctx.Done():
		return "", fmt.Errorf("%s: %w: %s", p.name, context.Cause(ctx), &p.said)
	}
}

// ready waits until a process in a role is, and returns what else it said.
func (p *process) ready(ctx context.Context) (string, error) {
	line, err := p.line(ctx)
	if err != nil {
		return "", err
	}
	rest, ok := strings.CutPrefix(line, "ready")
	if !ok {
		return "", fmt.Errorf("%s said %q, which is not ready", p.name, line)
	}
	return strings.TrimSpace(rest), nil
}

// listens waits until somebody accepts connections on addr, presumably p.
func (p *process) listens(ctx context.Context, addr string) error {
	return p.eventually(ctx, "listen", func() error {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// eventually tries until it succeeds, as long as p runs and we are patient. It is
// for what p does without telling anybody when it has.
func (p *process) eventually(ctx context.Context, what string, try func() error) error {
	late := time.After(patience)
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-p.ended:
			return p.running()
		case <-late:
			return fmt.Errorf("%s does not %s: %w: %s", p.name, what, err, &p.said)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// running is an error when the process has ended.
func (p *process) running() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s ended: %v: %s", p.name, p.err, &p.said)
	default:
		return nil
	}
}

// stop asks the process to end and waits for it; one that does not listen is
// killed, with what it has started.
func (p *process) stop() error {
	if p.running() != nil {
		return nil // somebody will have noticed
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		return nil
	case <-time.After(patience / 2):
	}
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it is not waited for yet, so the group is its
	<-p.ended
	return fmt.Errorf("%s did not end when it was asked to: %s", p.name, &p.said)
}

// A tail is the end of what a process said.
type tail struct {
	mu  sync.Mutex // guards end
	end []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, b...)
	if extra := len(t.end) - 4096; extra > 0 {
		t.end = append(t.end[:0], t.end[extra:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.end))
}
