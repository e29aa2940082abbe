//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package handover

import (
	"context"
	"errors"
	"io"
	"time"
)

// Here nothing is passed on.

type Predecessor struct{}

func (*Predecessor) Hello(context.Context) (Hello, error) { return Hello{}, errors.ErrUnsupported }
func (*Predecessor) Data(context.Context) error           { return errors.ErrUnsupported }
func (*Predecessor) Ready(context.Context, string) error  { return errors.ErrUnsupported }
func (*Predecessor) Revoked(string)                       {}
func (*Predecessor) Close() error                         { return nil }
func Inherit(Variables) (*Inherited, error)               { return nil, nil }
func monotonic() time.Duration                            { return 0 }

type Program struct {
	Path      string
	Args, Env []string
	Sockets   []Socket
	Hello     Hello
	Stderr    io.Writer
	StderrFD  int
}

type Successor struct{}

func Start(Program) (*Successor, error)                 { return nil, errors.ErrUnsupported }
func (*Successor) PID() int                             { return 0 }
func (*Successor) Software() string                     { return "" }
func (*Successor) AwaitData(context.Context) error      { return errors.ErrUnsupported }
func (*Successor) GiveData() error                      { return errors.ErrUnsupported }
func (*Successor) AwaitReady(context.Context) error     { return errors.ErrUnsupported }
func (*Successor) Main()                                {}
func (*Successor) Follow(context.Context, func(string)) {}
func (*Successor) Abort()                               {}
