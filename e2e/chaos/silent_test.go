//go:build linux

package chaos

import (
	"fmt"
	"testing"
	"time"
)

// The road is silent for longer than a session is kept, under load: both ends
// know within five seconds, visitors wait or are told, nobody hangs, and all is
// well again soon after the road is.
func silence(t *testing.T, f *finding) {
	long := whole(60*time.Second, 20*time.Second)
	resume, hold := whole(30*time.Second, 6*time.Second), whole(10*time.Second, 3*time.Second)
	w := newWorld(t, road{})
	n, s := w.startNode("--resume", resume.String(), "--hold", hold.String()), w.startService("blog")
	a := n.startAgent("blog", s.target)
	n.works(t, "blog")

	c := n.invite(50, &crowd{names: func(int) string { return "blog" }})
	time.Sleep(2 * time.Second)
	f.say("silent for %v", long)
	cut := w.drop()
	f.within("node knew", n.resuming().Sub(cut), 6*time.Second)
	f.within("agent knew", a.told(cut, "resuming").Time.Sub(cut), 5*time.Second)
	time.Sleep(time.Until(cut.Add(long)))
	healed := w.heal()
	back := a.told(healed, "resumed", "ready")
	f.within("agent back", back.Time.Sub(healed), 3*time.Second)
	time.Sleep(2 * time.Second)
	visits := c.enough()

	f.say("%d requests", len(visits))
	f.none("neither answered nor told 503", failed(t, visits, func(v *visit) bool { return v.good() || v.told() }))
	// Who came before the node knew waits for that, and then for the session.
	f.within("the slowest", slowest(visits), 5*time.Second+resume+hold+time.Second)
	told := 0
	var held time.Duration
	for _, v := range visits {
		if v.told() {
			told++
			if v.began.After(cut.Add(6 * time.Second)) {
				held = max(held, v.took)
			}
		}
	}
	f.say("%d told 503", told)
	f.within("held for at most", held, hold+time.Second)
	first := patience
	for _, v := range visits {
		if in := v.began.Add(v.took).Sub(healed); v.good() && in > 0 {
			first = min(first, in)
		}
	}
	f.within("first visitor in", first, 3*time.Second)
}

// Connections are reset, from either side and by a firewall between them.
// Visitors do not even notice how often.
func resets(t *testing.T, f *finding) {
	w := newWorld(t, road{delay: 5 * time.Millisecond})
	n, s := w.startNode(), w.startService("blog")
	a := n.startAgent("blog", s.target)
	n.works(t, "blog")
	c := n.invite(50, &crowd{names: func(int) string { return "blog" }})
	v := n.visitor(false, true)
	ways := []struct {
		whose string
		reset func() time.Time
	}{
		{"the node's", func() time.Time { return w.reset(w.ed) }},
		{"the agent's", func() time.Time { return w.reset(w.ag) }},
		{"a firewall's", func() time.Time {
			rejected := w.reject()
			a.told(rejected, "resuming")
			return w.heal()
		}},
	}
	// Whoever loses one connection soon after another waits for longer.
	times, pause := whole(3, 1), whole(11*time.Second, time.Second)
	for _, way := range ways[:whole(3, 2)] {
		var worst time.Duration
		for range times {
			time.Sleep(pause)
			reset := way.reset()
			if err := answers(v, "blog"); err != nil {
				t.Errorf("after %s reset: %v", way.whose, err)
			}
			worst = max(worst, time.Since(reset), a.told(reset, "resumed").Time.Sub(reset))
		}
		f.within(fmt.Sprintf("back after %s reset", way.whose), worst, time.Second)
	}
	visits := c.enough()
	f.say("%d requests, the slowest %v", len(visits), ms(slowest(visits)))
	f.none("failed", failed(t, visits, (*visit).good))
	if sessions := n.sessions(); len(sessions) != 1 {
		t.Error(fmt.Sprint("sessions: ", sessions))
	}
}
