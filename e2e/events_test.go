package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// What a service says reaches the visitor at once, whatever it calls it:
// nothing between them waits for a buffer to fill or for a timer. It measures,
// so it does not run beside other tests.
func TestEventsAreSoon(t *testing.T) {
	const (
		events = 20
		bar    = 50 * time.Millisecond // for nine of ten, so that a busy machine is no reason to fail
	)
	kinds := []string{
		"text/event-stream", "text/plain", "application/json", "application/octet-stream", "multipart/x-mixed-replace; boundary=b", "",
	}
	speak := map[string]chan string{} // by path: whoever has left must not take what is another's
	for _, proto := range []string{"h1", "h2"} {
		for i := range kinds {
			speak[fmt.Sprintf("/%s/%d", proto, i)] = make(chan string)
		}
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil // net/http would guess one
		var proto string
		var kind int
		fmt.Sscanf(r.URL.Path, "/%2s/%d", &proto, &kind)
		if kinds[kind] != "" {
			w.Header().Set("Content-Type", kinds[kind])
		}
		flush := http.NewResponseController(w).Flush
		flush()
		for {
			select {
			case event := <-speak[r.URL.Path]:
				fmt.Fprintf(w, "%s\n", event)
				flush()
			case <-r.Context().Done():
				return
			}
		}
	}))
	t.Cleanup(s.Close)
	e := enter(t, "news", port(s.Listener.Addr().String()))
	h1, h2 := e.visitor(), overHTTP2(e.visitor())

	score := newScore(t, "events within 50 ms", 2*len(kinds))
	var all []time.Duration
	for _, tt := range []struct {
		proto   string
		visitor *http.Client
	}{{"h1", h1}, {"h2", h2}} {
		for i, kind := range kinds {
			path := fmt.Sprintf("/%s/%d", tt.proto, i)
			score.run(t, tt.proto+" "+strings.ReplaceAll(kind, "/", "-"), func(t *testing.T) {
				took := hear(t, tt.visitor, e.url("news")+path, kind, speak[path], events)
				all = append(all, took...)
				slices.Sort(took)
				if most := took[events*9/10-1]; most > bar {
					t.Errorf("nine of ten events took up to %v; want %v. All of them: %v", most, bar, took)
				}
			})
		}
	}
	if slices.Sort(all); len(all) > 0 {
		report(t, "%-28s p50 %v, p99 %v, max %v", "events", all[len(all)/2], all[len(all)*99/100], all[len(all)-1])
	}
}

// hear is a visitor who listens to n events, and how long each of them took.
func hear(t *testing.T, v *http.Client, url, kind string, speak chan<- string, n int) (took []time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := v.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Content-Type"); got != kind {
		t.Errorf("Content-Type %q; want %q", got, kind)
	}
	lines := bufio.NewReader(res.Body)
	for i := range n {
		sent := time.Now()
		select {
		case speak <- fmt.Sprint("event ", i):
		case <-ctx.Done():
			t.Fatal("the service never saw the visitor")
		}
		if line, err := lines.ReadString('\n'); err != nil || line != fmt.Sprintf("event %d\n", i) {
			t.Fatalf("got %q, %v; want event %d", line, err, i)
		}
		took = append(took, time.Since(sent))
	}
	return took
}
