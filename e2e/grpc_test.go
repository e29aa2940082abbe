package e2e

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// gRPC as Go's own library speaks it, with the cases by which gRPC's libraries
// are tried against each other: see grpc/cases.go.
func TestGRPC(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "grpc")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", program, ".")
	build.Dir = "grpc"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	out, err := exec.Command(program, "cases").Output()
	if err != nil {
		t.Fatal(err)
	}
	cases := strings.Fields(string(out))
	ca, cert, key, _ := makeCertificate(t, "localhost")

	// serve runs the service, by TLS or not, and returns its address.
	serve := func(t *testing.T, keys ...string) (addr string) {
		t.Helper()
		addr = freeAddr(t)
		start(t, "grpc", exec.Command(program, append([]string{"serve", addr}, keys...)...)).awaitListener(addr)
		return addr
	}
	// try runs all cases against whoever is name at addr.
	try := func(t *testing.T, s *score, addr, name, ca string) {
		t.Helper()
		for _, which := range cases {
			s.run(t, which, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
				defer cancel()
				if out, err := exec.CommandContext(ctx, program, "call", addr, name, ca, which).CombinedOutput(); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}

	// Without a tunnel, to know that it is not the service, nor this test.
	t.Run("directly", func(t *testing.T) {
		t.Parallel()
		try(t, newScore(t, "gRPC, directly", len(cases)), serve(t, cert, key), "localhost", ca)
	})
	for _, tt := range []struct {
		name, scheme string
		keys         []string // of the service
		flags        []string // of the agent
	}{
		{"h2c", "http", nil, []string{"--service-proto", "h2c"}},
		{"h2", "https", []string{cert, key}, []string{"--service-proto", "h2", "--service-ca", ca}},
		{"h2, insecure", "https", []string{cert, key}, []string{"--service-proto", "h2", "--service-insecure"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScore(t, "gRPC, "+tt.name, len(cases))
			e := enter(t, "rpc", tt.scheme+"://localhost:"+port(serve(t, tt.keys...)), tt.flags...)
			try(t, s, e.addr, e.host, e.ca())
		})
	}

	// A service whose certificate nobody trusts is not spoken to, unless it is
	// asked for.
	t.Run("a certificate that nobody trusts", func(t *testing.T) {
		t.Parallel()
		e := enter(t, "rpc", "https://localhost:"+port(serve(t, cert, key)), "--service-proto", "h2")
		res, _ := get(t, e.visitor(), e.url("rpc")+"/")
		if code := res.Header.Get("Culvert-Error"); res.StatusCode != 502 || code == "" {
			t.Errorf("%s, Culvert-Error %q; want 502 and why", res.Status, code)
		}
	})
}
