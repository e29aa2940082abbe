//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A node without descriptors to spare does not spin: it accepts nobody for a
// while. Tunnels and whoever is inside do not notice, and when descriptors come
// back, so do visitors.
func TestOutOfDescriptors(t *testing.T) {
	t.Parallel()
	n, s := startNode(t), startService(t, "blog")
	_, url := n.startAgent(n.token("ada"), s.target(), "--name", "blog")
	inside := n.visitor()
	wantPage(t, inside, url+"/", "hello from blog\n")
	pid := n.cmd.Process.Pid
	var was unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 256, Max: 256}, &was); err != nil {
		t.Fatal(err)
	}
	var crowd []net.Conn
	defer func() {
		for _, c := range crowd {
			c.Close()
		}
	}()
	fill := func() {
		for _, c := range crowd {
			c.Close()
		}
		crowd = crowd[:0]
		for range 400 {
			c, err := net.Dial("tcp", n.addr)
			if err != nil {
				t.Fatal(err)
			}
			crowd = append(crowd, c)
		}
	}
	fill()
	eventually(t, "no descriptors are left", func() error {
		if n := descriptors(t, pid); n < 250 {
			return fmt.Errorf("%d are open", n)
		}
		return nil
	})
	before, start := cpu(t, pid), time.Now()
	for time.Since(start) < 3*time.Second {
		wantPage(t, inside, url+"/", "hello from blog\n")
		time.Sleep(100 * time.Millisecond)
	}
	share := float64(cpu(t, pid)-before) / float64(time.Since(start))
	t.Logf("%d of 256 descriptors open, %.1f %% of one CPU", descriptors(t, pid), 100*share)
	if share > 0.10 {
		t.Errorf("it takes %.0f %% of one CPU to accept nobody; want less than 10", 100*share)
	}
	if got := strings.Count(n.stderr.String(), "connection not accepted"); got < 1 || got > 20 {
		t.Errorf("%d lines of log about it; want a few", got)
	}
	for _, c := range crowd {
		c.Close()
	}
	crowd = nil
	eventually(t, "visitors come in again", func() error { return answers(n.visitor(), url+"/", "hello from blog\n") })
	if sessions := n.admin("session", "list"); !strings.Contains(sessions, "ada") {
		t.Errorf("the agent is gone:\n%s", sessions)
	}
}

func descriptors(t *testing.T, pid int) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// cpu is how long a process has been running on any CPU.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest) // from the third one on
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // a tick is a hundredth of a second for all programs
}
