package mux

import (
	"errors"
	"fmt"
	"net"
)

// A Code says why a stream or a connection was ended. It travels to the peer.
// Codes below 0x100 belong to this package; applications use the others, up
// to 2^32-1.
type Code uint32

const maxCode = 1<<32 - 1

const (
	CodeNone        Code = 0x00 // ended in order: nothing more to say, or to hear
	CodeRefused     Code = 0x01 // the stream was never looked at; it may be tried elsewhere
	CodeProtocol    Code = 0x02 // a frame that the protocol does not allow
	CodeFlowControl Code = 0x03 // more bytes than there was credit for
	CodeStreamLimit Code = 0x04 // more streams than were allowed
	CodeFrameSize   Code = 0x05 // a frame longer than its type may be
	CodeFinalSize   Code = 0x06 // a stream that changed its mind about where it ends
	CodeFlood       Code = 0x07 // too many frames that carry nothing
	CodeVersion     Code = 0x08 // not this protocol, or not this version of it
	CodeSilent      Code = 0x09 // nothing was heard for too long
	CodeMemory      Code = 0x0a // too much has arrived that nobody reads
)

var codeNames = [...]string{
	CodeNone:        "none",
	CodeRefused:     "refused",
	CodeProtocol:    "protocol violation",
	CodeFlowControl: "flow control violation",
	CodeStreamLimit: "stream limit exceeded",
	CodeFrameSize:   "frame too long",
	CodeFinalSize:   "final size changed",
	CodeFlood:       "flood",
	CodeVersion:     "version not supported",
	CodeSilent:      "peer silent",
	CodeMemory:      "out of memory for what nobody reads",
}

// String names the codes of this package and gives the others as numbers.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("code %#x", uint32(c))
}

// A StreamError ends one stream; the connection lives on.
type StreamError struct {
	Code   Code
	Remote bool // the peer said so; otherwise we did
}

func (e *StreamError) Error() string {
	if e.Remote {
		return "mux: stream reset by peer: " + e.Code.String()
	}
	return "mux: stream reset: " + e.Code.String()
}

// A ConnError ends a connection and every stream on it.
type ConnError struct {
	Code   Code
	Remote bool   // the peer said so; otherwise we did
	Reason string // for a log; never more than 256 bytes when it came from the peer
}

func (e *ConnError) Error() string {
	by := ""
	if e.Remote {
		by = " by peer"
	}
	if e.Reason == "" {
		return "mux: connection closed" + by + ": " + e.Code.String()
	}
	return fmt.Sprintf("mux: connection closed%s: %s: %s", by, e.Code, e.Reason)
}

// Is makes a silent peer recognisable as ErrPeerSilent.
func (e *ConnError) Is(target error) bool {
	return target == ErrPeerSilent && e.Code == CodeSilent && !e.Remote
}

var (
	// ErrClosed is what everything gives after our own Close. It is a
	// net.ErrClosed.
	ErrClosed = fmt.Errorf("mux: connection %w", net.ErrClosed)

	// ErrGoAway is what Open gives when either side has said go-away.
	ErrGoAway = errors.New("mux: going away, no new streams")

	// ErrPeerSilent is how a connection ends whose peer answered no ping in
	// Config.Timeout.
	ErrPeerSilent = errors.New("mux: peer silent")

	// errStreamClosed is what a stream gives after our own Close.
	errStreamClosed = fmt.Errorf("mux: stream %w", net.ErrClosed)

	// errWriteClosed is what Write gives after our own CloseWrite.
	errWriteClosed = errors.New("mux: write after CloseWrite")
)

// violation is our verdict on what a peer sent.
func violation(code Code, format string, args ...any) error {
	return &ConnError{Code: code, Reason: fmt.Sprintf(format, args...)}
}
