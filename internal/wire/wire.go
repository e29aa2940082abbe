// Package wire is what an agent and a node say to each other: the first words
// on a connection, the messages of the control stream, and the head of every
// stream that carries a visitor.
//
// On every connection the agent speaks first, before there is a mux: Hello, if
// it begins a session, or Join, if the connection is to be one more lane of a
// session that lives. The node answers Welcome or Joined, or Refused and hangs
// up; only then do both begin the mux, so that a stranger never speaks it.
// In a new session the agent opens the first stream, the control stream. There
// it sends Bind and Unbind, and the node Bound, Refused, Unbound and Drain, in
// any order. Every other stream is opened by the node, begins with one Visit,
// and after that carries the visitor's bytes as they are.
//
// A message is a type byte, a length of three bytes (big endian, at most
// [MaxBody]) and a body. A body is a row of fields: tag, length, value; tags
// and lengths are unsigned varints, tags only ascend, and a field that has its
// zero value is left out. So there is exactly one spelling for every message,
// and any other is refused. Tags and message types of a newer peer are skipped,
// which is how the protocol grows: a new field is a new tag that an old peer
// may ignore, and anything it may not ignore is a feature, agreed upon in Hello
// and Welcome.
//
// testdata holds golden vectors for implementations in other languages. The
// package keeps no state, starts nothing, and knows nothing of connections:
// deadlines belong to the caller.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// Version is the protocol version that this package speaks.
const Version = 1

// ALPN is the protocol name by which an agent announces itself in TLS
// (RFC 7301), and Subprotocol the one it asks for in a WebSocket handshake
// (RFC 6455, section 1.9) on Path, where only HTTP passes.
const (
	ALPN        = "culvert/1"
	Subprotocol = "culvert.1"
	Path        = "/connect"
)

// Type is the first byte of a message.
type Type uint8

// The messages. Comments list tag, field and kind: an int is an unsigned
// varint in as few bytes as possible, text is UTF-8 without control characters,
// a list is a row of length-prefixed texts.
const (
	TypeHello   Type = 0x01 // agent→node: 1 version int16, 2 features list, 3 agent 16 bytes, 4 token text, 5 software text
	TypeWelcome Type = 0x02 // node→agent: 1 version int16, 2 features list, 3 session 16 bytes, 4 domain text, 5 software text, 6 secret 32 bytes, 7 resume ms int32
	TypeBind    Type = 0x03 // agent→node: 1 request int32, 2 name text, 3 host header text, 4 http int16, 5 service timeout, 6 silence (both: ms int32), 7 takeover int16
	TypeBound   Type = 0x04 // node→agent: 1 request int32, 2 name text, 3 url text, 4 epoch int64
	TypeRefused Type = 0x05 // node→agent: 1 request int32 (0 = the session), 2 code int16, 3 reason text, 4 retry after ms int32
	TypeUnbind  Type = 0x06 // agent→node: 1 request int32
	TypeUnbound Type = 0x07 // node→agent: 1 request int32, 2 code int16, 3 reason text
	TypeDrain   Type = 0x08 // node→agent: 1 deadline ms int32, 2 retry after ms int32
	TypeJoin    Type = 0x09 // agent→node: 1 version int16, 2 session 16 bytes, 3 lane int64, 4 token text, 5 proof 32 bytes
	TypeJoined  Type = 0x0a // node→agent: no fields
	TypeVisit   Type = 0x10 // node→agent, head of a stream: 1 request int32, 2 visit text, 3 visitor 6 or 18 bytes (address, port)
)

// What a peer may say at most. Everything else is refused before a byte of it
// is stored.
const (
	MaxBody     = 16 << 10 // bytes in the body of a message
	MaxFirst    = 4 << 10  // bytes in the body of the first one on a connection
	MaxName     = 255
	MaxHost     = 255
	MaxToken    = 512
	MaxSoftware = 128
	MaxReason   = 512
	MaxURL      = 1024
	MaxVisitID  = 64
	MaxFeatures = 32 // entries
	MaxFeature  = 64 // bytes in one of them
)

const headSize = 4

// A Message is one of the pointer types of this package.
type Message interface {
	Type() Type
	fields(codec) // in ascending order of tags; the one definition for both directions
}

// Hello is the first thing an agent says.
type Hello struct {
	Version  uint16   // the highest that the agent speaks
	Features []string // what it can do beyond that version
	Agent    [16]byte // this run of the agent: the same in all its sessions, random
	Token    Secret   // who it is
	Software string   // for people, as "culvert/1.2.3"
}

// Welcome admits an agent.
type Welcome struct {
	Version  uint16   // the one to speak: at most the agent's
	Features []string // those of the agent's that the node agrees to
	Session  [16]byte // this stay, for the logs of both sides
	Domain   string   // names are NAME.Domain
	Software string
	Secret   Key    // proves further lanes, see Proof; never sent again
	Resume   uint32 // milliseconds for which the node keeps the session without a lane; 0: not at all
}

// Join asks that this connection be a lane of a session that lives.
type Join struct {
	Version uint16
	Session [16]byte
	Lane    uint64 // higher than that of every Join before in this session, also of those without answer
	Token   Secret // the token of the session, or another spelling of the same
	Proof   [32]byte
}

// Joined takes the connection as a lane.
type Joined struct{}

// Bind asks for a tunnel.
type Bind struct {
	Request    uint32 // chosen by the agent, not 0, never used twice in a session
	Name       string // empty: a random name
	HostHeader string // Host for the service; empty: the visitor's own

	HTTP           HTTP    // what the service speaks
	ServiceTimeout Timeout // for the head of the service's answer
	Silence        Timeout // for both sides together, while a request is passed on

	Takeover Takeover // if another agent of the owner has the name
}

// Bound says that visitors of URL are sent to the agent from now on.
type Bound struct {
	Request uint32
	Name    string
	URL     string
	Epoch   uint64
}

// Refused answers a Bind, or ends the session when Request is 0.
type Refused struct {
	Request    uint32
	Code       Code
	Reason     string // one line for people
	RetryAfter uint32 // milliseconds before it makes sense to ask again
}

// Unbind lets go of a tunnel. Its streams live on.
type Unbind struct {
	Request uint32
}

// Unbound says that the agent has lost a tunnel.
type Unbound struct {
	Request uint32
	Code    Code
	Reason  string
}

// Drain says that the node is about to leave, and binds nothing any more. The
// agent connects anew and stays here as well: streams come for visitors who had
// come before, until the node hangs up, after Deadline at the latest.
type Drain struct {
	Deadline   uint32 // milliseconds from now
	RetryAfter uint32 // milliseconds before it makes sense to come back
}

// Visit is the head of a stream: whose it is.
type Visit struct {
	Request uint32         // the Bind that this visitor's tunnel came from
	ID      string         // the same in the logs of both sides
	Remote  netip.AddrPort // the visitor; zero if it is not known
}

func (*Hello) Type() Type   { return TypeHello }
func (*Welcome) Type() Type { return TypeWelcome }
func (*Bind) Type() Type    { return TypeBind }
func (*Bound) Type() Type   { return TypeBound }
func (*Refused) Type() Type { return TypeRefused }
func (*Unbind) Type() Type  { return TypeUnbind }
func (*Unbound) Type() Type { return TypeUnbound }
func (*Drain) Type() Type   { return TypeDrain }
func (*Join) Type() Type    { return TypeJoin }
func (*Joined) Type() Type  { return TypeJoined }
func (*Visit) Type() Type   { return TypeVisit }

func (m *Hello) fields(c codec) {
	c.uint16(1, &m.Version)
	c.list(2, &m.Features)
	c.id(3, &m.Agent)
	c.text(4, (*string)(&m.Token), MaxToken)
	c.text(5, &m.Software, MaxSoftware)
}

func (m *Welcome) fields(c codec) {
	c.uint16(1, &m.Version)
	c.list(2, &m.Features)
	c.id(3, &m.Session)
	c.text(4, &m.Domain, MaxHost)
	c.text(5, &m.Software, MaxSoftware)
	c.key(6, (*[32]byte)(&m.Secret))
	c.uint32(7, &m.Resume)
}

func (m *Join) fields(c codec) {
	c.uint16(1, &m.Version)
	c.id(2, &m.Session)
	c.uint64(3, &m.Lane)
	c.text(4, (*string)(&m.Token), MaxToken)
	c.key(5, &m.Proof)
}

func (m *Joined) fields(codec) {}

func (m *Bind) fields(c codec) {
	c.uint32(1, &m.Request)
	c.text(2, &m.Name, MaxName)
	c.text(3, &m.HostHeader, MaxHost)
	c.uint16(4, (*uint16)(&m.HTTP))
	c.uint32(5, (*uint32)(&m.ServiceTimeout))
	c.uint32(6, (*uint32)(&m.Silence))
	c.uint16(7, (*uint16)(&m.Takeover))
}

func (m *Bound) fields(c codec) {
	c.uint32(1, &m.Request)
	c.text(2, &m.Name, MaxName)
	c.text(3, &m.URL, MaxURL)
	c.uint64(4, &m.Epoch)
}

func (m *Refused) fields(c codec) {
	c.uint32(1, &m.Request)
	c.uint16(2, (*uint16)(&m.Code))
	c.text(3, &m.Reason, MaxReason)
	c.uint32(4, &m.RetryAfter)
}

func (m *Unbind) fields(c codec) { c.uint32(1, &m.Request) }

func (m *Unbound) fields(c codec) {
	c.uint32(1, &m.Request)
	c.uint16(2, (*uint16)(&m.Code))
	c.text(3, &m.Reason, MaxReason)
}

func (m *Drain) fields(c codec) {
	c.uint32(1, &m.Deadline)
	c.uint32(2, &m.RetryAfter)
}

func (m *Visit) fields(c codec) {
	c.uint32(1, &m.Request)
	c.text(2, &m.ID, MaxVisitID)
	c.addr(3, &m.Remote)
}

// blank returns an empty message of type t, or nil if we know none.
func blank(t Type) Message {
	switch t {
	case TypeHello:
		return new(Hello)
	case TypeWelcome:
		return new(Welcome)
	case TypeBind:
		return new(Bind)
	case TypeBound:
		return new(Bound)
	case TypeRefused:
		return new(Refused)
	case TypeUnbind:
		return new(Unbind)
	case TypeUnbound:
		return new(Unbound)
	case TypeDrain:
		return new(Drain)
	case TypeJoin:
		return new(Join)
	case TypeJoined:
		return new(Joined)
	case TypeVisit:
		return new(Visit)
	}
	return nil
}

// Errors of [Parse] and [Read]. An error that wraps ErrMalformed means that the
// peer does not speak our protocol, and that nothing more should be read from it.
var (
	ErrMalformed  = errors.New("malformed message")
	ErrIncomplete = errors.New("incomplete message") // Parse needs more bytes
)

// Append appends m to dst. It does not look at limits: [Write] does.
func Append(dst []byte, m Message) []byte {
	at := len(dst)
	e := encoder{buf: append(dst, byte(m.Type()), 0, 0, 0)}
	m.fields(&e)
	putLength(e.buf[at:], len(e.buf)-at-headSize)
	return e.buf
}

// Parse reads the message at the beginning of b and returns how many bytes it
// took. A message of a type that we do not know is (nil, n, nil): skip it.
func Parse(b []byte) (Message, int, error) {
	m, n, _, err := parse(b)
	return m, n, err
}

// parse is Parse, and says how many unknown fields it skipped.
func parse(b []byte) (m Message, n, skipped int, err error) {
	if len(b) < headSize {
		return nil, 0, 0, ErrIncomplete
	}
	size, err := length(b, MaxBody)
	if err != nil {
		return nil, 0, 0, err
	}
	n = headSize + size
	if len(b) < n {
		return nil, 0, 0, ErrIncomplete
	}
	m = blank(Type(b[0]))
	if m == nil {
		return nil, n, 0, nil
	}
	d := decoder{rest: b[headSize:n]}
	m.fields(&d)
	d.finish()
	if d.err != nil {
		return nil, 0, 0, fmt.Errorf("%w: type %#02x: %w", ErrMalformed, b[0], d.err)
	}
	return m, n, d.skipped, nil
}

// Read reads the next message that we know from r, and not a byte beyond it.
// The error is io.EOF only between two messages.
func Read(r io.Reader) (Message, error) {
	for {
		m, err := read(r, MaxBody)
		if m != nil || err != nil {
			return m, err
		}
	}
}

// ReadFirst reads the first message on a connection, before there is a mux, and
// not a byte beyond it. Nobody has proved anything yet, so it takes no more
// than MaxFirst, and skips nothing: one that we do not know is malformed.
func ReadFirst(r io.Reader) (Message, error) {
	m, err := read(r, MaxFirst)
	if m == nil && err == nil {
		err = fmt.Errorf("%w: not a first message", ErrMalformed)
	}
	return m, err
}

// read reads one message; nil for one that we do not know.
func read(r io.Reader, most int) (Message, error) {
	var head [headSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size, err := length(head[:], most)
	if err != nil {
		return nil, err
	}
	b := make([]byte, headSize+size) // at most 16 KiB, whatever a stranger says
	copy(b, head[:])
	if _, err := io.ReadFull(r, b[headSize:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	m, _, err := Parse(b)
	return m, err
}

// Write writes m to w in one call. It refuses, and writes nothing, when the
// peer would have to refuse m.
func Write(w io.Writer, m Message) error {
	b := Append(nil, m)
	if _, _, err := Parse(b); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}

// length returns the length of the body that a head announces.
func length(head []byte, most int) (int, error) {
	n := int(binary.BigEndian.Uint32(head) & 0xffffff)
	if n > most {
		return 0, fmt.Errorf("%w: body of %d bytes", ErrMalformed, n)
	}
	return n, nil
}

// putLength fills in the length behind the type byte. A body beyond 24 bits
// cannot be announced; it becomes one that is refused everywhere.
func putLength(head []byte, n int) {
	n = min(n, 0xffffff)
	head[1], head[2], head[3] = byte(n>>16), byte(n>>8), byte(n)
}
