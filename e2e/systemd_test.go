package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A systemd is what a node sees of it: sockets that are open already, and
// somebody to be told how the node is.
type systemd struct {
	t      *testing.T
	notify *net.UnixConn
	env    []string
}

func newSystemd(t *testing.T) *systemd {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &systemd{t, conn, append(os.Environ(), "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=200000")}
}

// want waits until a state is told, and returns all of that message.
func (s *systemd) want(state string) string {
	s.t.Helper()
	s.notify.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 4096)
	for {
		n, err := s.notify.Read(b)
		if err != nil {
			s.t.Fatalf("told nothing of %s: %v", state, err)
		}
		if strings.HasPrefix(string(b[:n]), state) {
			return string(b[:n])
		}
	}
}

// Sockets that systemd has opened are served and survive upgrades; systemd is
// told which process is the node.
func TestSystemd(t *testing.T) {
	t.Parallel()
	l := startLineage(t) // for its files: it is not the one that is tested
	l.process.stop()
	sys := newSystemd(t)
	var files []*os.File
	var addrs []string
	for range 2 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		files, addrs = append(files, f), append(addrs, ln.Addr().String())
		ln.Close()
	}
	log, err := os.OpenFile(l.log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// The shell becomes the node, and so knows its number.
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", l.program, "serve", "--config", l.config)
	cmd.Env = append(sys.env, "LISTEN_FDS=2", "LISTEN_FDNAMES=redirect:public")
	cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = files, log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l.process = &process{t: t, name: "culvertd", cmd: cmd, ended: make(chan struct{})}
	go func() { cmd.Wait(); close(l.ended) }()
	for _, f := range files {
		f.Close()
	}
	if got := sys.want("READY=1"); !strings.Contains(got, "STATUS=serving localhost") {
		t.Errorf("told %q", got)
	}
	sys.want("WATCHDOG=1")
	l.seen = append(l.seen, cmd.Process.Pid)
	l.addr, l.httpAddr = addrs[1], addrs[0]
	check := func() {
		t.Helper()
		res, _ := get(t, l.visitor(), l.url("nobody")+"/")
		wantRefusal(t, res, http.StatusNotFound, "tunnel_not_found")
		if res, _ := get(t, visitor(t, l.httpAddr, nil), "http://blog.localhost/"); res.StatusCode != http.StatusMovedPermanently {
			t.Errorf("the redirect answers %s", res.Status)
		}
	}
	check()
	if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid)); err == nil && !strings.Contains(string(env), "LISTEN_FDS") {
		t.Error("the test did not pass on what it thinks") // what the process unsets does not show here
	}
	for range 2 {
		l.upgrade()
		sys.want("RELOADING=1\nMONOTONIC_USEC=")
		if got, want := sys.want("MAINPID="), fmt.Sprintf("MAINPID=%d\nREADY=1", l.pid()); got != want {
			t.Errorf("told %q; want %q", got, want)
		}
		sys.want("READY=1")
		sys.want("WATCHDOG=1")
		check()
	}
}

// Sockets that do not fit are refused with a word on what would.
func TestSystemdMistakes(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for names, want := range map[string]string{
		"culvertd.socket": `culvertd: a socket named "culvertd.socket" was passed on; a node knows public and redirect` + "\nhint: say FileDescriptorName=public",
		"":                "culvertd: 1 sockets were passed on, and LISTEN_FDNAMES names 0",
	} {
		cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", culvertdPath, "serve", "--domain", "localhost", "--data", t.TempDir())
		cmd.Env = append(os.Environ(), "LISTEN_FDS=1", "LISTEN_FDNAMES="+names)
		cmd.ExtraFiles = []*os.File{f}
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 2 || !strings.HasPrefix(string(out), want) {
			t.Errorf("names %q: exit code %d, %q; want %q", names, cmd.ProcessState.ExitCode(), out, want)
		}
	}
}
