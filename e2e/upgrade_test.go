package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A crowd asks without a pause between two upgrades: over kept connections of
// both versions, with and without a body.
type crowd struct {
	asked   atomic.Int64
	mu      sync.Mutex // guards the fields below
	failed  []string
	slowest time.Duration
}

func (c *crowd) fail(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = append(c.failed, fmt.Sprintf(format, args...))
}

// run has n visitors ask at so many requests per second together, until ctx
// ends.
func (c *crowd) run(ctx context.Context, n int, rate int, visit func(i int) *http.Client, url string) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range n {
		v := visit(i)
		wg.Go(func() {
			tick := time.NewTicker(time.Duration(n) * time.Second / time.Duration(rate))
			defer tick.Stop()
			for turn := i; ; turn++ {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				c.ask(v, url, turn)
			}
		})
	}
}

// ask makes one request.
func (c *crowd) ask(v *http.Client, url string, turn int) {
	method, target, want, content := http.MethodGet, url+"/", "hello from blog\n", io.Reader(nil)
	if turn%2 == 1 {
		body := fmt.Sprint("turn ", turn)
		method, target, want, content = http.MethodPost, url+"/upload", fmt.Sprintf("%x", sha256.Sum256([]byte(body))), strings.NewReader(body)
	}
	req, _ := http.NewRequest(method, target, content)
	c.asked.Add(1)
	start := time.Now()
	res, err := v.Do(req)
	if err != nil {
		c.fail("%s %s: %v", method, target, err)
		return
	}
	b, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || res.StatusCode != 200 || string(b) != want {
		c.fail("%s %s %s: %s %q %v", res.Proto, method, target, res.Status, b, err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slowest = max(c.slowest, time.Since(start))
}

// Ten upgrades under 300 requests per second, by HTTP/1.1 and HTTP/2: no request
// fails. A WebSocket of each process lives until the drain limit, and is cut
// then.
func TestUpgradesUnderLoad(t *testing.T) {
	t.Parallel()
	const drain = 3 * time.Second
	upgrades := 10
	if testing.Short() {
		upgrades = 2
	}
	l, s := startLineage(t, "drain: 3s"), startService(t, "blog")
	_, url := l.startAgent(l.token("ada"), s.target(), "--name", "blog")

	ctx, cancel := context.WithCancel(t.Context())
	var c crowd
	over := make(chan struct{})
	go func() {
		defer close(over)
		c.run(ctx, 20, 300, func(i int) *http.Client {
			if i%2 == 0 {
				return l.visitor()
			}
			return overHTTP2(l.visitor())
		}, url)
	}()
	var sockets sync.WaitGroup
	var longest time.Duration
	for range upgrades {
		eventually(t, "the agent is at the node", func() error { return answers(l.visitor(), url+"/", "hello from blog\n") })
		ws, _, err := websocket.Dial(t.Context(), url+"/websocket", &websocket.DialOptions{HTTPClient: l.visitor(), Subprotocols: []string{"echo"}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // for the crowd to be busy
		longest = max(longest, l.upgrade())
		start := time.Now()
		sockets.Go(func() {
			defer ws.CloseNow()
			for time.Since(start) < drain+patience {
				err := ws.Write(t.Context(), websocket.MessageText, []byte("still here"))
				if err == nil {
					_, _, err = ws.Read(t.Context())
				}
				if err != nil {
					if lived := time.Since(start); lived < drain-200*time.Millisecond {
						t.Errorf("a WebSocket lived for %v after the upgrade; want %v: %v", lived, drain, err)
					}
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
			t.Error("a WebSocket outlived the drain limit")
		})
	}
	sockets.Wait()
	cancel()
	<-over
	t.Logf("%d requests over %d upgrades; the slowest took %v, the longest upgrade %v",
		c.asked.Load(), upgrades, c.slowest.Round(time.Millisecond), longest.Round(time.Millisecond))
	for i, f := range c.failed {
		if i == 20 {
			t.Errorf("and %d more", len(c.failed)-i)
			break
		}
		t.Errorf("failed: %s", f)
	}
}

// A visitor inside when the node is upgraded gets all of the answer from the old
// process, with the agent that carries it; the old process leaves early after
// that.
func TestUpgradeWithVisitorInside(t *testing.T) {
	t.Parallel()
	l, s := startLineage(t), startService(t, "blog")
	_, url := l.startAgent(l.token("ada"), s.target(), "--name", "blog")
	res, err := l.visitor().Get(url + "/wait")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	<-s.waiting
	l.upgrade()
	select {
	case <-l.ended:
		t.Fatal("the old process has left its visitor")
	case <-time.After(time.Second):
	}
	close(s.release)
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "first half, second half" {
		t.Errorf("the visitor who was inside got %q, %v", body, err)
	}
	if code := l.wait(); code != 0 {
		t.Errorf("the old process exits with %d; want 0", code)
	}
	eventually(t, "the agent at the new process", func() error {
		return answers(l.visitor(), url+"/", "hello from blog\n")
	})
}

// Whatever is wrong with the new process, the old one goes on as if nothing had
// happened, and the operator is told the new one's own words.
func TestUpgradeFails(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		program string
		config  string
		said    string // on stderr
		told    string // on stdout
		slow    bool
	}{
		"no program":     {program: "\x7fELF, but not really", said: "exec format error"},
		"another one":    {program: "#!/bin/sh\necho 'hello, I am something else' >&2\nexit 7\n", said: "ended with exit code 7 before it was ready: hello, I am something else", told: "it said: hello, I am something else"},
		"crash":          {program: "#!/bin/sh\nkill -SEGV $$\n", said: "by signal: segmentation fault before it was ready: it said nothing"},
		"bad config":     {config: "lisen: x", said: `ended with exit code 2 before it was ready: config `, told: `it said: hint: did you mean listen?`},
		"bad cert":       {config: "tls: files\ncert: /none.pem\nkey: /none.pem", said: "/none.pem"},
		"port in use":    {config: "PORT", said: "address already in use"},
		"never ready":    {program: "#!/bin/sh\nexec sleep 100\n", said: "the new process was not ready after 30s", slow: true},
		"crash with all": {program: "#!/bin/sh\necho '{\"say\":\"data\"}' >&6\nread -r hello <&6\nread -r data <&6\nexit 9\n", said: "exit code 9"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.slow && testing.Short() {
				t.Skip("takes half a minute, left out by -short")
			}
			l, s := startLineage(t, "drain: 2s"), startService(t, "blog")
			token := l.token("ada")
			_, url := l.startAgent(token, s.target(), "--name", "blog")
			v := l.visitor()
			wantPage(t, v, url+"/", "hello from blog\n")
			before := l.pid()
			ctx, cancel := context.WithCancel(t.Context())
			var visitors crowd
			over := make(chan struct{})
			go func() {
				defer close(over)
				visitors.run(ctx, 2, 50, func(int) *http.Client { return l.visitor() }, url)
			}()

			if c.program != "" {
				l.installBytes([]byte(c.program))
			}
			if c.config == "PORT" {
				l.configureAt(s.Listener.Addr().String())
			} else if c.config != "" {
				l.configure(c.config)
			}
			out, err, code := l.ask("upgrade")
			if code != 1 || !strings.HasPrefix(err, "culvertd: not upgraded: ") || !strings.Contains(err, c.said) {
				t.Errorf("exit code %d, said %q; want 1 and %q", code, err, c.said)
			}
			if !strings.Contains(out, c.told) {
				t.Errorf("told %q; want %q", out, c.told)
			}
			if after := l.pid(); after != before {
				t.Errorf("process %d is the node; want %d", after, before)
			}
			cancel()
			<-over
			if len(visitors.failed) > 0 {
				t.Errorf("visitors noticed: %q", visitors.failed)
			}
			l.token("bob") // the store is the old one's again

			// And it is not worse for the next attempt.
			l.install(culvertdPath)
			l.configure("drain: 2s")
			l.upgrade()
			eventually(t, "the agent at the new process", func() error {
				return answers(l.visitor(), url+"/", "hello from blog\n")
			})
		})
	}
}

// configureAt is configure with another address for visitors and agents.
func (l *lineage) configureAt(addr string) {
	was := l.addr
	l.addr = addr
	l.configure()
	l.addr = was
}

// SIGUSR2 upgrades as well; two upgrades at a time are one too many.
func TestUpgradeBySignal(t *testing.T) {
	t.Parallel()
	l := startLineage(t)
	before := l.pid()
	l.signal(syscall.SIGUSR2)
	eventually(t, "another process is the node", func() error {
		if l.pid() == before {
			return errors.New("not yet")
		}
		return nil
	})
	if code := l.wait(); code != 0 {
		t.Errorf("the old process exits with %d", code)
	}

	l.installBytes([]byte("#!/bin/sh\nexec sleep 3\n"))
	said := make(chan string, 2)
	for range 2 {
		go func() {
			_, err, code := l.ask("upgrade")
			said <- fmt.Sprint(code, " ", err)
		}()
	}
	both := <-said + <-said // whichever came first
	if strings.Count(both, "1 culvertd: not upgraded: ") != 2 || strings.Count(both, "an upgrade is under way already") != 1 {
		t.Errorf("two upgrades at a time said:\n%s", both)
	}
}

// An upgrade may change what a reload cannot: here, where the node listens.
func TestUpgradeToAnotherAddress(t *testing.T) {
	t.Parallel()
	l := startLineage(t)
	old := l.addr
	l.addr = freeAddr(t)
	l.configure()
	if _, err, code := l.ask("reload"); code != 1 || !strings.Contains(err, "listen cannot change while the node runs") || !strings.Contains(err, "hint: culvertd upgrade") {
		t.Errorf("reload: exit code %d: %s", code, err)
	}
	l.upgrade()
	res, _ := get(t, l.visitor(), l.url("nobody")+"/")
	wantRefusal(t, res, http.StatusNotFound, "tunnel_not_found")
	l.wait()
	if _, _, err := tryGet(visitor(t, old, l.roots), "https://nobody.localhost:"+port(old)+"/"); err == nil {
		t.Error("the old address still answers")
	}
	if _, err := os.Stat(l.dir + "/admin.sock"); err != nil {
		t.Error(err)
	}
}
