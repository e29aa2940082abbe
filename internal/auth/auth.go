// Package auth knows who a token is and which names it may claim.
//
// A token speaks for an owner. The store holds the SHA-256 of its secret, never
// the secret. Names belong to owners: the first to claim one keeps it, through
// restarts and through the end of the token, until an operator releases it.
//
// Everything is read from the store's mirror, so that asking costs no I/O and
// an answer is as fresh as the mirror; only creating, revoking, claiming and
// releasing write. There is nothing to stop: the store's owner closes it. The
// package does not know sessions. Whoever holds a Grant asks Valid again before
// acting on it, and ends what is under way when it is no longer.
package auth

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/culvertd/culvert/internal/store"
)

var (
	// ErrUnauthorized is all that a stranger learns of a token: unknown,
	// malformed, expired and revoked are the same answer.
	ErrUnauthorized = errors.New("token not accepted")

	// ErrNameTaken: the name belongs to another owner.
	ErrNameTaken = errors.New("name taken")

	// ErrNameNotAllowed: the token's patterns do not cover the name. It is said
	// before anybody looks whether the name is taken.
	ErrNameNotAllowed = errors.New("name not allowed for this token")

	// ErrTooManyNames: the owner holds MaxNames and must let go of one first.
	ErrTooManyNames = errors.New("too many names")

	// ErrNotFound: no such token or name, said to operators only.
	ErrNotFound = errors.New("not found")
)

const (
	// MaxNames is how many names one owner may hold.
	MaxNames = 1000

	maxOwner    = 64
	maxNote     = 200
	maxPatterns = 64
)

// Bucket is what auth needs of the store: *store.Bucket is one.
type Bucket interface {
	Get(key string) (value []byte, rev uint64, ok bool)
	All() iter.Seq2[string, store.Entry]
	Create(ctx context.Context, key string, value []byte) (rev uint64, err error)
	Delete(ctx context.Context, key string, rev uint64) error
}

// Token is what is known of a token; the secret is not among it.
type Token struct {
	ID      string    `json:"id"`
	Owner   string    `json:"owner"`
	Note    string    `json:"note,omitempty"`
	Names   []string  `json:"names,omitempty"` // patterns; empty is any name
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"` // zero is never
}

// Grant is what a token was found to be worth. Only Authenticate makes one that
// Valid accepts.
type Grant struct {
	TokenID, Owner string
	Names          []string  // patterns; empty is any name
	Expires        time.Time // zero is never
}

// Auth is safe for concurrent use.
type Auth struct {
	tokens, names Bucket

	// InUse reports whether a tunnel holds a name right now. An owner who comes
	// to MaxNames with names made up by Random loses the oldest of those that
	// are not in use. Nil means that none is ever taken away. Set before use.
	InUse func(name string) bool
}

// New gives an Auth over two buckets of a store.
func New(tokens, names Bucket) *Auth { return &Auth{tokens: tokens, names: names} }

// record is a token as the store holds it.
type record struct {
	Token
	Hash []byte `json:"hash"` // SHA-256 of the secret
}

// CreateOptions say what a new token may do. The zero value may claim any name,
// for ever.
type CreateOptions struct {
	Names   []string      // patterns: "blog", "pi-*"; empty is any name
	Expires time.Duration // from now; zero is never
	Note    string        // for operators, at most 200 bytes
}

// Create makes a token for owner: 1 to 64 letters, digits and "._@+-". The secret
// is returned this once and is not stored anywhere. An *InputError says what is
// wrong with the arguments.
func (a *Auth) Create(ctx context.Context, owner string, opts CreateOptions) (Secret, Token, error) {
	if err := checkOwner(owner); err != nil {
		return "", Token{}, err
	}
	patterns, err := checkPatterns(opts.Names)
	if err != nil {
		return "", Token{}, err
	}
	if opts.Expires < 0 {
		return "", Token{}, &InputError{"expires", "is in the past"}
	}
	if len(opts.Note) > maxNote || strings.ContainsFunc(opts.Note, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", Token{}, &InputError{"note", "is one line of at most 200 bytes"}
	}
	secret := newSecret()
	sum, id := hash(secret.Reveal())
	t := Token{ID: id, Owner: owner, Note: opts.Note, Names: patterns, Created: time.Now().UTC().Truncate(time.Second)}
	if opts.Expires > 0 {
		t.Expires = time.Now().UTC().Add(opts.Expires)
	}
	value, err := json.Marshal(record{t, sum[:]})
	if err != nil {
		return "", Token{}, err
	}
	if _, err := a.tokens.Create(ctx, id, value); err != nil {
		return "", Token{}, fmt.Errorf("store the token: %w", err)
	}
	return secret, t, nil
}

// List gives every token, the oldest first, expired ones included.
func (a *Auth) List() []Token {
	var out []Token
	for _, e := range a.tokens.All() {
		if r, ok := parse(e.Value); ok {
			out = append(out, r.Token)
		}
	}
	slices.SortStableFunc(out, func(a, b Token) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	return out
}

// Any reports whether there is any token, expired or not: without one, nobody
// can have a tunnel.
func (a *Auth) Any() bool {
	for range a.tokens.All() {
		return true
	}
	return false
}

// Revoke forgets a token, or fails with ErrNotFound. From its return on, no
// Grant of the token is Valid; ending what is under way is the caller's part.
// The owner's names stay the owner's.
func (a *Auth) Revoke(ctx context.Context, id string) error {
	return remove(ctx, a.tokens, id, "token")
}

// Authenticate says what a secret is worth, or ErrUnauthorized, with no word on
// why. Its time does not depend on what the store holds beyond what a map's
// lookup shows of a hash: to learn from that, one would have to know the secret.
func (a *Auth) Authenticate(secret string) (Grant, error) {
	if len(secret) > 4*secretLength {
		secret = secret[:4*secretLength] // a stranger chose it: hash no more than that
	}
	sum, id := hash(secret)
	var r record
	value, _, ok := a.tokens.Get(id)
	if ok {
		r, ok = parse(value)
	}
	if len(r.Hash) != sha256.Size {
		r.Hash = make([]byte, sha256.Size)
	}
	same := subtle.ConstantTimeCompare(r.Hash, sum[:]) == 1
	if !ok || !same || !wellFormed(secret) || expired(r.Expires) {
		return Grant{}, ErrUnauthorized
	}
	return Grant{TokenID: id, Owner: r.Owner, Names: r.Names, Expires: r.Expires}, nil
}

// Valid says whether a grant still holds: nil, or ErrUnauthorized when the token
// was revoked or has expired meanwhile. It is cheap enough for every stream.
func (a *Auth) Valid(g Grant) error {
	if _, _, ok := a.tokens.Get(g.TokenID); !ok || g.TokenID == "" || expired(g.Expires) {
		return ErrUnauthorized
	}
	return nil
}

func expired(at time.Time) bool { return !at.IsZero() && !time.Now().Before(at) }

// parse reads a token's record. The store has checked that it is ours; one that
// cannot be read all the same authenticates nobody.
func parse(value []byte) (r record, ok bool) {
	return r, json.Unmarshal(value, &r) == nil
}

// remove deletes key, whatever its revision.
func remove(ctx context.Context, b Bucket, key, what string) error {
	for {
		_, rev, ok := b.Get(key)
		if !ok {
			return fmt.Errorf("%s %q: %w", what, key, ErrNotFound)
		}
		err := b.Delete(ctx, key, rev)
		switch {
		case errors.Is(err, store.ErrConflict): // it changed; look again
		case errors.Is(err, store.ErrNotFound):
			return fmt.Errorf("%s %q: %w", what, key, ErrNotFound)
		default:
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// InputError says which argument an operator gave is wrong, and why.
type InputError struct{ Field, Reason string }

func (e *InputError) Error() string { return e.Field + " " + e.Reason }

func checkOwner(owner string) error {
	switch {
	case owner == "":
		return &InputError{"owner", "is missing: say for whom the token speaks"}
	case len(owner) > maxOwner:
		return &InputError{"owner", "is longer than 64 bytes"}
	}
	for _, c := range []byte(owner) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("._@+-", c) >= 0) {
			return &InputError{"owner", fmt.Sprintf("%q: only letters, digits and ._@+- are allowed", owner)}
		}
	}
	return nil
}
