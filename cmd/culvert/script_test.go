package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"culvert": main})
}

// TestScripts runs testdata/*.txtar: what people type, and what they see.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			n, err := startNode(filepath.Join(env.WorkDir, "ca.pem"))
			if err != nil {
				return err
			}
			env.Defer(n.close)
			env.Values["node"] = n
			secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello by TLS") }))
			env.Defer(secure.Close)
			secure.Config.ErrorLog = log.New(io.Discard, "", 0)
			ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
			if err := os.WriteFile(filepath.Join(env.WorkDir, "service.pem"), ca, 0o600); err != nil {
				return err
			}
			picky := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(http.StatusForbidden)
				io.WriteString(w, "Blocked request. This host (\""+r.Host+"\") is not allowed.") // Vite's words
			}))
			env.Defer(picky.Close)
			env.Setenv("SECURE", secure.URL) // a service with TLS that signed its certificate itself
			env.Setenv("PLAIN", strings.TrimPrefix(picky.URL, "http://127.0.0.1:"))
			env.Setenv("PICKY", picky.URL) // a service that knows no host
			env.Setenv("NODE", n.addr())
			env.Setenv("PORT", strings.TrimPrefix(n.addr(), "localhost:"))
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, "config"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":   exits,
			"bound":   bound,
			"visitor": visitor,
			"asked":   asked,
			"mode":    mode,
		},
	})
}

// exits CODE COMMAND... runs a command that is to end with that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code command [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		got = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// bound NAME waits until an agent holds that name.
func bound(ts *testscript.TestScript, _ bool, args []string) {
	n := ts.Value("node").(*node)
	if len(args) != 1 {
		ts.Fatalf("usage: bound name")
	}
	if err := n.waitBound(args[0]); err != nil {
		ts.Fatalf("%v", err)
	}
}

// visitor NAME PATTERN opens a stream to the agent that holds NAME, asks for a
// page, and wants the answer, or how the stream broke, to match.
func visitor(ts *testscript.TestScript, _ bool, args []string) {
	n := ts.Value("node").(*node)
	if len(args) != 2 {
		ts.Fatalf("usage: visitor name pattern")
	}
	got := n.visit(args[0])
	if !regexp.MustCompile(args[1]).MatchString(got) {
		ts.Fatalf("the visitor got %q, want %q", got, args[1])
	}
}

// asked NAME PATTERN wants what the agent that holds NAME asked for to match.
func asked(ts *testscript.TestScript, _ bool, args []string) {
	n := ts.Value("node").(*node)
	if len(args) != 2 {
		ts.Fatalf("usage: asked name pattern")
	}
	n.mu.Lock()
	got := fmt.Sprintf("%+v", n.holders[args[0]].asked)
	n.mu.Unlock()
	if !regexp.MustCompile(args[1]).MatchString(got) {
		ts.Fatalf("the agent asked for %s, want %q", got, args[1])
	}
}

// mode PERM FILE wants a file to have these permissions.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

// TestBudget: the agent goes onto small machines, and must not drag the node's
// half of the world along.
func TestBudget(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a binary")
	}
	program := filepath.Join(t.TempDir(), "culvert")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	if mb := info.Size() >> 20; mb >= 12 {
		t.Errorf("the program has %d MB, want less than 12", mb)
	}
	out, err := exec.Command("go", "version", "-m", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(out), "\tdep\t"); n == 0 || n > 20 {
		t.Errorf("it is built from %d modules, want 1 to 20:\n%s", n, out)
	}
	out, err = exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	never := regexp.MustCompile(`nats-io|prometheus|^html/template$|/internal/(admin|auth|certs|cluster|edge|router|server|session|store)$`)
	for dep := range strings.FieldsSeq(string(out)) {
		if never.MatchString(dep) {
			t.Errorf("it reaches %s", dep)
		}
	}
}
