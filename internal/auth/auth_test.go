package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/culvertd/culvert/internal/name"
	"github.com/culvertd/culvert/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open gives an Auth over a real store in dir.
func open(t *testing.T, dir string) (*Auth, *store.Store) {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	tokens, err := s.Bucket(t.Context(), "tokens")
	if err != nil {
		t.Fatal(err)
	}
	names, err := s.Bucket(t.Context(), "names")
	if err != nil {
		t.Fatal(err)
	}
	return New(tokens, names), s
}

func create(t *testing.T, a *Auth, owner string, opts CreateOptions) (string, Token) {
	t.Helper()
	secret, token, err := a.Create(t.Context(), owner, opts)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	return secret.Reveal(), token
}

func grant(t *testing.T, a *Auth, owner string, opts CreateOptions) Grant {
	t.Helper()
	secret, _ := create(t, a, owner, opts)
	g, err := a.Authenticate(secret)
	if err != nil {
		t.Fatalf("authenticate: %v", err)
	}
	return g
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestTokenLife(t *testing.T) {
	dir := t.TempDir()
	a, s := open(t, dir)
	if a.Any() {
		t.Error("a new node has a token; want none")
	}
	secret, token := create(t, a, "ann", CreateOptions{Names: []string{"Blog", "pi-*"}, Note: "the pi"})
	other, _ := create(t, a, "bob", CreateOptions{})
	if secret == other {
		t.Fatal("two tokens have one secret")
	}
	g, err := a.Authenticate(secret)
	if err != nil {
		t.Fatal(err)
	}
	if g.TokenID != token.ID || g.Owner != "ann" || !slices.Equal(g.Names, []string{"blog", "pi-*"}) || !g.Expires.IsZero() {
		t.Errorf("got %+v; want what was created", g)
	}
	if list := a.List(); len(list) != 2 || !slices.ContainsFunc(list, func(l Token) bool { return l.ID == token.ID && l.Note == "the pi" }) {
		t.Errorf("list is %+v", list)
	}
	s.Close()

	a, _ = open(t, dir)
	if !a.Any() {
		t.Error("after a restart: no token")
	}
	if g, err = a.Authenticate(secret); err != nil || g.Owner != "ann" {
		t.Errorf("after a restart: %+v, %v", g, err)
	}
	wantErr(t, "valid", a.Valid(g), nil)
	wantErr(t, "revoke", a.Revoke(t.Context(), token.ID), nil)
	wantErr(t, "valid after revoke", a.Valid(g), ErrUnauthorized)
	_, err = a.Authenticate(secret)
	wantErr(t, "authenticate after revoke", err, ErrUnauthorized)
	wantErr(t, "revoke again", a.Revoke(t.Context(), token.ID), ErrNotFound)
	_, err = a.Claim(t.Context(), g, "blog")
	wantErr(t, "claim after revoke", err, ErrUnauthorized)
	if _, err := a.Authenticate(other); err != nil {
		t.Errorf("the other token: %v", err)
	}
	wantErr(t, "a grant nobody gave", a.Valid(Grant{Owner: "ann"}), ErrUnauthorized)
}

// TestExpiry runs in virtual time, over buckets that are maps.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(newMapBucket(), newMapBucket())
		secret, token := create(t, a, "ann", CreateOptions{Expires: time.Hour})
		g, err := a.Authenticate(secret)
		if err != nil || !g.Expires.Equal(token.Expires) {
			t.Fatalf("%+v, %v; want it to expire at %v", g, err, token.Expires)
		}
		time.Sleep(time.Hour - 1)
		wantErr(t, "just before", a.Valid(g), nil)
		time.Sleep(1 * time.Nanosecond)
		wantErr(t, "valid at the hour", a.Valid(g), ErrUnauthorized)
		_, err = a.Authenticate(secret)
		wantErr(t, "authenticate at the hour", err, ErrUnauthorized)
		_, err = a.Claim(t.Context(), g, "blog")
		wantErr(t, "claim at the hour", err, ErrUnauthorized)
		if len(a.List()) != 1 {
			t.Error("an expired token is not listed; want it there for the operator to see")
		}
	})
}

// TestStrangersLearnNothing: whatever is wrong with a secret, the answer is the
// same value, not only the same kind.
func TestStrangersLearnNothing(t *testing.T) {
	a, _ := open(t, t.TempDir())
	secret, _ := create(t, a, "ann", CreateOptions{})
	revoked, token := create(t, a, "ann", CreateOptions{})
	if err := a.Revoke(t.Context(), token.ID); err != nil {
		t.Fatal(err)
	}
	expired, _ := create(t, a, "ann", CreateOptions{Expires: 1})
	typo := []byte(secret)
	typo[10] ^= 1
	for what, s := range map[string]string{
		"empty": "", "prefix": "cvt_", "garbage": "hunter2", "long": strings.Repeat("x", 1<<20), "binary": "\x00\xff",
		"unknown": newSecret().Reveal(), "revoked": revoked, "expired": expired, "typing error": string(typo),
		"cut": secret[:len(secret)-1], "with a space": secret + " ", "upper": strings.ToUpper(secret),
		"with more behind": secret + secret,
	} {
		if g, err := a.Authenticate(s); err != ErrUnauthorized || g.Owner != "" || g.TokenID != "" {
			t.Errorf("%s: got %+v, %v; want ErrUnauthorized itself and nothing else", what, g, err)
		}
	}
	if _, err := a.Authenticate(secret); err != nil {
		t.Errorf("the right one: %v", err)
	}
}

// TestNearMiss: the id is only where to look. Who hits the id without the
// secret gets nothing.
func TestNearMiss(t *testing.T) {
	tokens := newMapBucket()
	a := New(tokens, newMapBucket())
	secret, token := create(t, a, "ann", CreateOptions{})
	for what, change := range map[string]func(r *record){
		"another hash": func(r *record) { r.Hash[31] ^= 1 },
		"no hash":      func(r *record) { r.Hash = nil },
		"short hash":   func(r *record) { r.Hash = r.Hash[:10] },
	} {
		value, _, _ := tokens.Get(token.ID)
		var r record
		json.Unmarshal(value, &r)
		change(&r)
		changed, _ := json.Marshal(r)
		tokens.put(token.ID, changed)
		if _, err := a.Authenticate(secret); err != ErrUnauthorized {
			t.Errorf("%s: %v", what, err)
		}
		tokens.put(token.ID, value)
	}
	tokens.put(token.ID, []byte("{"))
	if _, err := a.Authenticate(secret); err != ErrUnauthorized {
		t.Errorf("a record that cannot be read: %v", err)
	}
}

func TestSecretIsNotStored(t *testing.T) {
	dir := t.TempDir()
	a, s := open(t, dir)
	secret, token := create(t, a, "ann", CreateOptions{})
	s.Close()
	found := false
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if raw, err := os.ReadFile(path); err == nil {
			if bytes.Contains(raw, []byte(secret)) || bytes.Contains(raw, []byte(secret[len(secretPrefix):])) {
				t.Errorf("%s holds the secret", path)
			}
			found = found || bytes.Contains(raw, []byte(token.ID))
		}
		return nil
	})
	if !found {
		t.Error("no file holds the token's id; the test looked in the wrong place")
	}
}

func TestSecretRedacts(t *testing.T) {
	secret := newSecret()
	inner := secret.Reveal()[len(secretPrefix):]
	type holder struct {
		Secret Secret
		List   []Secret
		Map    map[string]Secret
		Ptr    *Secret
	}
	h := holder{secret, []Secret{secret}, map[string]Secret{"k": secret}, &secret}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%t", "%c", "%10.3s", "%T"} {
		for _, v := range []any{secret, h, &h, []any{secret}, fmt.Errorf("bad %v", secret)} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	fmt.Fprintln(&out, secret, h)
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("x", "secret", secret, "h", h, "any", slog.AnyValue(&h), "g", slog.GroupValue(slog.Any("s", secret)))
	}
	raw, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(raw)
	hexed := fmt.Sprintf("%x", inner[:8])
	for _, leak := range []string{inner, inner[:8], hexed, strings.ToUpper(hexed)} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("the secret is in what was printed: …%q…", leak)
		}
	}
	if n := strings.Count(out.String(), redacted); n < 100 {
		t.Errorf("%d times redacted; want every print to say so", n)
	}
}

func TestSecretShape(t *testing.T) {
	seen := make(map[byte]int)
	for range 2000 {
		s := newSecret().Reveal()
		if len(s) != 40 || !strings.HasPrefix(s, "cvt_") || !wellFormed(s) {
			t.Fatalf("%q is not well formed", s)
		}
		for i := 4; i < 34; i++ {
			seen[s[i]]++
		}
		bad := []byte(s)
		bad[4] ^= 1
		if wellFormed(string(bad)) {
			t.Fatalf("%q passes its checksum", bad)
		}
	}
	for c, n := range seen { // 60000 draws of 62: 968 each, standard deviation 31
		if n < 968-7*31 || n > 968+7*31 {
			t.Errorf("%q came %d times of 60000; want about 968", c, n)
		}
	}
	if len(seen) != 62 {
		t.Errorf("%d different characters; want 62", len(seen))
	}
}

func TestCreateRefuses(t *testing.T) {
	a := New(newMapBucket(), newMapBucket())
	for what, c := range map[string]struct {
		owner string
		opts  CreateOptions
	}{
		"no owner":         {"", CreateOptions{}},
		"long owner":       {strings.Repeat("a", 65), CreateOptions{}},
		"owner with space": {"a b", CreateOptions{}},
		"owner with \\n":   {"a\nb", CreateOptions{}},
		"owner not ASCII":  {"ä", CreateOptions{}},
		"two stars":        {"a", CreateOptions{Names: []string{"a*b*"}}},
		"reserved":         {"a", CreateOptions{Names: []string{"www"}}},
		"punycode":         {"a", CreateOptions{Names: []string{"xn--*"}}},
		"empty pattern":    {"a", CreateOptions{Names: []string{""}}},
		"dot":              {"a", CreateOptions{Names: []string{"a.b"}}},
		"hyphen":           {"a", CreateOptions{Names: []string{"-*"}}},
		"many":             {"a", CreateOptions{Names: slices.Repeat([]string{"a"}, 65)}},
		"past":             {"a", CreateOptions{Expires: -1}},
		"long note":        {"a", CreateOptions{Note: strings.Repeat("a", 201)}},
		"note of lines":    {"a", CreateOptions{Note: "a\nb"}},
	} {
		secret, _, err := a.Create(t.Context(), c.owner, c.opts)
		if _, ok := errors.AsType[*InputError](err); !ok || secret != "" {
			t.Errorf("%s: got %v; want an *InputError", what, err)
		}
	}
	if a.Any() {
		t.Error("something was created")
	}
}

func TestClaim(t *testing.T) {
	dir := t.TempDir()
	a, s := open(t, dir)
	ann, bob := grant(t, a, "ann", CreateOptions{}), grant(t, a, "bob", CreateOptions{})
	ann2 := grant(t, a, "ann", CreateOptions{})
	claim := func(g Grant, n string) error { _, err := a.Claim(t.Context(), g, n); return err }

	if n, err := a.Claim(t.Context(), ann, "BLOG"); err != nil || n != "blog" {
		t.Fatalf("got %q, %v; want blog", n, err)
	}
	wantErr(t, "again", claim(ann, "blog"), nil)
	wantErr(t, "by another token of the owner", claim(ann2, "blog"), nil)
	wantErr(t, "by another owner", claim(bob, "blog"), ErrNameTaken)
	wantErr(t, "by another owner, in capitals", claim(bob, "Blog"), ErrNameTaken)
	if _, ok := errors.AsType[*name.Error](claim(ann, "www")); !ok {
		t.Error("a reserved name was not refused as such")
	}
	if !a.Owned("blog") || a.Owned("wiki") {
		t.Error("Owned is wrong")
	}
	if err := a.Revoke(t.Context(), ann.TokenID); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "another owner, after the token is gone", claim(bob, "blog"), ErrNameTaken)
	s.Close()

	a, _ = open(t, dir)
	wantErr(t, "another owner, after a restart", claim(bob, "blog"), ErrNameTaken)
	wantErr(t, "the owner, after a restart", claim(ann2, "blog"), nil)
	if names := a.Names(); len(names) != 1 || names[0].Name != "blog" || names[0].Owner != "ann" || names[0].Random {
		t.Errorf("names are %+v", names)
	}
	wantErr(t, "release", a.Release(t.Context(), "Blog"), nil)
	wantErr(t, "release again", a.Release(t.Context(), "blog"), ErrNotFound)
	wantErr(t, "another owner, after the release", claim(bob, "blog"), nil)
	wantErr(t, "the former owner", claim(ann2, "blog"), ErrNameTaken)

	if n, err := a.Reserve(t.Context(), "ann", "Shop"); n != "shop" || err != nil {
		t.Errorf("reserve: %q, %v", n, err)
	}
	wantErr(t, "what was reserved for another", claim(bob, "shop"), ErrNameTaken)
	wantErr(t, "what was reserved for the owner", claim(ann2, "shop"), nil)
	_, err := a.Reserve(t.Context(), "ann", "blog")
	wantErr(t, "reserve what another has", err, ErrNameTaken)
}

func TestPatterns(t *testing.T) {
	a := New(newMapBucket(), newMapBucket())
	bob := grant(t, a, "bob", CreateOptions{})
	if _, err := a.Claim(t.Context(), bob, "taken"); err != nil {
		t.Fatal(err)
	}
	g := grant(t, a, "ann", CreateOptions{Names: []string{"blog", "pi-*", "*-dev", "a*z"}})
	for n, ok := range map[string]bool{
		"blog": true, "BLOG": true, "pi-3": true, "x-dev": true, "az": true, "abz": true, "pi-dev": true,
		"blog2": false, "blo": false, "pi": false, "pii-3": false, "dev": false, "x-devs": false, "taken": false, "a": false, "z": false,
	} {
		_, err := a.Claim(t.Context(), g, n)
		if ok != (err == nil) || !ok && !errors.Is(err, ErrNameNotAllowed) {
			t.Errorf("%q: got %v; allowed should be %v", n, err, ok)
		}
	}
	if n, err := a.Claim(t.Context(), g, ""); err != nil || !strings.HasPrefix(n, "pi-") || len(n) < 3+16 {
		t.Errorf("random: got %q, %v; want one of the pattern with room for it", n, err)
	}
	fixed := grant(t, a, "ann", CreateOptions{Names: []string{"blog"}})
	_, err := a.Claim(t.Context(), fixed, "")
	wantErr(t, "random with a token for one name", err, ErrNameNotAllowed)
}

func TestRandomNames(t *testing.T) {
	a, _ := open(t, t.TempDir())
	ann, bob := grant(t, a, "ann", CreateOptions{}), grant(t, a, "bob", CreateOptions{})
	n, err := a.Claim(t.Context(), ann, "")
	if err != nil || len(n) < 16 {
		t.Fatalf("got %q, %v", n, err)
	}
	if m, _ := a.Claim(t.Context(), ann, ""); m == n {
		t.Error("the same random name twice")
	}
	_, err = a.Claim(t.Context(), ann, n)
	wantErr(t, "the owner comes back for it", err, nil)
	_, err = a.Claim(t.Context(), bob, n)
	wantErr(t, "a stranger who saw it", err, ErrNameTaken)
}

// TestClaimRace: one winner, and every loser is told so.
func TestClaimRace(t *testing.T) {
	a, _ := open(t, t.TempDir())
	var grants []Grant
	for i := range 12 {
		grants = append(grants, grant(t, a, "owner"+strconv.Itoa(i/2), CreateOptions{})) // two tokens each
	}
	for round := range 10 {
		n := "name" + strconv.Itoa(round)
		errs := make([]error, len(grants))
		var wg sync.WaitGroup
		for i, g := range grants {
			wg.Go(func() { _, errs[i] = a.Claim(t.Context(), g, n) })
		}
		wg.Wait()
		owners := make(map[string]bool)
		for i, err := range errs {
			if err == nil {
				owners[grants[i].Owner] = true
			} else if !errors.Is(err, ErrNameTaken) {
				t.Errorf("a loser got %v", err)
			}
			if (err == nil) != (errs[i^1] == nil) {
				t.Errorf("two tokens of one owner got %v and %v", err, errs[i^1])
			}
		}
		if len(owners) != 1 {
			t.Fatalf("%d owners got %q; want one", len(owners), n)
		}
	}
}

func TestTooManyNames(t *testing.T) {
	a := New(newMapBucket(), newMapBucket())
	ann, bob := grant(t, a, "ann", CreateOptions{}), grant(t, a, "bob", CreateOptions{})
	first, err := a.Claim(t.Context(), ann, "")
	if err != nil {
		t.Fatal(err)
	}
	second, _ := a.Claim(t.Context(), ann, "")
	for i := 2; i < MaxNames; i++ {
		if _, err := a.Claim(t.Context(), ann, "n"+strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	_, err = a.Claim(t.Context(), ann, "")
	wantErr(t, "one more", err, ErrTooManyNames)
	_, err = a.Claim(t.Context(), ann, first)
	wantErr(t, "one of theirs", err, nil)
	_, err = a.Claim(t.Context(), bob, "")
	wantErr(t, "somebody else", err, nil)

	a.InUse = func(n string) bool { return n == first }
	_, err = a.Claim(t.Context(), ann, "")
	wantErr(t, "one more, with a random name to spare", err, nil)
	if !a.Owned(first) || a.Owned(second) {
		t.Error("want the random name that is not in use to be let go, and no other")
	}
}
