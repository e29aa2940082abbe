package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A lineage is a node that is upgraded: one process after the other, each
// started by the one before, from a program and with a configuration that the
// test may replace meanwhile.
type lineage struct {
	*node
	program string
	config  string
	log     string
	seen    []int // processes
}

// startLineage starts the first process, and reaps all of them in the end.
func startLineage(t *testing.T, settings ...string) *lineage {
	t.Helper()
	dir := t.TempDir()
	l := &lineage{
		node:    &node{t: t, dir: filepath.Join(dir, "data"), addr: freeAddr(t), httpAddr: freeAddr(t)},
		program: filepath.Join(dir, "culvertd"), config: filepath.Join(dir, "culvertd.yaml"), log: filepath.Join(dir, "log"),
	}
	l.install(culvertdPath)
	l.configure(settings...)
	log, err := os.Create(l.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// Its successors have the same log, so that it must not be a pipe to us.
	cmd := exec.Command(l.program, "serve", "--config", l.config)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l.process = &process{t: t, name: "culvertd", cmd: cmd, ended: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(l.ended)
	}()
	t.Cleanup(l.reap)
	eventually(t, "reach the node", func() error {
		if l.exitCode() >= 0 {
			return fatalError{errors.New("it has ended")}
		}
		c, err := net.Dial("tcp", l.addr)
		if err == nil {
			err = c.Close()
		}
		return err
	})
	if pem, err := os.ReadFile(l.ca()); err == nil {
		l.roots = x509.NewCertPool()
		l.roots.AppendCertsFromPEM(pem)
	}
	l.seen = append(l.seen, cmd.Process.Pid)
	return l
}

// install puts a copy of program where the node's is, as operators do.
func (l *lineage) install(program string) {
	l.t.Helper()
	b, err := os.ReadFile(program)
	if err != nil {
		l.t.Fatal(err)
	}
	l.installBytes(b)
}

// installBytes has another process write the file: while we have it open, some
// other test may fork, and its child would keep it open, and busy.
func (l *lineage) installBytes(b []byte) {
	l.t.Helper()
	install := exec.Command("install", "-m", "755", "/dev/stdin", l.program+".new")
	install.Stdin = bytes.NewReader(b)
	if out, err := install.CombinedOutput(); err != nil {
		l.t.Fatalf("install: %v: %s", err, out)
	}
	if err := os.Rename(l.program+".new", l.program); err != nil {
		l.t.Fatal(err)
	}
}

// configure writes the configuration: lines beside those that every node needs.
func (l *lineage) configure(lines ...string) {
	l.t.Helper()
	text := fmt.Sprintf("domain: localhost\nlisten: %s\nhttp: %s\ndata: %s\n%s\n", l.addr, l.httpAddr, l.dir, strings.Join(lines, "\n"))
	if err := os.WriteFile(l.config, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// pid is the process that is the node now.
func (l *lineage) pid() int {
	l.t.Helper()
	var s struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(l.admin("status", "--json")), &s); err != nil || s.PID == 0 {
		l.t.Fatalf("status: %+v, %v", s, err)
	}
	if !slices.Contains(l.seen, s.PID) {
		l.seen = append(l.seen, s.PID)
	}
	return s.PID
}

// ask runs a command that speaks with the node, and returns what it said and
// its exit code.
func (l *lineage) ask(args ...string) (stdout, stderr string, code int) {
	l.t.Helper()
	var out, err strings.Builder
	cmd := exec.Command(culvertdPath, append(args, "--data", l.dir)...)
	cmd.Stdout, cmd.Stderr = &out, &err
	if e := cmd.Run(); e != nil && !errors.As(e, new(*exec.ExitError)) {
		l.t.Fatal(e)
	}
	return out.String(), err.String(), cmd.ProcessState.ExitCode()
}

// upgrade upgrades the node, and returns how long the command took.
func (l *lineage) upgrade() time.Duration {
	l.t.Helper()
	before := l.pid()
	start := time.Now()
	out, err, code := l.ask("upgrade")
	took := time.Since(start)
	if code != 0 {
		l.t.Fatalf("upgrade: exit code %d\n%s%s", code, out, err)
	}
	if after := l.pid(); after == before {
		l.t.Fatalf("process %d is still the node\n%s", after, out)
	}
	return took
}

// reap ends all processes, and shows their log if the test has failed.
func (l *lineage) reap() {
	if out, _, code := l.ask("status", "--json"); code == 0 {
		var s struct{ PID int }
		json.Unmarshal([]byte(out), &s)
		l.seen = append(l.seen, s.PID)
	}
	for _, pid := range l.seen {
		if alive(pid) {
			syscall.Kill(pid, syscall.SIGTERM)
		}
	}
	deadline := time.Now().Add(patience)
	for slices.ContainsFunc(l.seen, alive) && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond) // nobody else's children tell us
	}
	for _, pid := range l.seen {
		if alive(pid) {
			l.t.Errorf("process %d did not end within %v of SIGTERM", pid, patience)
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	<-l.ended
	if l.t.Failed() {
		if log, err := os.Open(l.log); err == nil {
			defer log.Close()
			if info, err := log.Stat(); err == nil && info.Size() > 64<<10 {
				log.Seek(-64<<10, io.SeekEnd)
			}
			b, _ := io.ReadAll(log)
			l.t.Logf("the nodes said:\n%s", b)
		}
	}
}

// alive reports whether a process runs; one that nobody has waited for does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil || pid <= 0 {
		return false
	}
	_, state, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}
