package admin

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertd/culvert/internal/auth"
	"github.com/culvertd/culvert/internal/session"
	"github.com/culvertd/culvert/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sessions is one session, of one token, and what was done to it.
type sessions struct {
	mu      sync.Mutex // guards the fields below
	list    []session.Info
	dropped []string
	auth    *auth.Auth
	grant   auth.Grant
}

func (s *sessions) Sessions() []session.Info { return s.list }
func (s *sessions) Kick(id string) bool      { return len(s.list) > 0 && s.list[0].ID == id }
func (s *sessions) DropToken(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.auth.Valid(s.grant) == nil {
		id += " while still valid"
	}
	s.dropped = append(s.dropped, id)
}

// start runs a Server over a real store.
func start(t *testing.T) (*Client, *Server, *sessions) {
	t.Helper()
	return startWith(t, func(*Server) {})
}

func startWith(t *testing.T, change func(*Server)) (*Client, *Server, *sessions) {
	t.Helper()
	dir := t.TempDir()
	st, err := store.Open(t.Context(), store.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	tokens, err := st.Bucket(t.Context(), "tokens")
	if err != nil {
		t.Fatal(err)
	}
	names, err := st.Bucket(t.Context(), "names")
	if err != nil {
		t.Fatal(err)
	}
	a := auth.New(tokens, names)
	fake := &sessions{auth: a}
	s := &Server{Auth: a, Sessions: fake, Status: Status{Domain: "example.com"}}
	change(s)
	os.WriteFile(filepath.Join(dir, socketName), []byte("left behind"), 0o600)
	ln, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, socketName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v; want it closed to others", info.Mode(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()
	c, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := Dial(dir); !errors.Is(err, ErrNotRunning) {
			t.Errorf("after the end: %v; want ErrNotRunning", err)
		}
	})
	return c, s, fake
}

func wantCode(t *testing.T, what string, err error, code Code) {
	t.Helper()
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != code {
		t.Errorf("%s: got %v, want code %s", what, err, code)
	}
}

func TestOperator(t *testing.T) {
	c, s, fake := start(t)
	ctx := t.Context()
	made, err := c.CreateToken(ctx, NewToken{Owner: "ann", Names: []string{"pi-*"}, Expires: time.Hour, Note: "x"})
	if err != nil {
		t.Fatal(err)
	}
	g, err := s.Auth.Authenticate(made.Secret)
	if err != nil || g.TokenID != made.Token.ID {
		t.Fatalf("the secret is worth %+v, %v; want the token that was made", g, err)
	}
	tokens, err := c.Tokens(ctx)
	if err != nil || len(tokens) != 1 || tokens[0].ID != made.Token.ID || tokens[0].Note != "x" {
		t.Errorf("tokens: %+v, %v", tokens, err)
	}
	if _, err := s.Auth.Claim(ctx, g, "pi-1"); err != nil {
		t.Fatal(err)
	}
	if n, err := c.ReserveName(ctx, "bob", "SHOP"); n != "shop" || err != nil {
		t.Errorf("reserve: %q, %v", n, err)
	}
	_, err = c.ReserveName(ctx, "bob", "pi-1")
	wantCode(t, "reserve what another has", err, NameTaken)
	_, err = c.ReserveName(ctx, "bob", "www")
	wantCode(t, "reserve what is reserved", err, BadRequest)
	names, err := c.Names(ctx)
	if err != nil || len(names) != 2 || names[0].Name != "pi-1" || names[0].Owner != "ann" {
		t.Errorf("names: %+v, %v", names, err)
	}
	if st, err := c.Status(ctx); err != nil || st.Domain != "example.com" || st.Tokens != 1 || st.Names != 2 {
		t.Errorf("status: %+v, %v", st, err)
	}
	if err := c.ReleaseName(ctx, "pi-1"); err != nil {
		t.Errorf("release: %v", err)
	}
	wantCode(t, "release again", c.ReleaseName(ctx, "pi-1"), NotFound)
	wantCode(t, "release a path", c.ReleaseName(ctx, "../tokens/x"), NotFound)

	fake.grant = g
	if err := c.RevokeToken(ctx, made.Token.ID); err != nil {
		t.Errorf("revoke: %v", err)
	}
	if got := strings.Join(fake.dropped, ","); got != made.Token.ID {
		t.Errorf("dropped %q; want the token's sessions ended once it is invalid", got)
	}
	wantCode(t, "revoke again", c.RevokeToken(ctx, made.Token.ID), NotFound)

	fake.list = []session.Info{{ID: "s1", Owner: "ann", RTT: time.Millisecond}}
	if list, err := c.Sessions(ctx); err != nil || len(list) != 1 || list[0].RTT != time.Millisecond {
		t.Errorf("sessions: %+v, %v", list, err)
	}
	if err := c.KickSession(ctx, "s1"); err != nil {
		t.Errorf("kick: %v", err)
	}
	wantCode(t, "kick nobody", c.KickSession(ctx, "s2"), NotFound)
	_, err = c.CreateToken(ctx, NewToken{Owner: "a b"})
	wantCode(t, "owner with a space", err, BadRequest)
}

func TestBodies(t *testing.T) {
	_, s, _ := start(t)
	for _, body := range []string{"", "{", "[]", `{"owner":"a","nmaes":[]}`, `{"owner":"a"} {}`, `{"owner":1}`, `{"owner":"` + strings.Repeat("a", maxBody) + `"}`} {
		w := httptest.NewRecorder()
		s.handler().ServeHTTP(w, httptest.NewRequest("POST", "/v1/tokens", strings.NewReader(body)))
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "bad_request") {
			t.Errorf("body %.40q: got %d %s; want 400", body, w.Code, w.Body)
		}
	}
	if s.Auth.Any() {
		t.Error("something was created")
	}
}

func TestNobodyThere(t *testing.T) {
	if _, err := Dial(t.TempDir()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("empty directory: %v", err)
	}
	dir := t.TempDir()
	ln, err := net.Listen("unix", filepath.Join(dir, socketName))
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close() // as after a crash
	if _, err := Dial(dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a socket nobody listens on: %v", err)
	}
	if _, err := Listen(filepath.Join(t.TempDir(), strings.Repeat("d", 100))); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a long path: %v; want the reason", err)
	}
}

// TestReloadAndUpgrade: what the node does not know it says so; what it does,
// it tells as it goes; why it did not is an error with a hint.
func TestReloadAndUpgrade(t *testing.T) {
	c, _, _ := start(t)
	_, err := c.Reload(t.Context())
	wantCode(t, "a node that cannot", err, NotFound)
	wantCode(t, "a node that cannot", c.Upgrade(t.Context(), nil), NotFound)

	var fail atomic.Pointer[Error]
	failed := func() error {
		if e := fail.Load(); e != nil {
			return e
		}
		return nil
	}
	c, _, _ = startWith(t, func(s *Server) {
		s.Reload = func(context.Context) ([]string, error) { return []string{"drain"}, failed() }
		s.Upgrade = func(_ context.Context, tell func(string)) error {
			tell("one")
			tell("two")
			return failed()
		}
	})
	if changed, err := c.Reload(t.Context()); err != nil || strings.Join(changed, " ") != "drain" {
		t.Errorf("got %v, %v", changed, err)
	}
	for _, e := range []*Error{nil, {NotDone, "no", "do this"}} {
		fail.Store(e)
		var lines []string
		err := c.Upgrade(t.Context(), func(line string) { lines = append(lines, line) })
		if strings.Join(lines, " ") != "one two" {
			t.Errorf("told %q", lines)
		}
		if got, ok := errors.AsType[*Error](err); ok != (e != nil) || ok && *got != *e {
			t.Errorf("got %#v; want %v", err, e)
		}
	}
	_, err = c.Reload(t.Context())
	wantCode(t, "a reload", err, NotDone)
}

// TestHandedOver: a client asks again, once, when the node was replaced while it
// asked.
func TestHandedOver(t *testing.T) {
	var asked atomic.Int32
	c, _, _ := startWith(t, func(s *Server) {
		s.Reload = func(context.Context) ([]string, error) {
			if asked.Add(1) == 1 {
				return nil, store.ErrClosed
			}
			return []string{"again"}, nil
		}
	})
	if changed, err := c.Reload(t.Context()); err != nil || len(changed) != 1 || asked.Load() != 2 {
		t.Errorf("got %v, %v after %d times", changed, err, asked.Load())
	}
}
