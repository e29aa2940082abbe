package wire

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"log/slog"
)

// A Secret is text that must not be seen: however it is printed or logged, it
// says [redacted].
type Secret string

const redacted = "[redacted]"

func (Secret) String() string               { return redacted }
func (Secret) GoString() string             { return redacted }
func (Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// A Key is the secret of a session: who knows it may add lanes to it. It is as
// silent as a [Secret].
type Key [32]byte

func (Key) String() string               { return redacted }
func (Key) GoString() string             { return redacted }
func (Key) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Proof is what a Join shows in place of the secret of its session: it is worth
// something for that lane of that session only, which is taken once.
func Proof(secret Key, session [16]byte, lane uint64) [32]byte {
	mac := hmac.New(sha256.New, secret[:])
	mac.Write([]byte("culvert lane"))
	mac.Write(session[:])
	mac.Write(binary.BigEndian.AppendUint64(nil, lane))
	return [32]byte(mac.Sum(nil))
}

// Proves reports whether proof is that of this lane of this session, in a time
// that tells nothing. Without a secret nothing is proved.
func (k Key) Proves(proof [32]byte, session [16]byte, lane uint64) bool {
	want := Proof(k, session, lane)
	return k != Key{} && hmac.Equal(proof[:], want[:])
}
