package h1

import (
	"encoding/binary"
	"math/bits"
)

// text is what the functions take that read or write values from elsewhere.
type text interface{ ~string | ~[]byte }

// What a byte may be part of.
const (
	inToken  = 1 << iota // RFC 9110, section 5.6.2
	inValue              // a field value, a reason: RFC 9110, section 5.5
	inTarget             // a request target: see targetEnd
	inHost               // a reg-name but for "%": RFC 3986, section 3.2.2
	inHex
	inDigit
)

var class = func() (c [256]uint8) {
	mark := func(chars string, as uint8) {
		for i := range len(chars) {
			c[chars[i]] |= as
		}
	}
	const digits, letters = "0123456789", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	mark(digits+letters, inToken|inHost)
	mark("!#$%&'*+-.^_`|~", inToken)
	mark("-._~!$&'()*+,;=", inHost)
	mark(digits, inDigit|inHex)
	mark("abcdefABCDEF", inHex)
	mark("\t ", inValue)
	for b := 0x21; b < 0x100; b++ {
		if b != 0x7f {
			c[b] |= inValue
		}
		if b < 0x7f && b != '#' {
			c[b] |= inTarget
		}
	}
	return c
}()

const (
	each = 0x0101010101010101
	high = each << 7
)

// below marks the high bits of bytes of x that are below n, n ≤ 0x80. Behind
// the lowest byte that is, a mark may be wrong, for the borrow.
func below(x uint64, n uint64) uint64 { return (x - n*each) &^ x & high }

// equal marks the bytes of x that are c, as below does.
func equal(x uint64, c uint64) uint64 { return below(x^c*each, 1) }

// tokenEnd returns the index from i on of the first byte that can not be part
// of a token.
func tokenEnd(b []byte, i int) int {
	for i < len(b) && class[b[i]]&inToken != 0 {
		i++
	}
	return i
}

// valueEnd returns the index from i on of the first byte that can not be part
// of a field value: a control character but for the tab.
func valueEnd(b []byte, i int) int {
	for {
		for ; i+8 <= len(b); i += 8 {
			x := binary.LittleEndian.Uint64(b[i:])
			if m := below(x, 0x20) | equal(x, 0x7f); m != 0 {
				i += bits.TrailingZeros64(m) / 8
				break
			}
		}
		for i < len(b) && class[b[i]]&inValue != 0 {
			i++
			if i+8 <= len(b) {
				break // a tab: go on in big steps
			}
		}
		if i == len(b) || class[b[i]]&inValue == 0 {
			return i
		}
	}
}

// targetEnd returns the index from i on of the first byte that can not be part
// of a target. All that is visible may be, though RFC 3986 knows fewer:
// browsers send more, and services live with it. But "#" is never sent, and
// parsers differ about what it is (CVE-2023-45539).
func targetEnd(b []byte, i int) int {
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		if m := below(x, 0x21) | equal(x, 0x7f) | equal(x, '#') | x&high; m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for i < len(b) && class[b[i]]&inTarget != 0 {
		i++
	}
	return i
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' }

// trimSpaceRight cuts optional whitespace from the end.
func trimSpaceRight(b []byte) []byte {
	for len(b) > 0 && isSpace(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

// equalFold compares ASCII without regard to case.
func equalFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c |= 0x20
	}
	return c
}
