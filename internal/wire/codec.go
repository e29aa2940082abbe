package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A codec walks over the fields of a message in ascending order of tags, and
// writes them or fills them in. A message is described once, by the order of
// its calls, so that reading and writing cannot drift apart.
type codec interface {
	uint16(tag uint64, v *uint16)
	uint32(tag uint64, v *uint32)
	uint64(tag uint64, v *uint64)
	text(tag uint64, v *string, most int)
	list(tag uint64, v *[]string)
	id(tag uint64, v *[16]byte)
	key(tag uint64, v *[32]byte)
	addr(tag uint64, v *netip.AddrPort)
}

// An encoder writes fields that are not zero.
type encoder struct{ buf []byte }

func (e *encoder) field(tag uint64, value []byte) {
	e.buf = binary.AppendUvarint(e.buf, tag)
	e.buf = binary.AppendUvarint(e.buf, uint64(len(value)))
	e.buf = append(e.buf, value...)
}

func (e *encoder) uint16(tag uint64, v *uint16) { e.int(tag, uint64(*v)) }
func (e *encoder) uint32(tag uint64, v *uint32) { e.int(tag, uint64(*v)) }
func (e *encoder) uint64(tag uint64, v *uint64) { e.int(tag, *v) }

func (e *encoder) int(tag, v uint64) {
	if v != 0 {
		var b [binary.MaxVarintLen64]byte
		e.field(tag, b[:binary.PutUvarint(b[:], v)])
	}
}

func (e *encoder) text(tag uint64, v *string, _ int) {
	if *v != "" {
		e.field(tag, []byte(*v))
	}
}

func (e *encoder) list(tag uint64, v *[]string) {
	if len(*v) == 0 {
		return
	}
	var b []byte
	for _, s := range *v {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	e.field(tag, b)
}

func (e *encoder) id(tag uint64, v *[16]byte) {
	if *v != [16]byte{} {
		e.field(tag, v[:])
	}
}

func (e *encoder) key(tag uint64, v *[32]byte) {
	if *v != [32]byte{} {
		e.field(tag, v[:])
	}
}

// addr writes 4 or 16 bytes of address and 2 of port. A zone means nothing to
// another machine, and is left out.
func (e *encoder) addr(tag uint64, v *netip.AddrPort) {
	if !v.IsValid() {
		return
	}
	b := v.Addr().Unmap().AsSlice()
	e.field(tag, binary.BigEndian.AppendUint16(b, v.Port()))
}

// A decoder fills in fields from rest, and remembers the first thing that is
// wrong with it.
type decoder struct {
	rest    []byte
	last    uint64 // tag of the last field; tags begin at 1
	skipped int    // fields that nobody asked for
	err     error
}

var (
	errOrder   = errors.New("tags do not ascend")
	errCut     = errors.New("field is cut off")
	errVarint  = errors.New("varint is not minimal or too large")
	errZero    = errors.New("zero value is spelled out")
	errLong    = errors.New("field is too long")
	errText    = errors.New("text is not UTF-8 or has control characters")
	errMany    = errors.New("list is too long")
	errAddress = errors.New("not an address and a port")
)

// varint takes a varint from the front of b: the shortest spelling, or none.
func varint(b []byte) (v uint64, rest []byte, err error) {
	v, n := binary.Uvarint(b)
	if n == 0 {
		return 0, nil, errCut
	}
	if n < 0 || n > 1 && b[n-1] == 0 {
		return 0, nil, errVarint
	}
	return v, b[n:], nil
}

// take returns the field at the front, if there is one and its tag is at most
// upTo.
func (d *decoder) take(upTo uint64) (tag uint64, value []byte, ok bool) {
	if d.err != nil || len(d.rest) == 0 {
		return 0, nil, false
	}
	tag, rest, err := varint(d.rest)
	if err == nil && tag <= d.last {
		err = errOrder
	}
	if err != nil {
		d.err = err
		return 0, nil, false
	}
	if tag > upTo {
		return 0, nil, false
	}
	size, rest, err := varint(rest)
	if err == nil && size > uint64(len(rest)) {
		err = errCut
	}
	if err != nil {
		d.err = err
		return 0, nil, false
	}
	d.last, d.rest = tag, rest[size:]
	return tag, rest[:size], true
}

// find returns the value of the field tag, and skips those before it that are
// unknown.
func (d *decoder) find(want uint64) ([]byte, bool) {
	for {
		tag, value, ok := d.take(want)
		if !ok {
			return nil, false
		}
		if tag == want {
			return value, true
		}
		d.skipped++
	}
}

// finish skips the unknown fields at the end.
func (d *decoder) finish() {
	for {
		if _, _, ok := d.take(^uint64(0)); !ok {
			return
		}
		d.skipped++
	}
}

func (d *decoder) fail(tag uint64, err error) { d.err = fmt.Errorf("field %d: %w", tag, err) }

func (d *decoder) uint16(tag uint64, v *uint16) { *v = uint16(d.int(tag, 1<<16-1)) }
func (d *decoder) uint32(tag uint64, v *uint32) { *v = uint32(d.int(tag, 1<<32-1)) }
func (d *decoder) uint64(tag uint64, v *uint64) { *v = d.int(tag, 1<<64-1) }

func (d *decoder) int(tag, most uint64) uint64 {
	value, ok := d.find(tag)
	if !ok {
		return 0
	}
	v, rest, err := varint(value)
	switch {
	case err != nil:
		d.fail(tag, err)
	case len(rest) > 0 || v > most:
		d.fail(tag, errLong)
	case v == 0:
		d.fail(tag, errZero)
	default:
		return v
	}
	return 0
}

func (d *decoder) text(tag uint64, v *string, most int) {
	value, ok := d.find(tag)
	if !ok {
		return
	}
	if err := checkText(value, most); err != nil {
		d.fail(tag, err)
		return
	}
	*v = string(value)
}

func (d *decoder) list(tag uint64, v *[]string) {
	value, ok := d.find(tag)
	if !ok {
		return
	}
	if len(value) == 0 {
		d.fail(tag, errZero)
		return
	}
	var all []string
	for len(value) > 0 {
		size, rest, err := varint(value)
		switch {
		case err != nil:
		case size > uint64(len(rest)):
			err = errCut
		case len(all) == MaxFeatures:
			err = errMany
		default:
			err = checkText(rest[:size], MaxFeature)
		}
		if err != nil {
			d.fail(tag, err)
			return
		}
		all = append(all, string(rest[:size]))
		value = rest[size:]
	}
	*v = all
}

func (d *decoder) id(tag uint64, v *[16]byte)  { d.fixed(tag, v[:]) }
func (d *decoder) key(tag uint64, v *[32]byte) { d.fixed(tag, v[:]) }

// fixed fills v, whose length is the field's, and which is not all zero.
func (d *decoder) fixed(tag uint64, v []byte) {
	value, ok := d.find(tag)
	switch {
	case !ok:
	case len(value) != len(v):
		d.fail(tag, errLong)
	case !slices.ContainsFunc(value, func(b byte) bool { return b != 0 }):
		d.fail(tag, errZero)
	default:
		copy(v, value)
	}
}

func (d *decoder) addr(tag uint64, v *netip.AddrPort) {
	value, ok := d.find(tag)
	if !ok {
		return
	}
	if len(value) < 2 {
		d.fail(tag, errAddress)
		return
	}
	ip, ok := netip.AddrFromSlice(value[:len(value)-2])
	if !ok || ip.Is4In6() { // IPv4 has one spelling: four bytes
		d.fail(tag, errAddress)
		return
	}
	*v = netip.AddrPortFrom(ip, binary.BigEndian.Uint16(value[len(value)-2:]))
}

// checkText refuses what would be trouble later: in a log, or on a terminal,
// where an escape sequence of a hostile peer is a command.
func checkText(b []byte, most int) error {
	switch {
	case len(b) == 0:
		return errZero
	case len(b) > most:
		return errLong
	case !utf8.Valid(b) || strings.ContainsFunc(string(b), unprintable):
		return errText
	}
	return nil
}

func unprintable(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029'
}

// Text makes s fit for a text field of at most most bytes: what a peer would
// refuse is replaced or cut off. It is for words, not for names.
func Text(s string, most int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if unprintable(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}
