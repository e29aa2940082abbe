package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A hundred reloads, every third of a file that is wrong: visitors and the
// tunnel do not notice, what is wrong is refused with its line, and the last
// that was right is in force.
func TestReloadStorm(t *testing.T) {
	t.Parallel()
	l, s := startLineage(t, "hsts: 1h"), startService(t, "blog")
	_, url := l.startAgent(l.token("ada"), s.target(), "--name", "blog")
	session := l.admin("session", "list")
	v := l.visitor()
	hsts := func() string {
		res, _ := get(t, v, url+"/")
		return res.Header.Get("Strict-Transport-Security")
	}
	if got := hsts(); got != "max-age=3600" {
		t.Fatalf("HSTS %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var c crowd
	over := make(chan struct{})
	go func() {
		defer close(over)
		c.run(ctx, 8, 200, func(i int) *http.Client {
			if i%2 == 0 {
				return l.visitor()
			}
			return overHTTP2(l.visitor())
		}, url)
	}()
	for i := range 100 {
		right := fmt.Sprintf("hsts: %ds", i+1)
		switch i % 3 {
		case 0:
			l.configure(right, fmt.Sprintf("idle-timeout: %dm", i+1), fmt.Sprintf("max-visitors: %d", 1000+i))
		case 1:
			l.configure(right, "min-rate: none")
		case 2:
			l.configure(right, "tls: off", "trusted-proxy: 127.0.0.1")
		}
		if i%2 == 0 {
			l.signal(syscall.SIGHUP)
		} else {
			out, err, code := l.ask("reload")
			switch {
			case i%3 == 0 && (code != 0 || !strings.HasPrefix(out, "reloaded; changed: ")):
				t.Errorf("reload %d: exit code %d, %q %q", i, code, out, err)
			case i%3 == 1 && (code != 1 || !strings.Contains(err, l.config+`:6: min-rate: "none" is not a whole number`)):
				t.Errorf("reload %d: exit code %d, %q", i, code, err)
			case i%3 == 2 && code != 1:
				t.Errorf("reload %d: exit code %d, %q", i, code, err)
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	eventually(t, "the last that was right is in force", func() error {
		if got := hsts(); got != "max-age=100" {
			return fmt.Errorf("HSTS %q", got)
		}
		return nil
	})
	cancel()
	<-over
	if len(c.failed) > 0 {
		t.Errorf("failed: %q", c.failed)
	}
	if after := l.admin("session", "list"); strings.Fields(after)[7] != strings.Fields(session)[7] {
		t.Errorf("the agent has noticed:\n%s%s", session, after)
	}
	t.Logf("%d requests, the slowest took %v", c.asked.Load(), c.slowest)
}
