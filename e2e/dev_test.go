package e2e

import (
	"crypto/x509"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What make dev runs: a node and an agent in one process, the URL, the CA and
// a line for curl that works as it is printed.
func TestDev(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	s := startService(t, "one's own service")
	for _, tt := range []struct{ name, target, want string }{
		{"built-in page", "", "GET / HTTP/1.1\n"},
		{"own service", s.target(), "hello from one's own service\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr := freeAddr(t)
			args := []string{"dev", "--json", "--listen", addr, "--data", filepath.Join(t.TempDir(), "data")}
			if tt.target != "" {
				args = append(args, tt.target)
			}
			dev := start(t, "culvertd dev", exec.Command(culvertdPath, args...))
			var ready struct{ Event, URL, CA, Curl string }
			eventually(t, "dev is ready", func() error {
				if lines := dev.stdout.lines(); len(lines) > 0 {
					return json.Unmarshal([]byte(lines[0]), &ready)
				}
				if err := dev.running(); err != nil {
					return err
				}
				return errSilent
			})
			pem, err := os.ReadFile(ready.CA)
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(pem)
			res, body := get(t, visitor(t, addr, roots), ready.URL+"/")
			if res.StatusCode != 200 || !strings.HasPrefix(body, tt.want) {
				t.Errorf("%s answers %s: %q; want %q", ready.URL, res.Status, body, tt.want)
			}

			curl := exec.Command("sh", "-c", ready.Curl)
			if out, err := curl.Output(); err != nil || !strings.HasPrefix(string(out), tt.want) {
				t.Errorf("%s: %v\n%s", ready.Curl, err, out)
			}
			dev.stop()
			if code := dev.exitCode(); code != 0 {
				t.Errorf("exit code %d; want 0", code)
			}
		})
	}
}
