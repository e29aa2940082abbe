package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// A service may answer while it is being asked, for as long as it likes: what
// is sent comes back while more is sent, and neither side waits for the end of
// the other.
func TestBothWaysAtOnce(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	s := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(s.Close)
	e := enter(t, "echo", port(s.Listener.Addr().String()))
	score := newScore(t, "both ways at once", 2)
	for _, tt := range []struct {
		name    string
		visitor *http.Client
	}{
		{"h1", e.visitor()},
		{"h2", overHTTP2(e.visitor())},
	} {
		score.run(t, tt.name, func(t *testing.T) {
			r, w := io.Pipe()
			req, err := http.NewRequest("POST", e.url("echo")+"/", r)
			if err != nil {
				t.Fatal(err)
			}
			// What is sent first must be back before there is more: whoever
			// collects the request before it asks, or the answer before it
			// tells, waits here for ever.
			const first = "is anybody there?"
			heard := make(chan bool, 1)
			go func() {
				io.WriteString(w, first)
				select {
				case <-heard:
				case <-time.After(patience):
				}
				io.Copy(w, generate(size))
				w.Close()
			}()
			res, err := tt.visitor.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			began := time.Now()
			b := make([]byte, len(first))
			if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != first {
				t.Fatalf("heard %q, %v", b, err)
			}
			if took := time.Since(began); took > patience/2 {
				t.Errorf("the beginning took %v to come back", took)
			}
			heard <- true
			sum := sha256.New()
			n, err := io.CopyBuffer(onlyWriter{sum}, res.Body, make([]byte, 256<<10))
			if got := hex.EncodeToString(sum.Sum(nil)); err != nil || got != hashOf(size) {
				t.Errorf("%d bytes came back as %s, %v; want %d as %s", n, got, err, size, hashOf(size))
			}
		})
	}
}

// echo answers with the body, while it comes.
func echo(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	control.EnableFullDuplex()
	b := make([]byte, 32<<10)
	for {
		n, err := r.Body.Read(b)
		if n > 0 {
			if _, err := w.Write(b[:n]); err != nil {
				return
			}
			control.Flush()
		}
		if err != nil {
			return
		}
	}
}
