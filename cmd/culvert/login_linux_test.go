package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestInterruptedLogin: one Ctrl-C at the question for the token is enough, and
// the terminal echoes again.
func TestInterruptedLogin(t *testing.T) {
	master, slave := openTerminal(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := &exec.Cmd{
		Path: program, Args: []string{"culvert", "login", "node.test"},
		Env:   append(os.Environ(), "XDG_CONFIG_HOME="+t.TempDir()),
		Stdin: slave, Stdout: slave, Stderr: slave,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: true},
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	alarm := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	defer alarm.Stop()

	for start := time.Now(); echoes(t, slave); runtime.Gosched() { // it has asked when this ends
		if time.Since(start) > 15*time.Second {
			cmd.Process.Kill()
			cmd.Wait()
			t.Fatal("it did not ask for the token")
		}
	}
	if _, err := master.WriteString("\x03"); err != nil {
		t.Error(err)
	}
	err = cmd.Wait()
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() != exitFailed {
		t.Errorf("it ended with %v, want exit code %d", err, exitFailed)
	}
	if !echoes(t, slave) {
		t.Error("the terminal was left without echo")
	}
	said := make([]byte, 4096)
	n, _ := master.Read(said)
	if !strings.Contains(string(said[:n]), "token for node.test: ") {
		t.Errorf("it said %q", said[:n])
	}
}

// openTerminal returns both ends of a new terminal.
func openTerminal(t *testing.T) (master, slave *os.File) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err) // a test that left itself out would look like one that passed
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func echoes(t *testing.T, terminal *os.File) bool {
	state, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}
