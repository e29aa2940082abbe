//go:build linux

package chaos

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Who is where. The node listens on port 443 of all its addresses, as it would
// anywhere.
const (
	agentAddr   = "10.99.0.1"
	otherAddr   = "10.99.0.3" // of the agent, after its address has changed
	nodeAddr    = "10.99.0.2" // for agents
	publicAddr  = "10.98.0.2" // for visitors
	visitorAddr = "10.98.0.1"
	domain      = "chaos.test"
)

// A road is what lies between node and agent. The zero value is as fast as this
// machine.
type road struct {
	delay time.Duration // one way
	loss  float64       // probability that a packet is lost
	rate  float64       // Mbit/s; 0 for no bottleneck
}

// A world is three namespaces, and what runs in them.
type world struct {
	t          *testing.T
	ag, ed, vi string // namespaces
	link       string // the agent's end of the road
	dir        string
}

var worlds atomic.Int32

// newWorld makes namespaces and the road between them, until the test ends.
func newWorld(t *testing.T, r road) *world {
	t.Helper()
	name := fmt.Sprintf("chaos%d-%d", os.Getpid(), worlds.Add(1))
	w := &world{t: t, ag: name + "ag", ed: name + "ed", vi: name + "vi", dir: t.TempDir()}
	if r == (road{}) {
		w.link = "road"
		for _, namespace := range []string{w.ag, w.ed} {
			w.newNamespace(namespace)
		}
		w.ip("link", "add", w.link, "netns", w.ag, "type", "veth", "peer", "name", "road", "netns", w.ed)
		w.join(w.ag, "road", agentAddr)
		w.join(w.ed, "road", nodeAddr)
	} else {
		w.wanlink(r)
	}
	w.newNamespace(w.vi)
	w.ip("link", "add", "street", "netns", w.vi, "type", "veth", "peer", "name", "street", "netns", w.ed)
	w.join(w.vi, "street", visitorAddr)
	w.join(w.ed, "street", publicAddr)

	hosts := fmt.Sprintf("127.0.0.1 localhost\n%s %s\n", nodeAddr, domain)
	if err := os.WriteFile(filepath.Join(w.dir, "hosts"), []byte(hosts), 0o644); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) newNamespace(name string) {
	w.t.Helper()
	w.ip("netns", "add", name)
	w.t.Cleanup(func() { w.ip("netns", "del", name) })
	w.ip("-n", name, "link", "set", "lo", "up")
}

func (w *world) join(namespace, link, addr string) {
	w.t.Helper()
	w.ip("-n", namespace, "addr", "add", addr+"/24", "dev", link)
	w.ip("-n", namespace, "link", "set", link, "up")
}

// wanlink runs the road's program, which makes both its namespaces.
func (w *world) wanlink(r road) {
	w.t.Helper()
	cmd := exec.Command(wanlinkPath, "-a", w.ag, "-b", w.ed,
		"-delay", r.delay.String(), "-loss", fmt.Sprint(r.loss), "-rate", fmt.Sprint(r.rate))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} // it then removes them
	line, err := firstLine(cmd)
	w.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		defer late.Stop()
		if err := cmd.Wait(); err != nil {
			w.t.Errorf("wanlink: %v", err)
		}
	})
	if err != nil || line != "ready" {
		w.t.Fatalf("wanlink: %v, %q", err, line)
	}
	var links []struct{ Ifname string }
	if err := json.Unmarshal([]byte(w.ip("-n", w.ag, "-j", "addr", "show", "to", agentAddr)), &links); err != nil || len(links) != 1 {
		w.t.Fatalf("the road's end: %v, %v", links, err)
	}
	w.link = links[0].Ifname
}

// ip runs the command of that name, of iproute2.
func (w *world) ip(args ...string) string {
	w.t.Helper()
	return command(w.t, exec.Command("ip", args...))
}

func command(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", cmd, err, out)
	}
	return string(out)
}

// drop makes packets of the road vanish in both directions, as they arrive, so
// that neither end is told. It returns when.
func (w *world) drop() time.Time {
	w.t.Helper()
	w.rule(w.ag, "ip saddr 10.99.0.0/24 drop")
	w.rule(w.ed, "ip saddr 10.99.0.0/24 drop")
	return time.Now()
}

// reject answers whatever comes over the road with a reset.
func (w *world) reject() time.Time {
	w.t.Helper()
	const verdict = "ip saddr 10.99.0.0/24 tcp flags & rst == 0 reject with tcp reset"
	w.rule(w.ag, verdict)
	w.rule(w.ed, verdict)
	return time.Now()
}

func (w *world) rule(namespace, rule string) {
	w.t.Helper()
	w.nft(namespace, `table inet chaos {
		chain input {
			type filter hook input priority 0;
			iif != "lo" `+rule+`
		}
	}`)
}

// heal ends drop and reject. It returns when.
func (w *world) heal() time.Time {
	w.t.Helper()
	w.nft(w.ed, "flush ruleset")
	w.nft(w.ag, "flush ruleset")
	return time.Now()
}

func (w *world) nft(namespace, rules string) {
	w.t.Helper()
	cmd := exec.Command("ip", "netns", "exec", namespace, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	command(w.t, cmd)
}

// reset ends the road's connections on one side, as the kernel does for
// whoever has the right to ask (ss -K). It returns when.
func (w *world) reset(namespace string) time.Time {
	w.t.Helper()
	began := time.Now()
	args := []string{"netns", "exec", namespace, "ss", "-K", "-t", "-H", "state", "connected"}
	if namespace == w.ed {
		args = append(args, "src", nodeAddr, "sport", "=", ":443")
	} else {
		args = append(args, "dst", nodeAddr, "dport", "=", ":443")
	}
	if out := w.ip(args...); !strings.Contains(out, nodeAddr) {
		w.t.Errorf("%v closed nothing: %q", args, out)
	}
	return began
}

// move gives the agent's machine another address. The one before is gone.
func (w *world) move() time.Time {
	w.t.Helper()
	began := time.Now()
	w.ip("-n", w.ag, "addr", "del", agentAddr+"/24", "dev", w.link)
	w.ip("-n", w.ag, "addr", "add", otherAddr+"/24", "dev", w.link)
	return began
}

// dial connects to addr, which is one with digits, from the namespace.
func dial(namespace, addr string) (conn net.Conn, err error) {
	err = inNamespace(namespace, func() error {
		conn, err = net.DialTimeout("tcp4", addr, 15*time.Second)
		return err
	})
	return conn, err
}

// listen listens on a free port, or the one in addr, in the namespace.
func listen(t *testing.T, namespace, addr string) (ln net.Listener) {
	t.Helper()
	err := inNamespace(namespace, func() (err error) {
		ln, err = net.Listen("tcp4", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// inNamespace calls do in the network namespace of that name. Sockets and
// processes that do makes stay there. It must make them in its own goroutine,
// as package net does when nothing has to be looked up.
func inNamespace(name string, do func() error) (err error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	there, err := os.Open("/run/netns/" + name)
	if err != nil {
		return err
	}
	defer there.Close()

	runtime.LockOSThread()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace %s: %w", name, err)
	}
	err = do()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back) // still locked: nobody else shall run there
	}
	runtime.UnlockOSThread()
	return err
}
