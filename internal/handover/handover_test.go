//go:build linux

package handover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// What TestMain becomes in the processes that tests start.
var lives = map[string]func(){
	"inherit": func() {
		in, err := Inherit(variables())
		if err != nil {
			e := err.(*Error)
			fmt.Printf("error: %s; %s", e.Reason, e.Hint)
			return
		}
		fmt.Printf("%+v", in)
	},
	"succeed": func() {
		in := mustInherit()
		hello, err := in.From.Hello(context.Background())
		if err != nil || hello.Listen != ":443" || len(hello.Activated) != 1 {
			panic(fmt.Sprint(hello, err))
		}
		fmt.Fprintln(os.Stderr, "asking for the data")
		if err := in.From.Data(context.Background()); err != nil {
			panic(err)
		}
		go func() {
			for {
				c, err := in.Public.Accept()
				if err != nil {
					return
				}
				io.WriteString(c, "successor")
				c.Close()
			}
		}()
		if err := in.From.Ready(context.Background(), "test 2"); err != nil {
			panic(err)
		}
		fmt.Fprintln(os.Stderr, "on my own")
		in.From.Revoked("t1")
		in.From.Revoked("t2")
		in.From.Close()
		time.Sleep(time.Minute) // until it is killed
	},
	"fail": func() {
		fmt.Fprintln(os.Stderr, "no such luck")
		os.Exit(3)
	},
	"fail later": func() {
		mustInherit().From.Data(context.Background())
		panic("oh no")
	},
	"hang": func() { mustInherit().From.Data(context.Background()); time.Sleep(time.Minute) },
	"babble": func() {
		in := mustInherit()
		in.From.talk.say(message{Say: "nonsense"})
		time.Sleep(time.Minute)
	},
}

func mustInherit() *Inherited {
	in, err := Inherit(variables())
	if err != nil || in == nil {
		panic(fmt.Sprint(in, err))
	}
	return in
}

func variables() Variables {
	v := Variables{os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")}
	if v.PID == "self" {
		v.PID = fmt.Sprint(os.Getpid())
	}
	return v
}

func TestMain(m *testing.M) {
	if life := lives[os.Getenv("CULVERT_TEST_LIFE")]; life != nil {
		life()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// become starts a process with that life.
func become(t *testing.T, life string, ln net.Listener, log io.Writer) *Successor {
	t.Helper()
	mine, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	s, err := Start(Program{
		Path: os.Args[0], Args: os.Args[:1], Env: append(os.Environ(), "CULVERT_TEST_LIFE="+life),
		Sockets: []Socket{{Public, ln}}, Hello: Hello{Listen: ":443", Activated: []string{Public}},
		Stderr: log, StderrFD: int(mine.Fd()),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Abort)
	return s
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestSucceed(t *testing.T) {
	ln := listen(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var log buffer
	s := become(t, "succeed", ln, &log)
	if err := s.AwaitData(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.GiveData(); err != nil {
		t.Fatal(err)
	}
	if err := s.AwaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if s.Software() != "test 2" || s.PID() == 0 {
		t.Errorf("it is %q, process %d", s.Software(), s.PID())
	}
	s.Main()
	ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatalf("a socket that was passed on was closed: %v", err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); string(b) != "successor" {
		t.Errorf("%q, %v", b, err)
	}
	var revoked []string
	s.Follow(ctx, func(token string) { revoked = append(revoked, token) })
	if fmt.Sprint(revoked) != "[t1 t2]" {
		t.Errorf("revoked %v", revoked)
	}
	if got := log.String(); got != "asking for the data\n" {
		t.Errorf("by way of the predecessor it said %q; want what it said until it was ready", got)
	}
}

func TestFail(t *testing.T) {
	for life, want := range map[string]struct{ how, words string }{
		"fail":       {"with exit code 3", "no such luck"},
		"fail later": {"with exit code 2", "panic: oh no"},
		"babble":     {"by signal: killed", ""},
	} {
		t.Run(life, func(t *testing.T) {
			var log buffer
			s := become(t, life, listen(t), &log)
			err := s.AwaitData(t.Context())
			if err == nil {
				s.GiveData()
				err = s.AwaitReady(t.Context())
			}
			e, ok := errors.AsType[*EndedError](err)
			if !ok || e.How != want.how || !strings.HasPrefix(e.Words, want.words) || !strings.HasPrefix(log.String(), want.words) {
				t.Errorf("got %#v; want %v", err, want)
			}
		})
	}
}

func TestNeverReady(t *testing.T) {
	s := become(t, "hang", listen(t), io.Discard)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := s.AwaitData(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.GiveData()
	if err := s.AwaitReady(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	s.Abort()
	s.Abort()
}

func TestStartNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, []byte("\x7fELFbut not really"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, file + ".none"} {
		if _, err := Start(Program{Path: path, Args: []string{path}, StderrFD: 2}); err == nil {
			t.Errorf("%s started", path)
		}
	}
}

// TestInherit: what systemd may pass on, and what it is told about it.
func TestInherit(t *testing.T) {
	tcp, _ := listen(t).(*net.TCPListener).File()
	unixLn, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer unixLn.Close()
	unixFile, _ := unixLn.(*net.UnixListener).File()
	plain, _ := os.Open(os.DevNull)
	for _, f := range []*os.File{tcp, unixFile, plain} {
		defer f.Close()
	}
	for name, c := range map[string]struct {
		pid, names string
		fds        string
		files      []*os.File
		want       string
	}{
		"one":             {"self", "public", "1", []*os.File{tcp}, "&{Public:0x"},
		"both":            {"self", "redirect:public", "2", []*os.File{tcp, tcp}, "Redirect:0x"},
		"for another":     {"1", "public", "1", []*os.File{tcp}, "<nil>"},
		"for the parent":  {fmt.Sprint(os.Getpid()), "public", "1", []*os.File{tcp}, "<nil>"},
		"none":            {"self", "", "0", nil, "<nil>"},
		"not a number":    {"self", "public", "x", nil, "error: LISTEN_FDS is"},
		"too many":        {"self", "public", "1000", nil, "error: LISTEN_FDS is"},
		"without a name":  {"self", "", "1", []*os.File{tcp}, "error: 1 sockets were passed on, and LISTEN_FDNAMES names 0; say FileDescriptorName=public"},
		"name of a unit":  {"self", "culvertd.socket", "1", []*os.File{tcp}, `error: a socket named "culvertd.socket" was passed on; a node knows public and redirect; say FileDescriptorName=`},
		"twice":           {"self", "public:public", "2", []*os.File{tcp, tcp}, "error: two sockets named public"},
		"unix":            {"self", "public", "1", []*os.File{unixFile}, `error: socket "public": `},
		"no socket":       {"self", "public", "1", []*os.File{plain}, `error: socket "public": descriptor 3 is nothing that listens`},
		"not even a file": {"self", "public", "1", nil, `error: `},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "CULVERT_TEST_LIFE=inherit", "GORACE=atexit_sleep_ms=0", "LISTEN_PID="+c.pid, "LISTEN_FDS="+c.fds, "LISTEN_FDNAMES="+c.names)
			cmd.ExtraFiles = c.files
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), c.want) {
				t.Errorf("got %q, %v; want %q", out, err, c.want)
			}
		})
	}
}

// TestStaysNonBlocking: passing a socket on must not make it block here, or
// closing it would wait for the next visitor.
func TestStaysNonBlocking(t *testing.T) {
	ln := listen(t)
	accepted := make(chan error)
	go func() { _, err := ln.Accept(); accepted <- err }()
	s := become(t, "hang", ln, io.Discard)
	if err := s.AwaitData(t.Context()); err != nil {
		t.Fatal(err)
	}
	ln.Close()
	select {
	case <-accepted:
	case <-time.After(5 * time.Second):
		t.Error("Accept does not hear of Close")
	}
	s.Abort()
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	Notify("", "READY=1")
	Notify(path+".none", "READY=1")
	Notify(path, "READY=1", Reloading())
	b := make([]byte, 100)
	n, err := conn.Read(b)
	if got := string(b[:n]); err != nil || !strings.HasPrefix(got, "READY=1\nRELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("got %q, %v", got, err)
	}
}
