package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"
)

const gigabyte = 1_000_000_000

// hashOf returns the SHA-256 of what generate(size) generates, in hex.
func hashOf(size int64) string {
	sum := sha256.New()
	io.Copy(sum, generate(size))
	return hex.EncodeToString(sum.Sum(nil))
}

// A gigabyte passes each way unharmed, and neither program keeps it: what both
// hold at most is little more than what they held when idle. It measures, so
// it does not run beside other tests.
func TestGigabyte(t *testing.T) {
	if testing.Short() {
		t.Skip("moves gigabytes, left out by -short")
	}
	n, s := startNode(t), startService(t, "bulk")
	a, url := n.startAgent(n.token("ada"), s.target(), "--name", "bulk")
	want := hashOf(gigabyte)

	h1, h2 := n.visitor(), overHTTP2(n.visitor())
	wantPage(t, h1, url+"/", "hello from bulk\n")
	wantPage(t, h2, url+"/", "hello from bulk\n")
	idleNode, idleAgent := n.peak(), a.peak()

	for _, tt := range []struct {
		name    string
		visitor *http.Client
		move    func(t *testing.T, v *http.Client, url string) (hash string)
	}{
		{"download by HTTP/1.1", h1, download},
		{"upload by HTTP/1.1", h1, upload},
		{"download by HTTP/2", h2, download},
		{"upload by HTTP/2", h2, upload},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			got := tt.move(t, tt.visitor, url)
			took := time.Since(start)
			if got != want {
				t.Errorf("the bytes arrived as %s; want %s", got, want)
			}
			peakNode, peakAgent := n.peak(), a.peak()
			report(t, "1 GB %s: %.0f MB/s, peak RSS culvertd %.0f MiB (idle %.0f), culvert %.0f MiB (idle %.0f)",
				tt.name, gigabyte/1e6/took.Seconds(), peakNode, idleNode, peakAgent, idleAgent)
			const bound = 64
			if peakNode-idleNode > bound || peakAgent-idleAgent > bound {
				t.Errorf("memory grew by more than %d MiB", bound)
			}
		})
	}
}

// download returns the hash of what the service sent.
func download(t *testing.T, v *http.Client, url string) string {
	res, err := v.Get(fmt.Sprintf("%s/download/%d", url, gigabyte))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	sum := sha256.New()
	n, err := io.CopyBuffer(onlyWriter{sum}, res.Body, make([]byte, 256<<10))
	if err != nil || n != gigabyte {
		t.Fatalf("%s after %d bytes: %v", res.Status, n, err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// upload returns the hash of what the service received.
func upload(t *testing.T, v *http.Client, url string) string {
	req, err := http.NewRequest("POST", url+"/upload", generate(gigabyte))
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = gigabyte
	res, err := v.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %q, %v", res.Status, body, err)
	}
	return string(body)
}

// report tells a figure, also when tests pass quietly: make test shows what is
// in the file CULVERT_FIGURES at its end.
func report(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Logf(format, args...)
	file := os.Getenv("CULVERT_FIGURES")
	if file == "" {
		return
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fmt.Fprintf(f, "e2e: "+format+"\n", args...)
}
