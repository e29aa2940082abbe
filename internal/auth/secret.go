package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"strings"
)

// Secret is what an agent shows to prove who it is: "cvt_", 30 random letters
// and digits (178 bits), and 6 more that are the checksum of what stands before
// them, so that a scanner recognises a leaked one and a typing error never
// reaches the store. Whatever prints, logs or marshals a Secret gets
// "[redacted]"; only Reveal gives it away. (Do not use one as the key of a map
// that is marshalled: encoding/json asks keys nothing.)
type Secret string

const (
	secretPrefix = "cvt_"
	randomPart   = 30
	checkPart    = 6
	secretLength = len(secretPrefix) + randomPart + checkPart

	redacted = "[redacted]"
	base62   = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// Reveal is the secret itself. Write it where its owner reads it, and nowhere else.
func (s Secret) Reveal() string { return string(s) }

// Format stands before every verb of package fmt, %d and %x included.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

func (Secret) String() string               { return redacted }
func (Secret) GoString() string             { return redacted }
func (Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// newSecret makes one that nobody has had before.
func newSecret() Secret {
	var b strings.Builder
	b.WriteString(secretPrefix)
	for b.Len() < len(secretPrefix)+randomPart {
		var raw [32]byte
		rand.Read(raw[:]) // never fails
		for _, c := range raw {
			// 248 is the largest multiple of 62: above it, low digits would be
			// more likely than high ones.
			if c < 248 && b.Len() < len(secretPrefix)+randomPart {
				b.WriteByte(base62[c%62])
			}
		}
	}
	return Secret(b.String() + checksum(b.String()))
}

// wellFormed reports whether s could be a secret of ours at all.
func wellFormed(s string) bool {
	if len(s) != secretLength || !strings.HasPrefix(s, secretPrefix) {
		return false
	}
	for _, c := range []byte(s[len(secretPrefix):]) {
		if strings.IndexByte(base62, c) < 0 {
			return false
		}
	}
	return s[secretLength-checkPart:] == checksum(s[:secretLength-checkPart])
}

func checksum(s string) string {
	sum := crc32.ChecksumIEEE([]byte(s))
	var out [checkPart]byte // 62^6 > 2^32
	for i := checkPart - 1; i >= 0; i-- {
		out[i] = base62[sum%62]
		sum /= 62
	}
	return string(out[:])
}

// hash is what the store keeps of a secret, and id the public name of the token:
// its first 80 bits. The secret is random, so neither needs salt nor slowness.
func hash(secret string) (sum [sha256.Size]byte, id string) {
	sum = sha256.Sum256([]byte(secret))
	return sum, strings.ToLower(base32.StdEncoding.EncodeToString(sum[:10]))
}
