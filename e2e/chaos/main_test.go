//go:build linux

package chaos

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

var (
	full   = flag.Bool("chaos.full", false, "the whole schedule, in its full length")
	size   = flag.Int64("chaos.bytes", 0, "bytes that are moved each way while the road breaks; 0 is 200 MB, or less without -chaos.full")
	asleep = flag.Duration("chaos.asleep", 0, "how long the agent's machine sleeps; 0 is 10 minutes, or less without -chaos.full")
	agents = flag.Int("chaos.agents", 0, "agents of the node that is killed; 0 is 1,000, or less without -chaos.full")
)

// The programs under test, and those that help, built once for all tests.
var culvertPath, culvertdPath, agentsPath, wanlinkPath string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin") // where nft, ip and ss are
	dir, err := os.MkdirTemp("", "culvert-chaos-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	for _, build := range []*exec.Cmd{
		exec.Command("go", "build", "-buildvcs=false", "-o", dir, "../../cmd/culvert", "../../cmd/culvertd", "./agents"),
		exec.Command("go", "build", "-C", "../../tools", "-buildvcs=false", "-o", dir, "./wanlink"),
	} {
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "chaos: %v: %v\n%s", build, err, out)
			return 1
		}
	}
	culvertPath, culvertdPath = filepath.Join(dir, "culvert"), filepath.Join(dir, "culvertd")
	agentsPath, wanlinkPath = filepath.Join(dir, "agents"), filepath.Join(dir, "wanlink")
	if os.Geteuid() == 0 {
		sweep()
	}
	return m.Run()
}

// needRoot leaves the test out where it cannot be, and fails it where a program
// is missing: that would look like a test that passed.
func needRoot(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("breaks roads for most of a minute, left out by -short")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, for network namespaces: sudo make chaos")
	}
	for _, program := range []string{"ip", "nft", "ss", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v; e2e/setup.sh installs it", err)
		}
	}
}

// whole returns what the whole schedule has, or the part that is enough for
// make test.
func whole[T any](all, part T) T {
	if *full {
		return all
	}
	return part
}

// chosen is a flag, or what whole says if it was not given.
func chosen[T comparable](f *T, all, part T) T {
	var zero T
	if *f != zero {
		return *f
	}
	return whole(all, part)
}

func ms(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
