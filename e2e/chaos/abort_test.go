//go:build linux

package chaos

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A thousand downloads are begun and none of them is ended. Neither program has
// anything left of that five seconds later.
func abort(t *testing.T, f *finding) {
	const times, atOnce = 1000, 20
	pair := func(w *world) (*node, *process) {
		n, s := w.startNode(), w.startService("blog")
		a := n.startAgent("blog", s.target)
		n.works(t, "blog")
		return n, a
	}
	n, a := pair(newWorld(t, road{}))
	fresh, freshAgent := pair(newWorld(t, road{})) // never sees an aborted download
	ways := []*http.Client{n.visitor(false, true), n.visitor(true, true)}
	run := func(times int) {
		turns := make(chan int)
		var wg sync.WaitGroup
		for range atOnce {
			wg.Go(func() {
				for i := range turns {
					if err := abandon(t.Context(), ways[i%2]); err != nil {
						t.Errorf("download %d: %v", i, err)
					}
				}
			})
		}
		for i := range times {
			turns <- i
		}
		close(turns)
		wg.Wait()
		for _, v := range ways {
			v.CloseIdleConnections()
		}
	}
	// Both programs have pools, threads and a heap that a first time fills, and
	// that Go keeps for a while.
	run(10 * atOnce)
	time.Sleep(5 * time.Second)
	nodeWas, agentWas := n.holds(), a.holds()
	run(times)
	ended := time.Now()
	var node, agent holds
	for {
		node, agent = n.holds(), a.holds()
		if node.descriptors <= nodeWas.descriptors && agent.descriptors <= agentWas.descriptors || time.Since(ended) > 5*time.Second {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	f.within("descriptors back", time.Since(ended), 5*time.Second)
	time.Sleep(time.Until(ended.Add(5 * time.Second)))
	node, agent = n.holds(), a.holds()
	f.say("node: %v, before %v", node, nodeWas)
	f.say("agent: %v, before %v", agent, agentWas)
	const room = 32 // MiB: what a garbage collector keeps for the next time
	for _, h := range []struct{ was, is holds }{{nodeWas, node}, {agentWas, agent}} {
		if h.is.descriptors > h.was.descriptors || h.is.rss > h.was.rss+room {
			t.Errorf("%v after 5 s; before it were %v", h.is, h.was)
		}
	}
	nodes, agents := n.goroutines(), a.goroutines()
	fewNode, fewAgent := fresh.goroutines(), freshAgent.goroutines()
	f.say("goroutines: node %d, another %d; agent %d, another %d", len(nodes), len(fewNode), len(agents), len(fewAgent))
	if len(nodes) > len(fewNode) || len(agents) > len(fewAgent) {
		t.Errorf("goroutines were left behind; the node has\n%s\nand the agent\n%s", strings.Join(nodes, "\n"), strings.Join(agents, "\n"))
	}
}

// abandon begins a download of a gigabyte and leaves.
func abandon(ctx context.Context, v *http.Client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", url("blog")+"/download/1000000000", nil)
	if err != nil {
		return err
	}
	res, err := v.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.CopyN(io.Discard, res.Body, 100_000); err != nil {
		return fmt.Errorf("%s: %w", res.Status, err)
	}
	return nil
}

// goroutines ends a program with SIGQUIT, on which Go says what each goroutine
// does. Those of the runtime are left out: it has as many as it likes.
func (p *process) goroutines() (ours []string) {
	p.t.Helper()
	p.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("%s does not end by SIGQUIT", p.name)
	}
	for about := range strings.SplitSeq(p.stderr.String(), "\n\n") {
		if strings.HasPrefix(about, "goroutine ") && !strings.Contains(about, "created by runtime.") && !strings.HasPrefix(about, "goroutine 0 ") {
			ours = append(ours, about)
		}
	}
	return ours
}
