package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Whatever cannot be served is answered by the table of the design: which side
// is broken, in a form that the visitor can read.
func TestErrorPages(t *testing.T) {
	t.Parallel()
	n, s := startNode(t), startService(t, "blog")
	a, url := n.startAgent(n.token("ada"), s.target(), "--name", "blog")
	v := n.visitor()

	res, body := get(t, v, n.url("nobody")+"/")
	wantRefusal(t, res, http.StatusNotFound, "tunnel_not_found")
	var problem struct {
		Error     string `json:"error"`
		Status    int    `json:"status"`
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal([]byte(body), &problem); err != nil {
		t.Errorf("%v: %q", err, body)
	}
	if problem.Error != "tunnel_not_found" || problem.Status != 404 || problem.RequestID == "" {
		t.Errorf("the answer says %+v", problem)
	}

	req, _ := http.NewRequest("GET", n.url("nobody")+"/", nil)
	req.Header.Set("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	res, err := v.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	page, _ := io.ReadAll(res.Body)
	res.Body.Close()
	wantRefusal(t, res, http.StatusNotFound, "tunnel_not_found")
	if !strings.Contains(string(page), "<html") || res.Header.Get("Content-Security-Policy") == "" {
		t.Errorf("a browser gets %v\n%s", res.Header, page)
	}

	wantPage(t, v, url+"/", "hello from blog\n")
	a.stop()
	if code := a.exitCode(); code != 0 {
		t.Errorf("an agent that was asked to end exits with %d", code)
	}
	eventually(t, "see the owner away", func() error {
		res, body, err := tryGet(v, url+"/")
		if err == nil && res.Header.Get("Culvert-Error") != "tunnel_offline" {
			err = fmt.Errorf("%s: %q", res.Status, body)
		}
		return err
	})
	res, _ = get(t, v, url+"/")
	wantRefusal(t, res, http.StatusServiceUnavailable, "tunnel_offline")
	if res.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
}

// The service goes down and comes back; the tunnel stays.
func TestServiceDownAndUp(t *testing.T) {
	t.Parallel()
	n, s := startNode(t), startService(t, "blog")
	addr := s.Listener.Addr().String()
	_, url := n.startAgent(n.token("ada"), s.target(), "--name", "blog")
	v := n.visitor()
	wantPage(t, v, url+"/", "hello from blog\n")

	s.Close()
	res, body := get(t, v, url+"/")
	wantRefusal(t, res, http.StatusBadGateway, "service_refused")
	if strings.Contains(body, "127.0.0.1") || strings.Contains(body, port(addr)) {
		t.Errorf("a visitor learns an internal address: %s", body)
	}

	startServiceAt(t, "blog, again", addr)
	wantPage(t, v, url+"/", "hello from blog, again\n")
}

// The node is restarted, in order or not; its agents come back by themselves
// with the names they had, those that were drawn by lot as well.
func TestNodeRestarted(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*node){
		"by SIGTERM":    func(n *node) { n.stop() },
		"by power loss": func(n *node) { n.kill() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, s := startNode(t), startService(t, "blog")
			token := n.token("ada")
			_, named := n.startAgent(token, s.target(), "--name", "blog")
			_, random := n.startAgent(token, s.target())
			if named == random {
				t.Fatalf("two agents are both at %s", named)
			}
			v := n.visitor()
			wantPage(t, v, named+"/", "hello from blog\n")
			wantPage(t, v, random+"/", "hello from blog\n")

			end(n)
			n.start()
			for _, url := range []string{named, random} {
				eventually(t, "agent back at "+url, func() error {
					return answers(v, url+"/", "hello from blog\n")
				})
			}
		})
	}
}

// SIGTERM ends a node in the agreed order: stop taking, tell, wait, cut. A
// visitor who was inside gets all of the answer.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	n, s := startNode(t), startService(t, "blog")
	_, url := n.startAgent(n.token("ada"), s.target(), "--name", "blog")

	res, err := n.visitor().Get(url + "/wait")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	<-s.waiting

	n.signal(syscall.SIGTERM)
	eventually(t, "the node stops taking visitors", func() error {
		c, err := net.Dial("tcp", n.addr)
		if err != nil {
			return nil
		}
		c.Close()
		return fmt.Errorf("it still accepts")
	})
	close(s.release)
	body, err := io.ReadAll(res.Body)
	if err != nil || string(body) != "first half, second half" {
		t.Errorf("the visitor who was inside got %q, %v", body, err)
	}
	if code := n.wait(); code != 0 {
		t.Errorf("the node exits with %d; want 0", code)
	}
}

// The port for plain HTTP serves nothing: it points to HTTPS.
func TestRedirect(t *testing.T) {
	t.Parallel()
	n, s := startNode(t), startService(t, "blog")
	_, url := n.startAgent(n.token("ada"), s.target(), "--name", "blog")

	plain := visitor(t, n.httpAddr, nil)
	res, _ := get(t, plain, "http://blog.localhost/a/page?with=query")
	if res.StatusCode != http.StatusMovedPermanently && res.StatusCode != http.StatusPermanentRedirect {
		t.Errorf("%s; want a permanent redirect", res.Status)
	}
	if got, want := res.Header.Get("Location"), url+"/a/page?with=query"; got != want {
		t.Errorf("Location %s; want %s", got, want)
	}
}

// Strangers who do not speak TLS, or stop in the middle of it, are closed
// within ten seconds and cost nobody else anything.
func TestGarbage(t *testing.T) {
	t.Parallel()
	n, s := startNode(t), startService(t, "blog")
	_, url := n.startAgent(n.token("ada"), s.target(), "--name", "blog")

	for name, says := range map[string]string{
		"says nothing":        "",
		"speaks HTTP":         "GET / HTTP/1.1\r\nHost: blog.localhost\r\n\r\n",
		"speaks SSH":          "SSH-2.0-OpenSSH_9.2\r\n",
		"stops in its hello":  "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"drips its hello":     "slowly \x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 300),
		"announces too much":  "\x16\x03\x01\xff\xff\x01\xff\xff\xff\x03\x03" + strings.Repeat("x", 70_000),
		"sends what it likes": strings.Repeat("\x00\xff\x80garbage", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			c, err := net.Dial("tcp", n.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if drip, ok := strings.CutPrefix(says, "slowly "); ok {
				go func() { // until the node has enough
					for _, b := range []byte(drip) {
						if _, err := c.Write([]byte{b}); err != nil {
							return
						}
						time.Sleep(100 * time.Millisecond) // this is what is tested
					}
				}()
			} else {
				io.WriteString(c, says)
			}
			c.SetReadDeadline(start.Add(patience))
			if err := answers(n.visitor(), url+"/", "hello from blog\n"); err != nil {
				t.Errorf("somebody else is told: %v", err)
			}
			_, err = io.Copy(io.Discard, c) // an alert or an answer is fine
			if took := time.Since(start); took > 11*time.Second {
				t.Errorf("closed after %v (%v); want within 10 s", took, err)
			}
		})
	}
}
