// Package models runs the models of this folder; see README.md. They are
// written for spin, which is a Debian package, and need a C compiler.
package models

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// TestModels: every state of each model has its properties. A model that had
// become small would prove little, so their sizes are held as well.
func TestModels(t *testing.T) {
	for _, tt := range []struct {
		model, property string
		states          int // at least
	}{
		{"names", "freed", 3_000_000},
		{"resume", "freed", 3_000_000},
		{"resume", "answered", 2_000_000},
	} {
		t.Run(tt.model+"/"+tt.property, func(t *testing.T) {
			errors, states, out := verify(t, tt.model, tt.property)
			if errors != 0 || states < tt.states {
				t.Errorf("%d errors in %d states, want none in at least %d:\n%s", errors, states, tt.states, out)
			}
			t.Logf("no errors in %d states", states)
		})
	}
}

// TestGuards: without any one of the guards, something goes wrong. A guard that
// was not missed would be one too many, or the model blind.
func TestGuards(t *testing.T) {
	for _, tt := range []struct{ model, property, without string }{
		{"names", "freed", "NO_EPOCH"},
		{"names", "freed", "NO_OWNER"},
		{"names", "freed", "NO_ENDED"},
		{"names", "freed", "NO_LOST"},
		{"names", "freed", "NO_BOUND"},
		{"resume", "freed", "NO_EPOCH"},
		{"resume", "freed", "NO_OWNER"},
		{"resume", "freed", "NO_NUMBER"},
		{"resume", "freed", "NO_PROOF"},
		{"resume", "freed", "NO_SESSION"},
		{"resume", "freed", "NO_AGENT"},
		{"resume", "freed", "SPLIT_WINDOW"},
		{"resume", "freed", "NO_REMOVE"},
		{"resume", "answered", "NO_RETRY"},
	} {
		t.Run(tt.model+"/"+tt.without, func(t *testing.T) {
			errors, states, out := verify(t, tt.model, tt.property, "-D"+tt.without)
			if errors == 0 {
				t.Errorf("no errors in %d states, want one:\n%s", states, out)
			}
			t.Logf("an error after %d states", states)
		})
	}
}

var (
	counts   = regexp.MustCompile(`errors: (\d+)\n\s*(\d+) states, stored`)
	cutShort = regexp.MustCompile(`max search depth too small|out of memory|MEMLIM|interrupted`)
)

// verify looks at every state of a model, until it has found an error.
func verify(t *testing.T, model, property string, flags ...string) (errors, states int, out string) {
	t.Helper()
	source, err := os.ReadFile(model + ".pml") // so that go test knows when it has changed
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "model.pml"), source, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) string {
		t.Helper()
		if filepath.Base(name) == name {
			if _, err := exec.LookPath(name); err != nil {
				t.Fatalf("%v; e2e/setup.sh installs what tests need", err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	run("spin", append(flags, "-a", "model.pml")...)
	// COLLAPSE takes a third more time, and half of the memory.
	run("gcc", "-O1", "-w", "-DCOLLAPSE", "-DVECTORSZ=256", "-o", "pan", "pan.c")
	out = run(filepath.Join(dir, "pan"), "-a", "-m10000", "-N", property)
	m := counts.FindStringSubmatch(out)
	if m == nil || cutShort.MatchString(out) {
		t.Fatalf("the search did not end:\n%s", out)
	}
	errors, _ = strconv.Atoi(m[1])
	states, _ = strconv.Atoi(m[2])
	return errors, states, out
}
