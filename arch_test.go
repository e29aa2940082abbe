package culvert_test

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestArrows is docs/architecture.md in executable form: which rooms of the
// house a room may not reach, through however many others.
func TestArrows(t *testing.T) {
	const module = "github.com/culvertd/culvert"
	const node = `^internal/(admin|auth|certs|edge|handover|router|server|session|store)$`
	for pkg, never := range map[string]string{
		"":                       node, // the agent's side never imports the node's
		"cmd/culvert":            node,
		"mux":                    `.`, // knows nothing of ours
		"internal/wire":          `.`,
		"internal/name":          `.`,
		"internal/h1":            `.`,
		"internal/relay":         `.`,
		"internal/netwatch":      `.`,
		"internal/router":        `.`, // everybody may know it, it knows nobody
		"internal/handover":      `.`,
		"internal/store":         `^internal/(admin|auth|edge|router|server|session)$`,
		"internal/auth":          `^internal/(admin|certs|edge|router|server|session)$`,
		"internal/certs":         `^internal/(admin|auth|edge|router|server|session|store)$`,
		"internal/edge/xconnect": `.`,
		"internal/edge":          `^(mux|internal/(admin|auth|server|session|store))$`, // edge and session do not know each other
		"internal/session":       `^internal/(admin|certs|edge|server)$`,
		"internal/admin":         `^internal/(certs|edge|server)$`,
	} {
		out, err := exec.Command("go", "list", "-deps", module+strings.TrimSuffix("/"+pkg, "/")).Output()
		if err != nil {
			t.Fatalf("list the dependencies of %q: %v", pkg, err)
		}
		bad := regexp.MustCompile(never)
		for dep := range strings.FieldsSeq(string(out)) {
			ours, ok := strings.CutPrefix(dep, module+"/")
			if ok && ours != pkg && bad.MatchString(ours) {
				t.Errorf("%s reaches %s", pkg, ours)
			}
		}
	}
}
