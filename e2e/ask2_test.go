package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// A speaker2 speaks HTTP/2, frame by frame, on one stream after the other. It
// is for one goroutine.
type speaker2 struct {
	c     net.Conn
	head  bytes.Buffer
	enc   *hpack.Encoder
	dec   *hpack.Decoder
	peer  map[uint16]uint32 // the edge's settings
	last  uint32            // id of the newest stream
	room  int               // bytes we may still send on the connection,
	own   int               // and on the newest stream
	queue []frame           // of the newest stream, not yet taken
}

// A frame is HEADERS, DATA or RST_STREAM, as far as visitors care.
type frame struct {
	fields []field // nil unless HEADERS
	data   []byte
	end    bool
	reset  string
}

// What RFC 9113 numbers, as far as it is needed here: frame types in section
// 6, their flags, and settings in section 6.5.2.
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	frameReset        = 0x3
	frameSettings     = 0x4
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindow       = 0x8
	frameContinuation = 0x9

	flagAck        = 0x1
	flagEndStream  = 0x1
	flagEndHeaders = 0x4

	settingEnablePush    = 0x2
	settingInitialWindow = 0x4
	settingConnect       = 0x8 // RFC 8441, section 3

	maxFrame = 16 << 10
)

func newSpeaker2(c net.Conn) (*speaker2, error) {
	s := &speaker2{c: c, peer: map[uint16]uint32{}, room: 65535, dec: hpack.NewDecoder(4096, nil)}
	s.enc = hpack.NewEncoder(&s.head)
	if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"); err != nil {
		return nil, err
	}
	if err := s.write(frameSettings, 0, 0, []byte{0, settingEnablePush, 0, 0, 0, 0}); err != nil {
		return nil, err
	}
	for len(s.peer) == 0 { // whoever sends no settings at all is not tested with this
		if err := s.step(); err != nil {
			return nil, fmt.Errorf("settings: %w", err)
		}
	}
	return s, nil
}

func (s *speaker2) write(kind, flags byte, id uint32, payload []byte) error {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	b = binary.BigEndian.AppendUint32(append(b, flags), id)
	_, err := s.c.Write(append(b, payload...))
	return err
}

func (s *speaker2) read() (kind, flags byte, id uint32, payload []byte, err error) {
	var b [9]byte
	if _, err = io.ReadFull(s.c, b[:]); err != nil {
		return
	}
	payload = make([]byte, binary.BigEndian.Uint32(b[:4])>>8)
	_, err = io.ReadFull(s.c, payload)
	return b[3], b[4], binary.BigEndian.Uint32(b[5:]) & (1<<31 - 1), payload, err
}

// step reads one frame, and does what it asks for. The edge, we know, neither
// pads frames nor gives priorities.
func (s *speaker2) step() error {
	kind, flags, id, payload, err := s.read()
	if err != nil {
		return err
	}
	switch kind {
	case frameSettings:
		if flags&flagAck != 0 {
			return nil
		}
		for set := range slices.Chunk(payload, 6) {
			s.peer[binary.BigEndian.Uint16(set)] = binary.BigEndian.Uint32(set[2:])
		}
		return s.write(frameSettings, flagAck, 0, nil)
	case framePing:
		if flags&flagAck == 0 {
			return s.write(framePing, flagAck, 0, payload)
		}
	case frameWindow:
		if id == 0 {
			s.room += int(binary.BigEndian.Uint32(payload))
		} else if id == s.last {
			s.own += int(binary.BigEndian.Uint32(payload))
		}
	case frameHeaders:
		for flags&flagEndHeaders == 0 { // nothing comes between (section 6.2)
			_, more, _, block, err := s.read()
			if err != nil {
				return err
			}
			flags |= more & flagEndHeaders
			payload = append(payload, block...)
		}
		decoded, err := s.dec.DecodeFull(payload)
		if err != nil {
			return err
		}
		f := frame{fields: []field{}, end: flags&flagEndStream != 0}
		for _, hf := range decoded {
			f.fields = append(f.fields, field{hf.Name, hf.Value})
		}
		s.arrived(id, f)
	case frameData:
		if n := len(payload); n > 0 {
			credit := binary.BigEndian.AppendUint32(nil, uint32(n))
			s.write(frameWindow, 0, 0, credit)
			s.write(frameWindow, 0, id, credit) // of a stream that may have ended: that is allowed
		}
		s.arrived(id, frame{data: payload, end: flags&flagEndStream != 0})
	case frameReset:
		s.arrived(id, frame{end: true, reset: fmt.Sprintf("RST_STREAM %d", binary.BigEndian.Uint32(payload))})
	case frameGoAway:
		if code := binary.BigEndian.Uint32(payload[4:]); code != 0 {
			return fmt.Errorf("GOAWAY %d", code)
		}
	}
	return nil
}

func (s *speaker2) arrived(id uint32, f frame) {
	if id == s.last {
		s.queue = append(s.queue, f)
	}
}

// next returns the next frame of the newest stream.
func (s *speaker2) next() (frame, error) {
	for len(s.queue) == 0 {
		if err := s.step(); err != nil {
			return frame{}, err
		}
	}
	f := s.queue[0]
	s.queue = s.queue[1:]
	return f, nil
}

// open begins a stream with HEADERS that say exactly fields.
func (s *speaker2) open(fields []field, end bool) error {
	if s.last == 0 {
		s.last = 1
	} else {
		s.last += 2
	}
	s.queue, s.own = nil, 65535
	if w, ok := s.peer[settingInitialWindow]; ok {
		s.own = int(w)
	}
	return s.headers(fields, end)
}

func (s *speaker2) headers(fields []field, end bool) error {
	s.head.Reset()
	for _, f := range fields {
		s.enc.WriteField(hpack.HeaderField{Name: strings.ToLower(f.name), Value: f.value})
	}
	kind, flags := byte(frameHeaders), byte(0)
	if end {
		flags = flagEndStream
	}
	for block := s.head.Bytes(); ; kind, flags = frameContinuation, 0 {
		n := min(len(block), maxFrame)
		if n == len(block) {
			flags |= flagEndHeaders
		}
		if err := s.write(kind, flags, s.last, block[:n]); err != nil || n == len(block) {
			return err
		}
		block = block[n:]
	}
}

// data sends b on the newest stream, as its windows allow.
func (s *speaker2) data(b []byte, end bool) error {
	for {
		n := min(len(b), s.room, s.own, maxFrame)
		if n == 0 && len(b) > 0 {
			if err := s.step(); err != nil {
				return err
			}
			continue
		}
		s.room, s.own = s.room-n, s.own-n
		flags := byte(0)
		if end && n == len(b) {
			flags = flagEndStream
		}
		if err := s.write(frameData, flags, s.last, b[:n]); err != nil {
			return err
		}
		if b = b[n:]; len(b) == 0 {
			return nil
		}
	}
}

// pseudo is the fields that say what is asked (RFC 9113, section 8.3.1).
func (q ask) pseudo(host string) []field {
	method := q.method
	if method == "" {
		method = "GET"
	}
	return slices.Concat([]field{
		{":method", method}, {":scheme", "https"}, {":authority", host}, {":path", q.target},
	}, q.fields)
}

func (s *speaker2) exchange(host string, q ask) (*heard, error) {
	fields := q.pseudo(host)
	hasBody := q.body != "" || q.trailers != nil || q.chunked
	if q.body != "" && q.trailers == nil && !q.chunked {
		fields = append(fields, field{"content-length", strconv.Itoa(len(q.body))})
	}
	if err := s.open(fields, !hasBody); err != nil {
		return nil, err
	}
	if hasBody {
		if err := s.data([]byte(q.body), q.trailers == nil); err != nil {
			return nil, err
		}
	}
	if q.trailers != nil {
		if err := s.headers(q.trailers, true); err != nil {
			return nil, err
		}
	}
	return s.hear()
}

// hear reads an answer to its end.
func (s *speaker2) hear() (*heard, error) {
	h := new(heard)
	for {
		f, err := s.next()
		if err != nil {
			return h, err
		}
		h.body += string(f.data)
		h.reset = f.reset
		switch {
		case f.fields == nil:
		case h.status == 0:
			h.take(f.fields)
		default:
			h.trailers = f.fields
		}
		if f.end {
			return h, nil
		}
	}
}

// take takes in the fields of an answer, or of an interim one.
func (h *heard) take(fields []field) {
	status, _ := strconv.Atoi(fields[0].value) // :status is the first, and alone
	if status < 200 {
		h.interim, h.hints = append(h.interim, status), fields[1:]
		return
	}
	h.status, h.fields = status, fields[1:]
}
