package auth

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/culvertd/culvert/internal/name"
	"github.com/culvertd/culvert/internal/store"
)

// Name is a name and whose it is.
type Name struct {
	Name    string    `json:"name"`
	Owner   string    `json:"owner"`
	Created time.Time `json:"created"`
	Random  bool      `json:"random,omitempty"` // made up by us, not chosen
}

// Claim makes a name the owner's, or finds that it already is; an empty name
// asks for a random one. It gives the canonical spelling. It fails with
// ErrUnauthorized, a *name.Error, ErrNameNotAllowed, ErrNameTaken or
// ErrTooManyNames; anything else is the store's own trouble and may pass. Of
// several owners who claim a name at the same moment, one gets it.
func (a *Auth) Claim(ctx context.Context, g Grant, wanted string) (string, error) {
	if err := a.Valid(g); err != nil {
		return "", err
	}
	if wanted == "" {
		return a.claimRandom(ctx, g)
	}
	n, err := name.Parse(wanted)
	if err != nil {
		return "", err
	}
	if !matchAny(g.Names, n) {
		return "", fmt.Errorf("name %q: %w, which may claim %s", n, ErrNameNotAllowed, strings.Join(g.Names, ", "))
	}
	return n, a.take(ctx, g.Owner, n, false)
}

// Reserve makes a name an owner's before any agent claims it, whatever the
// patterns of the owner's tokens say. It gives the canonical spelling and fails
// as Claim does, or with an *InputError.
func (a *Auth) Reserve(ctx context.Context, owner, wanted string) (string, error) {
	if err := checkOwner(owner); err != nil {
		return "", err
	}
	n, err := name.Parse(wanted)
	if err != nil {
		return "", err
	}
	return n, a.take(ctx, owner, n, false)
}

// claimRandom makes up a name within the token's patterns.
func (a *Auth) claimRandom(ctx context.Context, g Grant) (string, error) {
	n := name.Random()
	if len(g.Names) > 0 {
		i := slices.IndexFunc(g.Names, func(p string) bool { return strings.Contains(p, "*") })
		if i < 0 {
			return "", fmt.Errorf("random name: %w, which may claim %s", ErrNameNotAllowed, strings.Join(g.Names, ", "))
		}
		n = strings.Replace(g.Names[i], "*", n, 1)
	}
	if _, err := name.Parse(n); err != nil {
		return "", err
	}
	return n, a.take(ctx, g.Owner, n, true)
}

// take gives n to owner unless somebody else has it.
func (a *Auth) take(ctx context.Context, owner, n string, random bool) error {
	for {
		if value, _, ok := a.names.Get(n); ok {
			if r, ok := parseName(value); !ok || r.Owner != owner {
				return fmt.Errorf("name %q: %w", n, ErrNameTaken)
			}
			return nil
		}
		if err := a.makeRoom(ctx, owner); err != nil {
			return fmt.Errorf("name %q: %w", n, err)
		}
		value, err := json.Marshal(Name{Name: n, Owner: owner, Created: time.Now().UTC().Truncate(time.Second), Random: random})
		if err != nil {
			return err
		}
		_, err = a.names.Create(ctx, n, value)
		if !errors.Is(err, store.ErrExists) {
			return err // nil: it is theirs
		}
		// Somebody was faster. The mirror may be a moment behind the engine that
		// said so; the record is on its way.
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// makeRoom sees to it that owner may take one more name.
func (a *Auth) makeRoom(ctx context.Context, owner string) error {
	// Reading records is dear, and there may be many. An owner is spelled in JSON
	// as it is, so that a record of theirs holds this text.
	field, n := fmt.Appendf(nil, `"owner":"%s"`, owner), 0
	for _, e := range a.names.All() {
		if bytes.Contains(e.Value, field) {
			n++
		}
	}
	if n < MaxNames {
		return nil
	}
	var theirs []Name
	for n := range a.everyName() {
		if n.Owner == owner {
			theirs = append(theirs, n)
		}
	}
	if a.InUse != nil {
		slices.SortFunc(theirs, func(a, b Name) int { return a.Created.Compare(b.Created) })
		for _, n := range theirs {
			if n.Random && !a.InUse(n.Name) {
				return a.Release(ctx, n.Name)
			}
		}
	}
	return fmt.Errorf("%w: owner %q holds %d", ErrTooManyNames, owner, len(theirs))
}

// Owned reports whether somebody owns a canonical name.
func (a *Auth) Owned(n string) bool {
	_, _, ok := a.names.Get(n)
	return ok
}

// Names lists every name that is owned, sorted.
func (a *Auth) Names() []Name {
	out := slices.Collect(a.everyName())
	slices.SortFunc(out, func(a, b Name) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Release makes a name free for anybody, or fails with ErrNotFound. A tunnel
// that holds it now keeps it until its session ends.
func (a *Auth) Release(ctx context.Context, n string) error {
	return remove(ctx, a.names, strings.ToLower(n), "name")
}

func (a *Auth) everyName() func(yield func(Name) bool) {
	return func(yield func(Name) bool) {
		for key, e := range a.names.All() {
			r, _ := parseName(e.Value)
			r.Name = key
			if !yield(r) {
				return
			}
		}
	}
}

func parseName(value []byte) (n Name, ok bool) {
	return n, json.Unmarshal(value, &n) == nil && n.Owner != ""
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// checkPatterns gives the canonical spelling of a token's name patterns: names
// in which one "*" may stand for any text.
func checkPatterns(patterns []string) ([]string, error) {
	if len(patterns) > maxPatterns {
		return nil, &InputError{"names", fmt.Sprintf("holds %d patterns; %d are allowed", len(patterns), maxPatterns)}
	}
	var out []string
	for _, p := range patterns {
		p = strings.ToLower(p)
		if strings.Count(p, "*") > 1 {
			return nil, &InputError{"names", fmt.Sprintf("pattern %q: one * is allowed", p)}
		}
		// What a random name in its place would give must be a name, so that a
		// pattern always has room for one.
		if _, err := name.Parse(strings.Replace(p, "*", name.Random(), 1)); err != nil {
			e, _ := errors.AsType[*name.Error](err)
			return nil, &InputError{"names", fmt.Sprintf("pattern %q: %s", p, e.Reason)}
		}
		out = append(out, p)
	}
	return out, nil
}

// matchAny reports whether one of patterns covers a canonical name; no patterns
// cover every name.
func matchAny(patterns []string, n string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool {
		before, after, star := strings.Cut(p, "*")
		if !star {
			return p == n
		}
		return len(n) >= len(before)+len(after) && strings.HasPrefix(n, before) && strings.HasSuffix(n, after)
	})
}
