package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	testscript.Main(leaks{m}, map[string]func(){"culvertd": main})
}

// leaks fails the package when a test has left something running.
type leaks struct{ m *testing.M }

func (l leaks) Run() int {
	code := l.m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			os.Stderr.WriteString("leak: " + err.Error() + "\n")
			return 1
		}
	}
	return code
}

// TestScripts runs testdata/script: what an operator types, and what happens.
//
//	exits N culvertd …   runs a command that must end with exit code N
//	told STATE           waits for the word a running node sends to systemd
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			path := filepath.Join(e.WorkDir, "notify")
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			if err != nil {
				return err
			}
			e.Defer(func() { conn.Close() })
			e.Values["notify"] = conn
			e.Setenv("NOTIFY_SOCKET", path)
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("DATA", filepath.Join(e.WorkDir, "data"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "told": told},
	})
}

func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		e, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = e.ExitCode()
	}
	if got != want {
		ts.Fatalf("%s ended with exit code %d; want %d", strings.Join(args[1:], " "), got, want)
	}
	if said := ts.ReadFile("stderr"); want != 0 && (!strings.HasPrefix(said, "culvertd: ") || len(strings.Split(strings.TrimSpace(said), "\n")) > 2) {
		ts.Fatalf("stderr is %q; want one line that begins with culvertd: and at most a hint", said)
	}
}

func told(ts *testscript.TestScript, _ bool, args []string) {
	conn := ts.Value("notify").(*net.UnixConn)
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	ts.Check(err)
	if got, status, _ := strings.Cut(string(buf[:n]), "\n"); got != args[0] || !strings.HasPrefix(status, "STATUS=") {
		ts.Fatalf("the node told %q; want %q and a status", buf[:n], args[0])
	}
}
