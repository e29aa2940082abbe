package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// get returns the answer to a visitor, body included.
func get(t *testing.T, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	res, body, err := tryGet(c, url)
	if err != nil {
		t.Fatal(err)
	}
	return res, body
}

func tryGet(c *http.Client, url string) (*http.Response, string, error) {
	res, err := c.Get(url)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, "", fmt.Errorf("read the answer to %s: %w", url, err)
	}
	return res, string(body), nil
}

// wantPage fails the test unless the page at url says want.
func wantPage(t *testing.T, c *http.Client, url, want string) {
	t.Helper()
	res, body := get(t, c, url)
	if res.StatusCode != http.StatusOK || body != want {
		t.Fatalf("%s answers %s: %q; want %q", url, res.Status, body, want)
	}
}

// answers is an error unless the page at url says want.
func answers(c *http.Client, url, want string) error {
	res, body, err := tryGet(c, url)
	if err == nil && (res.StatusCode != http.StatusOK || body != want) {
		err = fmt.Errorf("%s answers %s: %q", url, res.Status, body)
	}
	return err
}

// wantRefusal fails the test unless res is one of culvert's own answers.
func wantRefusal(t *testing.T, res *http.Response, status int, code string) {
	t.Helper()
	if res.StatusCode != status || res.Header.Get("Culvert-Error") != code {
		t.Errorf("%s answers %s, Culvert-Error %q; want %d %s",
			res.Request.URL, res.Status, res.Header.Get("Culvert-Error"), status, code)
	}
	if res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("a refusal may be kept by caches: Cache-Control %q", res.Header.Get("Cache-Control"))
	}
}

func TestPage(t *testing.T) {
	t.Parallel()
	n, s := startNode(t), startService(t, "blog")
	_, url := n.startAgent(n.token("ada"), s.target(), "--name", "blog")
	if url != n.url("blog") {
		t.Errorf("the agent prints %s; want %s", url, n.url("blog"))
	}

	v := n.visitor()
	wantPage(t, v, url+"/", "hello from blog\n")

	_, body := get(t, v, url+"/request?q=a%2Fb+c;d")
	var r arrived
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(url, "https://")
	if r.Target != "/request?q=a%2Fb+c;d" || r.Host != host {
		t.Errorf("the service sees %s of %s; want it unchanged", r.Target, r.Host)
	}
	for key, want := range map[string]string{
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": host,
	} {
		if got := r.Header.Get(key); got != want {
			t.Errorf("%s: %q; want %q", key, got, want)
		}
	}
	if r.Header.Get("X-Request-Id") == "" || r.Header.Get("Forwarded") == "" {
		t.Errorf("no X-Request-Id or no Forwarded in %v", r.Header)
	}
}

// A visitor cannot say who it is: what it claims is replaced.
func TestForwardedIsOurs(t *testing.T) {
	t.Parallel()
	n, s := startNode(t), startService(t, "blog")
	_, url := n.startAgent(n.token("ada"), s.target(), "--name", "blog")

	req, _ := http.NewRequest("GET", url+"/request", nil)
	for _, key := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", "X-Request-Id", "X-Real-Ip"} {
		req.Header.Set(key, "impostor")
	}
	res, err := n.visitor().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var r arrived
	if err := json.NewDecoder(res.Body).Decode(&r); err != nil {
		t.Fatal(err)
	}
	for key, values := range r.Header {
		if strings.HasPrefix(key, "X-Forwarded") || key == "Forwarded" || key == "X-Request-Id" {
			if strings.Contains(strings.Join(values, ","), "impostor") {
				t.Errorf("the service was told %s: %q", key, values)
			}
		}
	}
}

func TestHTTP2(t *testing.T) {
	t.Parallel()
	n, s := startNode(t), startService(t, "blog")
	_, url := n.startAgent(n.token("ada"), s.target(), "--name", "blog")

	v := overHTTP2(n.visitor())
	res, body := get(t, v, url+"/")
	if res.ProtoMajor != 2 || body != "hello from blog\n" {
		t.Errorf("%s %s: %q", res.Proto, res.Status, body)
	}

	// Both directions at once, on one stream of the visitor's.
	r, w := io.Pipe()
	upload, err := http.NewRequest("POST", url+"/upload", r)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		io.Copy(w, generate(10<<20))
		w.Close()
	}()
	res, err = v.Do(upload)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, _ := io.ReadAll(res.Body); string(got) != hashOf(10<<20) {
		t.Errorf("the service received %s; sent %s", got, hashOf(10<<20))
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	n, s := startNode(t), startService(t, "chat")
	_, url := n.startAgent(n.token("ada"), s.target(), "--name", "chat")
	echoWebSocket(t, n.visitor(), url+"/websocket")
}

// echoWebSocket talks to the service's WebSocket as a visitor and hears the same back.
func echoWebSocket(t *testing.T, v *http.Client, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	v.Timeout = 0 // it would end the WebSocket as well
	c, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: v, Subprotocols: []string{"echo"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if c.Subprotocol() != "echo" {
		t.Errorf("subprotocol %q; want echo", c.Subprotocol())
	}
	c.SetReadLimit(1 << 20)
	for _, size := range []int{0, 1, 125, 126, 65535, 65536, 1 << 20} {
		sent := strings.Repeat("w", size)
		if err := c.Write(ctx, websocket.MessageText, []byte(sent)); err != nil {
			t.Fatalf("write %d bytes: %v", size, err)
		}
		if _, got, err := c.Read(ctx); err != nil || string(got) != sent {
			t.Fatalf("read %d of %d bytes: %v", len(got), size, err)
		}
	}
	if err := c.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestServerSentEvents(t *testing.T) {
	t.Parallel()
	n, s := startNode(t), startService(t, "news")
	_, url := n.startAgent(n.token("ada"), s.target(), "--name", "news")

	t.Run("HTTP/1.1", func(t *testing.T) { hearEvents(t, n.visitor(), s, url+"/events") })
	t.Run("HTTP/2", func(t *testing.T) { hearEvents(t, overHTTP2(n.visitor()), s, url+"/events") })
}

// hearEvents is a visitor who listens while the service speaks: every event
// must arrive before the next is sent, and soon.
func hearEvents(t *testing.T, v *http.Client, s *service, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
	res, err := v.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if kind := res.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Fatalf("%s, Content-Type %q", res.Status, kind)
	}
	lines := bufio.NewReader(res.Body)
	if strings.HasSuffix(url, "?greet") {
		lines.ReadString('\n')
		lines.ReadString('\n')
	}
	best := patience
	for i := range 5 {
		sent := time.Now()
		select {
		case s.events <- fmt.Sprint("event ", i):
		case <-ctx.Done():
			t.Fatal("the service never saw the visitor")
		}
		line, err := lines.ReadString('\n')
		if want := fmt.Sprintf("data: event %d\n", i); err != nil || line != want {
			t.Fatalf("got %q, %v; want %q", line, err, want)
		}
		best = min(best, time.Since(sent))
		lines.ReadString('\n')
	}
	// The bar is 50 ms. One of five has to make it even on a busy machine;
	// whoever waits for a buffer to fill or a timer to fire makes none.
	if t.Logf("the quickest of five events took %v", best); best > 50*time.Millisecond {
		t.Errorf("no event arrived within 50 ms; the quickest took %v", best)
	}
	res.Body.Close()
	select {
	case <-s.left:
	case <-ctx.Done():
		t.Error("the service never heard that the visitor has left")
	}
}

// 200 visitors are served at once over the one connection that the agent holds.
func TestManyVisitorsOneConnection(t *testing.T) {
	t.Parallel()
	const visitors = 200
	n, s := startNode(t), startService(t, "busy")
	a, url := n.startAgent(n.token("ada"), s.target(), "--name", "busy")

	v := n.visitor()
	var wg sync.WaitGroup
	for range visitors {
		wg.Go(func() {
			if err := answers(v, url+"/wait", "first half, second half"); err != nil {
				t.Error(err)
			}
		})
	}
	deadline := time.After(patience)
	for i := range visitors {
		select {
		case <-s.waiting:
		case <-deadline:
			t.Errorf("only %d of %d visitors arrived within %v", i, visitors, patience)
		}
		if t.Failed() {
			break
		}
	}
	// All of them are inside now.
	if lanes := connections(t, a.process, n.addr); lanes != 1 {
		t.Errorf("the agent holds %d connections to the node with %d visitors inside; want 1", lanes, visitors)
	}
	close(s.release)
	wg.Wait()
}

// connections counts the established TCP connections of p to addr, as the kernel sees them.
func connections(t *testing.T, p *process, addr string) int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	owned := map[string]bool{} // inodes of p's sockets
	for _, fd := range fds {
		link, _ := os.Readlink(dir + "/" + fd.Name())
		if inode, ok := strings.CutPrefix(link, "socket:["); ok {
			owned[strings.TrimSuffix(inode, "]")] = true
		}
	}
	if len(owned) == 0 {
		t.Fatalf("%s has no sockets at all", p.name)
	}

	const established = "01"
	var decimal int
	fmt.Sscan(port(addr), &decimal)
	remote := fmt.Sprintf(":%04X", decimal)
	count := 0
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		rows, err := os.ReadFile(table)
		if err != nil {
			continue // a machine without IPv6 has no tcp6
		}
		for row := range strings.Lines(string(rows)) {
			f := strings.Fields(row) // sl, local, remote, state, queues, timer, retransmits, uid, timeout, inode
			if len(f) > 9 && strings.HasSuffix(f[2], remote) && f[3] == established && owned[f[9]] {
				count++
			}
		}
	}
	return count
}
