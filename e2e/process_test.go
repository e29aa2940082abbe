package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything may take that ought to be quick. It is long
// because a busy machine is no reason to fail.
const patience = 20 * time.Second

// A process is a running program: one of ours, or one that ours are tried with.
type process struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	stdout transcript
	stderr transcript
	ended  chan struct{} // closed when it has ended and all it said is here
}

// start runs cmd until it ends by itself or the test does. When the test
// fails, everything the process said is in the test's log.
func start(t *testing.T, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout = &p.stdout
	cmd.Stderr = &p.stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		cmd.Wait()
		close(p.ended)
	}()
	// When the time for all tests is up, go test ends this program without
	// another word. Be earlier, so that nothing is left running.
	if deadline, ok := t.Deadline(); ok {
		last := time.AfterFunc(time.Until(deadline)-15*time.Second, func() { p.signal(syscall.SIGKILL) })
		t.Cleanup(func() { last.Stop() })
	}
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s (%v), exit code %d, said:\n%s%s", name, cmd.Args, p.exitCode(), &p.stdout, &p.stderr)
		}
	})
	return p
}

// stop asks the process to end and waits for it; one that does not listen is killed.
func (p *process) stop() {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Errorf("%s did not end within %v of SIGTERM", p.name, patience)
		p.cmd.Process.Signal(syscall.SIGQUIT) // a Go program now says where it hangs
		select {
		case <-p.ended:
		case <-time.After(time.Second):
			p.kill()
		}
	}
}

// kill ends the process without a word, as a power cut would.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.ended
}

func (p *process) signal(s os.Signal) {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("signal %s: %v", p.name, err)
	}
}

// wait waits until the process ends by itself and returns its exit code.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("%s still runs after %v", p.name, patience)
	}
	return p.exitCode()
}

// exitCode is -1 while the process runs, and when a signal ended it.
func (p *process) exitCode() int {
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	default:
		return -1
	}
}

// running is an error when the process has ended.
func (p *process) running() error {
	select {
	case <-p.ended:
		return fatalError{fmt.Errorf("%s ended with exit code %d: %s", p.name, p.exitCode(), &p.stderr)}
	default:
		return nil
	}
}

// peak returns the most memory that the process ever held, in MiB: VmHWM of
// its /proc/PID/status.
func (p *process) peak() float64 {
	p.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(kib), " kB"))
			if err != nil {
				p.t.Fatal(err)
			}
			return float64(n) / 1024
		}
	}
	p.t.Fatalf("no VmHWM for %s", p.name)
	return 0
}

// A transcript is what a process said so far.
type transcript struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (s *transcript) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// lines returns the complete lines said so far.
func (s *transcript) lines() []string {
	var lines []string
	r := bufio.NewReader(strings.NewReader(s.String()))
	for {
		line, err := r.ReadString('\n')
		if err == io.EOF {
			return lines
		}
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
}

// A fatalError cannot be cured by waiting.
type fatalError struct{ error }

// errSilent is what there is to say about a process that said nothing yet.
var errSilent = errors.New("nothing on stdout")

// eventually calls try until it succeeds, and fails the test when it does not
// in time. It is for what another process does; nothing tells us when it has.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	deadline := time.After(patience)
	for {
		err := try()
		if err == nil {
			return
		}
		if errors.As(err, new(fatalError)) {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-deadline:
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// self is this very test, as far as the kernel is concerned.
func self(t *testing.T) *process {
	p, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return &process{t: t, name: "this test", cmd: &exec.Cmd{Process: p}}
}
