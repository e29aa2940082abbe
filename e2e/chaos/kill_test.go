//go:build linux

package chaos

import (
	"fmt"
	"testing"
	"time"
)

// The node is killed under load and started again. All its agents are back with
// their names, and meanwhile visitors wait, or are told; none gets the answer of
// somebody else's service.
func killNode(t *testing.T, f *finding) {
	const owners = 10
	count := chosen(agents, 1000, 300)
	each := count / owners
	w := newWorld(t, road{})
	n := w.startNode()
	args := []string{"-server", domain, "-ca", n.ca(), "-each", fmt.Sprint(each)}
	for i := range owners {
		args = append(args, n.token(fmt.Sprint("owner", i)))
	}
	began := time.Now()
	crew := start(t, "agents", w.ag, w.withHosts(agentsPath, args...))
	f.say("%d agents", count)
	f.say("came in %v", ms(allReady(t, crew, count, time.Time{}).Sub(began)))

	c := n.invite(50, &crowd{names: func(turn int) string { return fmt.Sprintf("a%d", turn*7%count) }})
	time.Sleep(whole(5*time.Second, 2*time.Second))
	killed := time.Now()
	n.kill()
	time.Sleep(500 * time.Millisecond)
	started := time.Now()
	n.start()
	listening := time.Now()
	back := allReady(t, crew, count, killed)
	time.Sleep(whole(5*time.Second, time.Second))
	visits := c.enough()
	f.within("all back", back.Sub(started), 10*time.Second)

	v := n.visitor(true, true)
	for i := range count {
		if err := answers(v, fmt.Sprintf("a%d", i)); err != nil {
			t.Errorf("a%d: %v", i, err)
		}
	}
	told, cut := 0, 0
	wrong := failed(t, visits, func(v *visit) bool { return v.err != nil || v.status != 200 || v.body == v.want })
	lost := failed(t, visits, func(v *visit) bool {
		switch {
		case v.good():
		case v.told():
			told++
		case v.began.Before(listening) && v.began.Add(v.took).After(killed): // there was no node
			cut++
		default:
			return false
		}
		return true
	})
	f.say("%d requests, the slowest %v, %d told 503, %d cut by the kill", len(visits), ms(slowest(visits)), told, cut)
	f.none("wrong answers", wrong)
	f.none("neither answered nor told", lost)
}

// allReady waits until that many agents have opened their tunnels since then,
// and returns when the last one had.
func allReady(t *testing.T, crew *process, count int, since time.Time) (last time.Time) {
	t.Helper()
	eventually(t, "all agents are there", func() error {
		names := map[string]bool{}
		for _, e := range crew.events(since) {
			if e.Event == "ready" {
				names[e.Name] = true
				last = e.Time
			}
		}
		if len(names) < count {
			time.Sleep(100 * time.Millisecond) // it is a lot to read
			return fmt.Errorf("%d of %d", len(names), count)
		}
		return crew.running()
	})
	return last
}
