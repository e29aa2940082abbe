//go:build linux

package chaos

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// A crowd of visitors comes at a rate of its own, however long each of them has
// to wait: by HTTP/1.1 and HTTP/2, over kept connections and new ones, with a
// body and without.
type crowd struct {
	names func(turn int) string // whom to ask

	ways   []*http.Client
	wg     sync.WaitGroup
	cancel context.CancelFunc

	mu     sync.Mutex // guards visits
	visits []*visit
}

// A visit is one request and what came of it.
type visit struct {
	name   string
	way    string
	began  time.Time
	took   time.Duration
	status int
	header http.Header
	body   string
	want   string
	err    error
}

// visitTime is for how long a visitor waits: longer than the node lets anybody.
const visitTime = time.Minute

// invite lets so many visitors a second come, until enough is called.
func (n *node) invite(rate int, c *crowd) *crowd {
	for _, http2 := range []bool{false, true} {
		for _, keep := range []bool{true, false} {
			c.ways = append(c.ways, n.visitor(http2, keep))
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	n.w.t.Cleanup(func() {
		cancel()
		c.wg.Wait()
	})
	c.wg.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for turn := 0; ; turn++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			c.wg.Go(func() { c.visit(turn) })
		}
	})
	return c
}

// visit makes one request. It does not end with the crowd: who has come gets an
// answer.
func (c *crowd) visit(turn int) {
	ctx, cancel := context.WithTimeout(context.Background(), visitTime)
	defer cancel()
	way := turn % len(c.ways)
	v := &visit{name: c.names(turn), way: []string{"h1", "h1 new", "h2", "h2 new"}[way], began: time.Now()}
	target, content := url(v.name)+"/", io.Reader(nil)
	v.want = "hello from " + v.name + "\n"
	if turn/len(c.ways)%2 == 1 {
		body := fmt.Sprint("turn ", turn)
		target, content, v.want = url(v.name)+"/upload", strings.NewReader(body), fmt.Sprintf("%x", sha256.Sum256([]byte(body)))
	}
	v.status, v.header, v.body, v.err = fetch(ctx, c.ways[way], target, content)
	v.took = time.Since(v.began)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.visits = append(c.visits, v)
}

// enough ends the crowd, and returns all visits when the last one has ended.
func (c *crowd) enough() []*visit {
	c.cancel()
	c.wg.Wait()
	return c.visits
}

// good reports whether the right service has answered.
func (v *visit) good() bool { return v.err == nil && v.status == 200 && v.body == v.want }

// told reports whether the node has said in good order that nobody is there.
func (v *visit) told() bool {
	return v.err == nil && v.status == 503 && v.header.Get("Culvert-Error") == "tunnel_offline" && v.header.Get("Retry-After") != ""
}

func (v *visit) String() string {
	return fmt.Sprintf("%s of %s at %s took %v: %d %q %v", v.way, v.name, v.began.Format("15:04:05.000"), ms(v.took), v.status, v.body[:min(len(v.body), 100)], v.err)
}

// failed returns the visits that are not ok, and logs some.
func failed(t *testing.T, visits []*visit, ok func(*visit) bool) (n int) {
	t.Helper()
	for _, v := range visits {
		if ok(v) {
			continue
		}
		if n++; n <= 10 {
			t.Logf("failed: %v", v)
		}
	}
	return n
}

// slowest is how long the slowest visit took.
func slowest(visits []*visit) (longest time.Duration) {
	for _, v := range visits {
		longest = max(longest, v.took)
	}
	return longest
}
