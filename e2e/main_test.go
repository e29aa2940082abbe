package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The programs under test, built once for all tests.
var (
	culvertPath  string
	culvertdPath string
)

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// Debian keeps nginx where only root looks.
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")

	dir, err := os.MkdirTemp("", "culvert-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)

	build := exec.Command("go", "build", "-buildvcs=false", "-o", dir, "../cmd/culvert", "../cmd/culvertd")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "e2e: %v: %v\n%s", build, err, out)
		return 1
	}
	culvertPath = filepath.Join(dir, "culvert")
	culvertdPath = filepath.Join(dir, "culvertd")
	return m.Run()
}

// need fails the test unless all programs are installed: a test that left
// itself out would look like one that passed. A -short run leaves it out, and says so.
func need(t *testing.T, programs ...string) {
	t.Helper()
	if testing.Short() {
		t.Skipf("needs %v, left out by -short", programs)
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v; e2e/setup.sh installs it", err)
		}
	}
}
