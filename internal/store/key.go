package store

import (
	"errors"
	"fmt"
	"strings"
)

const hexDigits = "0123456789ABCDEF"

// encodeKey spells a key in what NATS can carry in a subject: letters, digits,
// hyphen and underscore stay, every other byte becomes =XX.
func encodeKey(key string) (string, error) {
	if key == "" {
		return "", errors.New("empty key")
	}
	if len(key) > MaxKey {
		return "", fmt.Errorf("key of %d bytes; %d are allowed", len(key), MaxKey)
	}
	var b strings.Builder
	for _, c := range []byte(key) {
		if plain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'=', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return b.String(), nil
}

// decodeKey undoes encodeKey and accepts no other spelling.
func decodeKey(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '=' && i+2 < len(s) {
			hi, lo := strings.IndexByte(hexDigits, s[i+1]), strings.IndexByte(hexDigits, s[i+2])
			if hi < 0 || lo < 0 || plain(byte(hi<<4|lo)) {
				return "", fmt.Errorf("key %q is not one of ours", s)
			}
			c, i = byte(hi<<4|lo), i+2
		} else if !plain(c) {
			return "", fmt.Errorf("key %q is not one of ours", s)
		}
		b.WriteByte(c)
	}
	if b.Len() == 0 || b.Len() > MaxKey {
		return "", fmt.Errorf("key %q is not one of ours", s)
	}
	return b.String(), nil
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}
