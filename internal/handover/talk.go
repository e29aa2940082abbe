package handover

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// What the two say to one another, a line of JSON each:
//
//	predecessor                    successor
//	  hello {listen, …} ───▶            what of the sockets was for what
//	      ◀─── data                     nothing is wrong that can be seen without the data
//	  data ───▶                         the directory is free
//	      ◀─── ready {software}         sockets are served
//	  main ───▶                         and nobody else does it any more
//	      ◀─── revoked {token}          any time from then on
//
// If the line breaks before ready, it was for nothing, and the predecessor goes
// on. If it breaks and the predecessor has gone, the successor goes on alone.
const (
	sayHello   = "hello"
	sayData    = "data"
	sayReady   = "ready"
	sayMain    = "main"
	sayRevoked = "revoked"
)

type message struct {
	Say      string `json:"say"`
	Hello    *Hello `json:"hello,omitempty"`
	Software string `json:"software,omitempty"`
	Token    string `json:"token,omitempty"`
}

// Hello is how the sockets came to be: a successor with other settings opens
// its own.
type Hello struct {
	Listen    string   `json:"listen"`
	HTTP      string   `json:"http"`
	Data      string   `json:"data"`
	Activated []string `json:"activated,omitempty"` // names of those from the system, whatever the settings say
}

// maxMessage bounds a line, in bytes.
const maxMessage = 64 << 10

// errBroken means that the other one has ended, or is out of its mind.
var errBroken = errors.New("the line is broken")

// A talk is one end of the line. One goroutine reads.
type talk struct {
	conn net.Conn
	in   *bufio.Reader
}

func newTalk(c net.Conn) *talk { return &talk{c, bufio.NewReaderSize(c, maxMessage)} }

func (t *talk) say(m message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	t.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err = t.conn.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	return nil
}

// hear waits for a message, or for the end of ctx.
func (t *talk) hear(ctx context.Context, want string) (m message, err error) {
	t.conn.SetReadDeadline(time.Time{})
	defer context.AfterFunc(ctx, func() { t.conn.SetReadDeadline(time.Unix(1, 0)) })()
	b, err := t.in.ReadSlice('\n')
	switch {
	case err != nil && ctx.Err() != nil:
		return m, context.Cause(ctx)
	case errors.Is(err, io.EOF):
		return m, errBroken
	case err != nil:
		return m, fmt.Errorf("%w: %w", errBroken, err)
	}
	if err := json.Unmarshal(b, &m); err != nil || m.Say != want {
		return m, fmt.Errorf("%w: it says %.100q; want %s", errBroken, b, want)
	}
	return m, nil
}
