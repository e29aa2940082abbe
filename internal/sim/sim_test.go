package sim

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	seeds = flag.Int("sim.seeds", 20, "how many worlds TestSimulation lives through")
	seed  = flag.Int64("sim.seed", -1, "the one seed that TestSimulation repeats")
)

// TestSimulation lives through worlds in which visitors download, upload and
// talk, over HTTP/1.1 and HTTP/2, while the agent's connections break, fall
// silent and stand still. As long as the agent is back in time, no visitor may
// notice more than that it took a while: every byte is right, nothing that must
// not be repeated reaches the service twice, and afterwards nothing is left.
//
// A seed that fails is repeated with -sim.seed. One thread runs a world, so that
// the order in which goroutines run depends on little else.
func TestSimulation(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var total summary
	first, last := int64(0), int64(*seeds)
	if *seed >= 0 {
		first, last = *seed, *seed+1
	}
	for seed := first; seed < last; seed++ {
		synctest.Test(t, func(t *testing.T) {
			if total.add(live(t, seed)); t.Failed() { // it ends here
				t.Logf("repeat with: go test ./internal/sim -run TestSimulation -sim.seed %d", seed)
			}
		})
	}
	t.Logf("%d worlds: %d requests, %d troubles, after which the agent had to come back %d times", last-first, total.requests, total.troubles, total.resumed)
	if *seed < 0 && (total.requests == 0 || total.resumed == 0) {
		t.Error("nothing happened")
	}
}

// A summary is what happened, in numbers.
type summary struct{ requests, troubles, resumed int }

func (s *summary) add(other summary) {
	s.requests += other.requests
	s.troubles += other.troubles
	s.resumed += other.resumed
}

func live(t *testing.T, seed int64) summary {
	rng := rand.New(rand.NewPCG(uint64(seed), 1))
	w := newWorld(t, rng)
	calm, stop := context.WithCancel(w.ctx)
	var visitors, troubles sync.WaitGroup
	for i := range 2 + rng.IntN(6) {
		v := &visitor{w: w, name: fmt.Sprintf("v%d", i), rng: rand.New(rand.NewPCG(rng.Uint64(), 2)), h2: rng.IntN(3) == 0}
		visitors.Go(v.live)
	}
	troubles.Go(func() {
		for calm.Err() == nil {
			sleep(calm, time.Duration(100+w.rng.IntN(6000))*time.Millisecond)
			w.trouble()
		}
	})
	stuck := time.AfterFunc(time.Hour, func() { panic(fmt.Sprintf("seed %d: visitors are stuck", seed)) })
	visitors.Wait()
	stuck.Stop()
	stop()
	troubles.Wait()
	time.Sleep(time.Minute) // whatever was under way has come to its end

	for _, s := range w.sessions.Sessions() {
		if s.Streams > 0 || s.Lanes > 1 {
			t.Errorf("left behind: %d streams, %d lanes", s.Streams, s.Lanes)
		}
	}
	for id, n := range w.delivered {
		if n > 1 && !strings.HasPrefix(id, "down") || n > 2 {
			t.Errorf("the service had %s %d times", id, n)
		}
	}
	if w.begun != 1 {
		t.Errorf("the agent began %d sessions, want that it kept the first", w.begun)
	}
	w.end()
	if t.Failed() {
		t.Logf("what happened:\n%s", strings.Join(w.diary, "\n"))
	}
	return summary{len(w.delivered), w.troubles, w.resumed}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// A visitor does one thing after another.
type visitor struct {
	w    *world
	name string
	rng  *rand.Rand
	h2   bool
}

func (v *visitor) live() {
	transport := &http.Transport{
		DialContext:       v.w.dial,
		TLSClientConfig:   &tls.Config{RootCAs: v.w.roots},
		ForceAttemptHTTP2: v.h2,
	}
	defer transport.CloseIdleConnections()
	web := &http.Client{Transport: transport}
	for i := range 1 + v.rng.IntN(8) {
		size := v.rng.IntN(2000)
		if v.rng.IntN(3) == 0 {
			size = v.rng.IntN(3 << 20)
		}
		what := []string{"down", "up", "talk"}[v.rng.IntN(3)]
		id := fmt.Sprintf("%s-%s-%d", what, v.name, i)
		began := time.Now()
		var err error
		switch what {
		case "down":
			err = v.download(web, id, size)
		case "up":
			err = v.upload(web, id, size)
		case "talk":
			err = v.talk(id)
		}
		if err != nil {
			v.w.t.Errorf("%s of %d bytes (h2 %v), begun at %s, failed at %s: %v", id, size, v.h2,
				began.Format("05.000"), time.Now().Format("05.000"), err)
			return
		}
		sleep(v.w.ctx, time.Duration(v.rng.IntN(3000))*time.Millisecond)
	}
}

func (v *visitor) url(path, id string, size int) string {
	return fmt.Sprintf("https://blog.node.test/%s?id=%s&size=%d", path, id, size)
}

func (v *visitor) download(web *http.Client, id string, size int) error {
	resp, err := web.Get(v.url("down", id, size))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s", resp.Status, b)
	}
	return same(resp.Body, id, size)
}

func (v *visitor) upload(web *http.Client, id string, size int) error {
	resp, err := web.Post(v.url("up", id, size), "application/octet-stream", io.MultiReader(&pattern{id: id, left: size}))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(b) != "whole") {
		return fmt.Errorf("%s: %q", resp.Status, b)
	}
	return err
}

// talk says a few lines over a connection that is no longer HTTP, and hears
// each of them back.
func (v *visitor) talk(id string) error {
	raw, err := v.w.dial(v.w.ctx, "", "")
	if err != nil {
		return err
	}
	conn := tls.Client(raw, &tls.Config{RootCAs: v.w.roots, ServerName: "blog.node.test", NextProtos: []string{"http/1.1"}})
	defer conn.Close()
	fmt.Fprintf(conn, "GET /talk?id=%s HTTP/1.1\r\nHost: blog.node.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", id)
	lines := bufio.NewReader(conn)
	resp, err := http.ReadResponse(lines, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		b, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s", resp.Status, b)
	}
	for i := range v.rng.IntN(20) {
		said := fmt.Sprintf("%s says %d %s\n", id, i, strings.Repeat("x", v.rng.IntN(3000)))
		if _, err := io.WriteString(conn, said); err != nil {
			return err
		}
		heard, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		if heard != said {
			return fmt.Errorf("heard %.40q after %.40q", heard, said)
		}
		sleep(v.w.ctx, time.Duration(v.rng.IntN(1000))*time.Millisecond)
	}
	return nil
}

// same compares what r gives with the bytes that belong to id.
func same(r io.Reader, id string, size int) error {
	want := &pattern{id: id, left: size}
	got, expect := make([]byte, 8<<10), make([]byte, 8<<10)
	at := 0
	for {
		n, err := r.Read(got)
		if m, _ := io.ReadFull(want, expect[:n]); m < n {
			return fmt.Errorf("more than %d bytes", size)
		}
		if !bytes.Equal(got[:n], expect[:n]) {
			return fmt.Errorf("other bytes between %d and %d", at, at+n)
		}
		at += n
		switch {
		case errors.Is(err, io.EOF) && at < size:
			return fmt.Errorf("a clean end after %d bytes of %d", at, size)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
