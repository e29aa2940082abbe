package e2e

import (
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// What h2spec holds against the edge, and why it may. The cases are named by
// their section of RFC 7540, and their number in it.
var h2specAllowed = map[string]string{
	// The standard library reads HTTP/2, and is more forgiving than this.
	"http2/4.2/3":   "HEADERS beyond SETTINGS_MAX_FRAME_SIZE: the frame is within what the library allows",
	"http2/6.5.3/1": "the second of two SETTINGS_INITIAL_WINDOW_SIZE in one frame: GOAWAY, because it is there twice",
	// It answers where it ought to refuse. TestH2Spec sees to it that the
	// service does not meet these fields.
	"http2/8.1.2.2/1": "a field that is for this hop alone is dropped, not refused",
	"http2/8.1.2.2/2": "TE other than trailers likewise",
}

// Everything that h2spec knows about HTTP/2, asked through the tunnel.
func TestH2Spec(t *testing.T) {
	t.Parallel()
	need(t, "unshare")
	dir := t.TempDir()
	build := exec.Command("go", "build", "-buildvcs=false", "-o", dir, "github.com/summerwind/h2spec/cmd/h2spec")
	build.Dir = "../tools"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	o := startOrigin(t, answerAtLength)
	e := enter(t, "spec", o.target())

	// h2spec asks for the host that it connects to, and not every resolver
	// knows what is below localhost. It gets an /etc/hosts of its own.
	hosts, results := filepath.Join(dir, "hosts"), filepath.Join(dir, "results.xml")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost "+e.host+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	h2spec := start(t, "h2spec", exec.Command("unshare", "--map-root-user", "--mount",
		"sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, hosts,
		filepath.Join(dir, "h2spec"), "--tls", "--insecure", "--strict",
		"--host", e.host, "--port", port(e.addr), "--junit-report", results))
	select {
	case <-h2spec.ended:
	case <-time.After(3 * patience):
		t.Fatal("h2spec does not end")
	}

	failed, total := readH2Spec(t, results)
	if len(total) != 146 {
		t.Errorf("h2spec tried %d cases; want 146", len(total))
	}
	for _, id := range failed {
		if h2specAllowed[id] == "" {
			t.Errorf("failed: %s", total[id])
		}
	}
	for id, why := range h2specAllowed {
		if !slices.Contains(failed, id) {
			t.Errorf("%s passes, and is still in the list of those that need not (%s)", id, why)
		}
	}
	report(t, "%-28s %d/%d", "h2spec", len(total)-len(failed), len(total))

	log := o.log()
	if len(log) < 50 {
		t.Errorf("only %d requests reached the service", len(log))
	}
	for _, q := range log {
		if te := q.value("te"); q.bad != "" || te != "" && te != "trailers" || meantForOneHop(q) {
			t.Errorf("the service got %q (%s)", q.raw, q.bad)
		}
	}
}

// answerAtLength gives h2spec enough to count windows with.
func answerAtLength(q *asked) {
	if q.readBody() == nil {
		q.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n%s", unless(q.method == "HEAD", strings.Repeat("x", 100)))
	}
}

// meantForOneHop reports whether a request has fields of the visitor's hop.
// What the edge says of its own hop is at most that TE is one, or that this is
// the last request.
func meantForOneHop(q *asked) bool {
	for _, name := range []string{"keep-alive", "proxy-connection", "upgrade"} {
		if q.values(name) != nil {
			return true
		}
	}
	for option := range strings.SplitSeq(q.value("connection"), ",") {
		switch strings.ToLower(strings.TrimSpace(option)) {
		case "", "te", "close":
		default:
			return true
		}
	}
	return false
}

// readH2Spec reads h2spec's report: the ids of the cases that failed, and what
// there is to say about each.
func readH2Spec(t *testing.T, file string) (failed []string, all map[string]string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Suites []struct {
			Cases []struct {
				Section string  `xml:"package,attr"`
				Title   string  `xml:"classname,attr"`
				Failure *string `xml:"failure"`
				Error   *string `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b, &report); err != nil {
		t.Fatal(err)
	}
	all = map[string]string{}
	for _, suite := range report.Suites {
		for i, c := range suite.Cases {
			id := fmt.Sprintf("%s/%d", c.Section, i+1)
			all[id] = id + ": " + c.Title
			for _, why := range []*string{c.Failure, c.Error} {
				if why != nil {
					failed = append(failed, id)
					all[id] += ": " + *why
				}
			}
		}
	}
	return failed, all
}
