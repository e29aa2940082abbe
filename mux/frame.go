package mux

import (
	"encoding/binary"
	"fmt"
)

// preface opens each direction of a connection: seven letters and the version
// of the protocol. It is followed by frames, the first of which is settings.
const preface = "culvmux\x01"

// A frame is a type byte, the length of its body in two bytes, and the body.
// Numbers in a body are the variable-length integers of RFC 9000, section 16,
// in their shortest spelling: there is one way to write a frame.
//
// All limits and offsets are absolute, so that a frame may be sent twice, or
// late, and means the same.
const (
	frameData         = 0x00 // stream, offset of the first byte, the bytes
	frameDataFin      = 0x01 // the same, and nothing follows on this stream
	frameReset        = 0x02 // stream, code, final offset: the sender's direction is cut there
	frameStop         = 0x03 // stream, code: the sender of this frame reads no more
	frameStreamCredit = 0x04 // stream, offset up to which the receiver of this frame may send
	frameBlocked      = 0x05 // stream, offset at which its sender waits for credit
	frameCredit       = 0x06 // bytes that may be sent on all streams together, ever
	frameStreams      = 0x07 // streams that may be opened, ever
	framePing         = 0x08 // a number to be returned
	framePong         = 0x09 // that number
	frameGoAway       = 0x0a // how many of the receiver's streams were and will be taken
	frameClose        = 0x0b // code, reason in text: the connection has ended
	frameSettings     = 0x0c // pairs of id and value
	frameAck          = 0x0d // bytes of this lane that were taken, by a receiver whose peer keeps them
	frameLane         = 0x0e // the number of this lane: opens every lane but the first
	frameLeave        = 0x0f // lane, bytes: a lane was given up, and so much of it was taken

	// Types from here on belong to extensions. Whoever does not know one
	// skips it.
	frameExtension = 0x40
)

const (
	frameHeader = 3

	// maxPayload is how many bytes of a stream one frame may carry.
	maxPayload = 16 << 10

	// maxPrefix is the longest stream id and offset.
	maxPrefix = 16

	// maxSmallBody bounds every frame that is not data.
	maxSmallBody = 1 << 10

	// maxReason bounds the text of frameClose.
	maxReason = 256

	// maxVarint is the largest number that a frame can say.
	maxVarint = 1<<62 - 1
)

// Ids of settings, which stand in rising order. Unknown ones are ignored.
const (
	settingStreamCredit = 0x01 // the credit with which each stream begins
	settingCredit       = 0x02 // the credit with which the connection begins
	settingStreams      = 0x03 // streams that the receiver may open at first
	settingKeep         = 0x04 // bytes that the sender keeps until they are acknowledged
)

// Until the peer's settings have arrived, these are what they are known to
// be at least: nobody may announce less.
const (
	floorStreamCredit = 16 << 10
	floorCredit       = 64 << 10
	floorStreams      = 16
)

// settings are what a peer announces when a connection begins.
type settings struct {
	streamCredit uint64
	credit       uint64
	streams      uint64
	keep         uint64 // 0 is not said
}

var floorSettings = settings{floorStreamCredit, floorCredit, floorStreams, 0}

// frame is a frame of any type, taken apart. Which fields count depends on
// kind; see the constants.
type frame struct {
	kind   byte
	stream uint64 // or the lane, of leave
	offset uint64 // of data: the first byte; of reset: the final offset
	value  uint64 // the limit, the code or the number
	data   []byte // of data, close and settings; points into what was read
}

// appendFrame writes f to the end of dst.
func appendFrame(dst []byte, f frame) []byte {
	at := len(dst)
	dst = append(dst, f.kind, 0, 0)
	switch f.kind {
	case frameData, frameDataFin:
		dst = appendVarint(dst, f.stream)
		dst = appendVarint(dst, f.offset)
		dst = append(dst, f.data...)
	case frameReset:
		dst = appendVarint(dst, f.stream)
		dst = appendVarint(dst, f.value)
		dst = appendVarint(dst, f.offset)
	case frameStop, frameStreamCredit, frameBlocked, frameLeave:
		dst = appendVarint(dst, f.stream)
		dst = appendVarint(dst, f.value)
	case frameCredit, frameStreams, framePing, framePong, frameGoAway, frameAck, frameLane:
		dst = appendVarint(dst, f.value)
	case frameClose:
		dst = appendVarint(dst, f.value)
		dst = append(dst, f.data...)
	default:
		dst = append(dst, f.data...)
	}
	binary.BigEndian.PutUint16(dst[at+1:], uint16(len(dst)-at-frameHeader))
	return dst
}

// checkHeader says whether a body of n bytes can be of type kind, before a
// byte of it is read.
func checkHeader(kind byte, n int) error {
	limit := maxSmallBody
	if kind <= frameDataFin {
		limit = maxPayload + maxPrefix
	}
	if n > limit {
		return violation(CodeFrameSize, "frame type %#02x of %d bytes, at most %d", kind, n, limit)
	}
	if kind > frameLeave && kind < frameExtension {
		return violation(CodeProtocol, "frame type %#02x is unknown", kind)
	}
	return nil
}

// parseFrame takes apart a whole body. Its result points into body.
func parseFrame(kind byte, body []byte) (frame, error) {
	f := frame{kind: kind}
	if err := checkHeader(kind, len(body)); err != nil {
		return f, err
	}
	if kind >= frameExtension {
		f.data = body
		return f, nil
	}
	p := parser{rest: body}
	switch kind {
	case frameData, frameDataFin:
		f.stream, f.offset = p.varint(), p.varint()
		f.data, p.rest = p.rest, nil
		if len(f.data) > maxPayload {
			return f, violation(CodeFrameSize, "%d bytes of data in a frame", len(f.data))
		}
	case frameReset:
		f.stream, f.value, f.offset = p.varint(), p.varint(), p.varint()
	case frameStop, frameStreamCredit, frameBlocked, frameLeave:
		f.stream, f.value = p.varint(), p.varint()
	case frameCredit, frameStreams, framePing, framePong, frameGoAway, frameAck, frameLane:
		f.value = p.varint()
	case frameClose:
		f.value = p.varint()
		f.data, p.rest = p.rest, nil
		if len(f.data) > maxReason {
			return f, violation(CodeFrameSize, "%d bytes of reason", len(f.data))
		}
	case frameSettings:
		f.data, p.rest = p.rest, nil
	}
	if p.bad || len(p.rest) > 0 {
		return f, violation(CodeProtocol, "malformed frame of type %#02x", kind)
	}
	if (kind == frameReset || kind == frameStop || kind == frameClose) && f.value > maxCode {
		return f, violation(CodeProtocol, "code %d is out of range", f.value)
	}
	return f, nil
}

// parseDataPrefix takes stream and offset from the beginning of a data frame
// whose payload has not arrived yet. It returns how long they were.
func parseDataPrefix(body []byte) (stream, offset uint64, n int, err error) {
	p := parser{rest: body}
	stream, offset = p.varint(), p.varint()
	if p.bad {
		return 0, 0, 0, violation(CodeProtocol, "malformed frame of data")
	}
	return stream, offset, len(body) - len(p.rest), nil
}

// appendSettings writes s as the body of a settings frame.
func appendSettings(dst []byte, s settings) []byte {
	for _, pair := range [...][2]uint64{
		{settingStreamCredit, s.streamCredit},
		{settingCredit, s.credit},
		{settingStreams, s.streams},
		{settingKeep, s.keep},
	} {
		if pair[0] == settingKeep && pair[1] == 0 {
			continue
		}
		dst = appendVarint(dst, pair[0])
		dst = appendVarint(dst, pair[1])
	}
	return dst
}

// parseSettings reads the body of a settings frame. What is not said has its
// floor, and nothing may be below it.
func parseSettings(body []byte) (settings, error) {
	s := floorSettings
	p := parser{rest: body}
	for last := uint64(0); len(p.rest) > 0; {
		id, value := p.varint(), p.varint()
		if p.bad {
			return s, violation(CodeProtocol, "malformed settings")
		}
		if id <= last {
			return s, violation(CodeProtocol, "setting %d stands behind %d", id, last)
		}
		last = id
		var field *uint64
		switch id {
		case settingStreamCredit:
			field = &s.streamCredit
		case settingCredit:
			field = &s.credit
		case settingStreams:
			field = &s.streams
		case settingKeep:
			field = &s.keep
		default:
			continue // of a newer peer
		}
		if value < *field {
			return s, violation(CodeProtocol, "setting %d is %d, below its floor of %d", id, value, *field)
		}
		*field = value
	}
	return s, nil
}

// parser takes numbers from the front of rest. After a mistake it gives zeros
// and bad is set, so that callers check once.
type parser struct {
	rest []byte
	bad  bool
}

// varint reads one number: RFC 9000, section 16, and its shortest spelling
// only.
func (p *parser) varint() uint64 {
	b := p.rest
	if len(b) == 0 {
		p.bad = true
		return 0
	}
	n := 1 << (b[0] >> 6)
	if len(b) < n {
		p.bad, p.rest = true, nil
		return 0
	}
	p.rest = b[n:]
	switch n {
	case 1:
		return uint64(b[0])
	case 2:
		v := uint64(binary.BigEndian.Uint16(b)) & (1<<14 - 1)
		p.bad = p.bad || v < 1<<6
		return v
	case 4:
		v := uint64(binary.BigEndian.Uint32(b)) & (1<<30 - 1)
		p.bad = p.bad || v < 1<<14
		return v
	default:
		v := binary.BigEndian.Uint64(b) & (1<<62 - 1)
		p.bad = p.bad || v < 1<<30
		return v
	}
}

// appendVarint writes v, which is at most maxVarint.
func appendVarint(dst []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(dst, byte(v))
	case v < 1<<14:
		return binary.BigEndian.AppendUint16(dst, uint16(v)|1<<14)
	case v < 1<<30:
		return binary.BigEndian.AppendUint32(dst, uint32(v)|2<<30)
	case v <= maxVarint:
		return binary.BigEndian.AppendUint64(dst, v|3<<62)
	}
	panic(fmt.Sprintf("BUG: %d does not fit a frame", v))
}
