//go:build linux

package chaos

import (
	"bufio"
	"bytes"
	"encoding/json"
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

// patience is how long anything may take that has no bar of its own.
const patience = 30 * time.Second

// A process is a running program in a namespace.
type process struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	stdout transcript
	stderr transcript
	ended  chan struct{} // closed when it has ended and all it said is here
}

// start runs cmd in the namespace until it ends by itself or the test does.
// When the test fails, the end of what the process said is in the test's log.
func start(t *testing.T, name, namespace string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.stdout, &p.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // go test may be killed
	if err := inNamespace(namespace, cmd.Start); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s (%v), exit code %d, said:\n%s%s", name, cmd.Args, cmd.ProcessState.ExitCode(), p.stdout.tail(), p.stderr.tail())
		}
	})
	return p
}

// stop asks the process to end and waits for it; one that does not listen is killed.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(patience + 10*time.Second): // a node may wait for visitors
		p.t.Errorf("%s did not end within %v of SIGTERM", p.name, patience)
		p.kill()
	}
}

// kill ends the process without a word, as a power cut would.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// running is an error when the process has ended.
func (p *process) running() error {
	select {
	case <-p.ended:
		return fatalError{fmt.Errorf("%s ended with exit code %d: %s", p.name, p.cmd.ProcessState.ExitCode(), p.stderr.tail())}
	default:
		return nil
	}
}

// holds is what a process has of the machine.
type holds struct {
	descriptors, threads int
	rss                  float64 // MiB
}

func (h holds) String() string {
	return fmt.Sprintf("%d descriptors, %d threads, %.0f MiB", h.descriptors, h.threads, h.rss)
}

func (p *process) holds() (h holds) {
	p.t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid()))
	if err != nil {
		p.t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid()))
	if err != nil {
		p.t.Fatal(err)
	}
	h.descriptors = len(all)
	for line := range strings.Lines(string(status)) {
		word := strings.Fields(line)
		switch word[0] {
		case "Threads:":
			h.threads, _ = strconv.Atoi(word[1])
		case "VmRSS:":
			kib, _ := strconv.Atoi(word[1])
			h.rss = float64(kib) / 1024
		}
	}
	return h
}

// An event is one of those that an agent tells with --json.
type event struct {
	Time  time.Time
	Event string
	Name  string
}

// events returns what the agent has told since then.
func (p *process) events(since time.Time) (events []event) {
	p.t.Helper()
	for line := range strings.Lines(p.stdout.String()) {
		var e event
		if !strings.HasSuffix(line, "\n") {
			break
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			p.t.Fatalf("%s said %q: %v", p.name, line, err)
		}
		if !e.Time.Before(since) {
			events = append(events, e)
		}
	}
	return events
}

// told waits until the agent has told one of these events since then.
func (p *process) told(since time.Time, kinds ...string) event {
	p.t.Helper()
	var found event
	eventually(p.t, fmt.Sprintf("hear %v", kinds), func() error {
		for _, e := range p.events(since) {
			for _, kind := range kinds {
				if e.Event == kind {
					found = e
					return nil
				}
			}
		}
		if err := p.running(); err != nil {
			return err
		}
		return errors.New("not told")
	})
	return found
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

// tail is the end of it.
func (s *transcript) tail() string {
	all := s.String()
	return all[max(0, len(all)-8000):]
}

// A fatalError cannot be cured by waiting.
type fatalError struct{ error }

// eventually calls try until it succeeds, and fails the test when it does not
// in time.
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
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// firstLine waits for the first line that cmd prints, and starts it.
func firstLine(cmd *exec.Cmd) (string, error) {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer late.Stop()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == io.EOF {
		err = errors.New("it ended without a word")
	}
	return strings.TrimSpace(line), err
}
