//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// A freezer stops all of a process at once, and lets it go on, without the
// process being told: what a lid that is closed does to a machine.
type freezer struct {
	t     *testing.T
	group string
	state string // the file that says so
	words [2]string
}

// newFreezer puts p into a cgroup with a freezer, of version 1 if there is one.
func newFreezer(t *testing.T, p *process) *freezer {
	t.Helper()
	name := fmt.Sprintf("chaos%d-%d", os.Getpid(), p.pid())
	for _, f := range freezers(name) {
		f.t = t
		if os.Mkdir(f.group, 0o755) != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(f.group, f.state)); err != nil {
			os.Remove(f.group)
			continue
		}
		t.Cleanup(func() {
			f.thaw() // or it could not be ended
			p.stop()
			eventually(t, "remove the freezer", func() error { return os.Remove(f.group) })
		})
		f.write("cgroup.procs", fmt.Sprint(p.pid()))
		return f
	}
	t.Fatal("no cgroup with a freezer: mount one, of version 1 or 2")
	return nil
}

// freezers are those that there might be, of version 1 and 2 of cgroups.
func freezers(name string) []*freezer {
	return []*freezer{
		{group: "/sys/fs/cgroup/freezer/" + name, state: "freezer.state", words: [2]string{"THAWED", "FROZEN"}},
		{group: "/sys/fs/cgroup/" + name, state: "cgroup.freeze", words: [2]string{"0", "1"}},
		{group: "/sys/fs/cgroup/unified/" + name, state: "cgroup.freeze", words: [2]string{"0", "1"}},
	}
}

func (f *freezer) freeze() { f.write(f.state, f.words[1]) }

func (f *freezer) thaw() time.Time {
	f.write(f.state, f.words[0])
	return time.Now()
}

func (f *freezer) write(file, what string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.group, file), []byte(what), 0); err != nil {
		f.t.Fatal(err)
	}
}

// The agent's machine sleeps for longer than its session is kept: nothing runs,
// and nobody answers on the road. When it wakes, visitors are let in again
// within two seconds, at the name there was.
func fallAsleep(t *testing.T, f *finding) {
	long := chosen(asleep, 10*time.Minute, 36*time.Second)
	w := newWorld(t, road{})
	n, s := w.startNode(), w.startService("blog")
	a := n.startAgent("blog", s.target)
	n.works(t, "blog")
	was := n.sessions()
	freezer := newFreezer(t, a)

	began := w.drop()
	freezer.freeze()
	time.Sleep(long)
	if s := n.sessions(); len(s) != 0 {
		t.Errorf("the node still has %v", s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if status, header, body, err := fetch(ctx, n.visitor(false, true), url("blog")+"/", nil); err != nil || status != 503 || header.Get("Retry-After") == "" {
		t.Errorf("a visitor meanwhile: %d %v %q %v; want 503 with Retry-After", status, header, body, err)
	}
	w.heal()
	woke := freezer.thaw()
	f.say("asleep for %v", woke.Sub(began).Round(time.Second))
	v := n.visitor(false, true)
	eventually(t, "let visitors in again", func() error { return answers(v, "blog") })
	f.within("visitors back", time.Since(woke), 2*time.Second)
	ready := a.told(woke, "ready")
	f.within("agent knew", a.told(woke, "woke", "resuming", "disconnected").Time.Sub(woke), 2*time.Second)
	if ready.Name != "blog" {
		t.Errorf("its name is %q now; want blog", ready.Name)
	}
	if now := n.sessions(); len(now) != 1 || now[0].ID == was[0].ID {
		t.Errorf("the node has %v; before it had %v", now, was)
	}
	f.say("same name")
}

// A nap is shorter than a session is kept: whoever is inside notices nothing.
func nap(t *testing.T, f *finding) {
	w := newWorld(t, road{})
	n, s := w.startNode(), w.startService("blog")
	a := n.startAgent("blog", s.target)
	n.works(t, "blog")
	freezer := newFreezer(t, a)
	const size = 20e6
	want := hashOf(size)
	v := n.visitor(false, true)
	x := download(t.Context(), v, "blog", size, 4e6)
	if err := reaches(0.2, size, x); err != nil {
		t.Fatal(err)
	}
	w.drop()
	freezer.freeze()
	time.Sleep(15 * time.Second)
	w.heal()
	woke := freezer.thaw()
	f.within("resumed", a.told(woke, "resumed").Time.Sub(woke), 2*time.Second)
	<-x.done
	if x.err != nil || x.hash != want {
		t.Error(errors.Join(x.err, fmt.Errorf("hash %s; want %s", x.hash, want)))
	}
	f.say("asleep for 15s; a download went on")
}

// sweep removes what a run has left behind that was killed: namespaces, and
// freezers with agents in them that are dead as soon as they are thawed.
func sweep() {
	left := func(pattern string) (names []string) {
		all, _ := filepath.Glob(pattern)
		for _, path := range all {
			var pid, n int
			if _, err := fmt.Sscanf(filepath.Base(path), "chaos%d-%d", &pid, &n); err != nil {
				continue
			}
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); errors.Is(err, fs.ErrNotExist) {
				names = append(names, filepath.Base(path))
			}
		}
		return names
	}
	for _, name := range left("/run/netns/chaos*") {
		exec.Command("ip", "netns", "del", name).Run()
	}
	for _, f := range freezers("chaos*") {
		for _, name := range left(f.group) {
			group := filepath.Join(filepath.Dir(f.group), name)
			os.WriteFile(filepath.Join(group, f.state), []byte(f.words[0]), 0)
			for range 100 {
				if os.Remove(group) == nil {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
}
