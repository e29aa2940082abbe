package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvertd/culvert/internal/admin"
	"github.com/culvertd/culvert/internal/handover"
	"github.com/culvertd/culvert/internal/server"
)

// upgradeTime is how long a new process may take until it serves.
const upgradeTime = 30 * time.Second

// A service is a node among the programs of a machine: it takes sockets from
// whoever has opened them, tells systemd how it is, obeys signals, and starts
// its own successor.
type service struct {
	cli   *cli
	cfg   server.Config
	node  *server.Node
	log   *slog.Logger
	again func() (server.Config, error) // the settings, read anew
	ended <-chan struct{}
	wg    *sync.WaitGroup // what it starts

	activated []string    // the sockets that systemd has opened
	mute      atomic.Bool // another process tells systemd how the node is
}

// inherit takes the sockets that this process was started with. What was opened
// for other settings than cfg is closed; the node opens its own.
func (s *service) inherit(ctx context.Context, cfg *server.Config) (*handover.Predecessor, error) {
	v := handover.Variables{PID: s.cli.env("LISTEN_PID"), FDs: s.cli.env("LISTEN_FDS"), Names: s.cli.env("LISTEN_FDNAMES")}
	for _, name := range handover.Names {
		os.Unsetenv(name) // no child of ours shall take them for its own
	}
	in, err := handover.Inherit(v)
	if err != nil || in == nil {
		return nil, err
	}
	cfg.Sockets = server.Sockets{Public: in.Public, Redirect: in.Redirect, Operator: in.Operator}
	if in.From == nil {
		for name, ln := range map[string]net.Listener{handover.Public: in.Public, handover.Redirect: in.Redirect} {
			if ln != nil {
				s.activated = append(s.activated, name)
			}
		}
		return nil, nil
	}
	hello, err := in.From.Hello(ctx)
	if err != nil {
		in.Close()
		return nil, err
	}
	s.activated = hello.Activated
	drop := func(ln *net.Listener, name, was, is string) {
		if *ln != nil && was != is && !slices.Contains(hello.Activated, name) {
			(*ln).Close()
			*ln = nil
		}
	}
	drop(&cfg.Sockets.Public, handover.Public, hello.Listen, cfg.Listen)
	drop(&cfg.Sockets.Redirect, handover.Redirect, hello.HTTP, cfg.HTTP)
	drop(&cfg.Sockets.Operator, handover.Operator, hello.Data, cfg.Data)
	cfg.AwaitData = in.From.Data
	cfg.OnRevoke = in.From.Revoked
	return in.From, nil
}

// begin says that the node serves: to the one before it, if there is one, and
// then to systemd.
func (s *service) begin(ctx context.Context, before *handover.Predecessor) {
	if before != nil {
		if err := before.Ready(ctx, s.cfg.Software); err != nil {
			s.log.Error("node before this one not relieved", "err", err)
		}
	}
	s.notify("READY=1", "STATUS=serving "+s.cfg.Domain)
	s.guard()
}

// notify tells systemd.
func (s *service) notify(states ...string) {
	if !s.mute.Load() {
		handover.Notify(s.cli.env("NOTIFY_SOCKET"), states...)
	}
}

// guard tells systemd from time to time that the node lives, if it wants to be
// told (sd_watchdog_enabled(3)).
func (s *service) guard() {
	usec, err := strconv.ParseInt(s.cli.env("WATCHDOG_USEC"), 10, 63)
	if pid := s.cli.env("WATCHDOG_PID"); err != nil || usec <= 0 || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return
	}
	t := time.NewTicker(time.Duration(usec) * time.Microsecond / 2)
	defer t.Stop()
	for {
		s.notify("WATCHDOG=1")
		select {
		case <-t.C:
		case <-s.ended:
			return
		}
	}
}

// obey does what signals ask for.
func (s *service) obey(ctx context.Context) {
	asked := make(chan os.Signal, 8)
	signal.Notify(asked, reloadSignal, upgradeSignal)
	defer signal.Stop(asked)
	for {
		select {
		case <-s.ended:
			return
		case sig := <-asked:
			var err error
			if sig == reloadSignal {
				_, err = s.reload(ctx)
			} else {
				err = s.upgrade(context.WithoutCancel(ctx), func(line string) { s.log.Info("upgrade: " + line) })
			}
			if e, ok := errors.AsType[*admin.Error](err); ok {
				s.log.Error("signal not obeyed", "signal", sig.String(), "err", e, "hint", e.Hint)
			}
		}
	}
}

// reload reads the settings anew and puts them in force, all or none.
func (s *service) reload(context.Context) ([]string, error) {
	cfg, err := s.again()
	if err != nil {
		return nil, notDone(err)
	}
	changed, err := s.node.Reload(cfg)
	if err != nil {
		return nil, notDone(err)
	}
	return changed, nil
}

// notDone is err for an operator at another terminal.
func notDone(err error) *admin.Error {
	return &admin.Error{Code: admin.NotDone, Message: err.Error(), Hint: hint(err)}
}

// upgrade starts the program that is there by now under the name by which this
// one was started, and has it take over.
func (s *service) upgrade(ctx context.Context, tell func(string)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, upgradeTime, fmt.Errorf("the new process was not ready after %v", upgradeTime))
	defer cancel()
	var next *successor
	begun := false
	h, err := s.node.HandOver(ctx, func(sockets server.Sockets) (server.Successor, error) {
		begun = true
		s.notify(handover.Reloading(), "STATUS=upgrading")
		started, err := s.start(sockets)
		if err != nil {
			return nil, err
		}
		next = &successor{started, s, tell}
		tell(fmt.Sprintf("process %d started: %s", next.PID(), s.cli.program))
		return next, nil
	})
	if err != nil {
		if begun {
			s.notify("READY=1", "STATUS=serving "+s.cfg.Domain+"; an upgrade came to nothing")
		}
		text, advice := err.Error(), hint(err)
		if e, ok := errors.AsType[*handover.EndedError](err); ok {
			for word := range strings.Lines(e.Words) {
				tell("it said: " + printable(word))
			}
			text, advice = text+": "+gist(e.Words), ""
		}
		return &admin.Error{Code: admin.NotDone, Message: "not upgraded: " + text, Hint: advice}
	}
	tell(fmt.Sprintf("process %d serves: %s, ready after %v; for %v of that, claims of new names had to wait",
		next.PID(), next.Software(), h.Took.Round(time.Millisecond), h.Away.Round(time.Millisecond)))
	tell(fmt.Sprintf("process %d, %s, ends when its visitors have their answers", os.Getpid(), s.cfg.Software))
	return nil
}

// start starts the program with these sockets.
func (s *service) start(sockets server.Sockets) (*handover.Successor, error) {
	switch {
	case s.cli.program == "":
		return nil, errors.New("it is not known by which path this process was started")
	case os.Getpid() == 1:
		return nil, errors.New("this is process 1, and its end would be that of the container; start another container instead")
	}
	p := handover.Program{
		Path: s.cli.program, Args: os.Args, Env: slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "WATCHDOG_PID=") }),
		Hello:  handover.Hello{Listen: s.cfg.Listen, HTTP: s.cfg.HTTP, Data: s.cfg.Data, Activated: s.activated},
		Stderr: os.Stderr, StderrFD: 2,
	}
	for _, one := range []handover.Socket{
		{Name: handover.Public, Listener: sockets.Public}, {Name: handover.Redirect, Listener: sockets.Redirect},
		{Name: handover.Operator, Listener: sockets.Operator},
	} {
		if one.Listener != nil {
			p.Sockets = append(p.Sockets, one)
		}
	}
	return handover.Start(p)
}

// gist is the one line that says most of what a program said before it ended.
func gist(words string) string {
	lines := strings.Split(strings.TrimSpace(words), "\n")
	for _, mark := range []string{"culvertd: ", "panic: ", "fatal error: "} {
		for _, line := range slices.Backward(lines) {
			if rest, ok := strings.CutPrefix(line, mark); ok {
				return printable(strings.TrimPrefix(mark, "culvertd: ") + rest)
			}
		}
	}
	if last := printable(lines[len(lines)-1]); last != "" {
		return last
	}
	return "it said nothing"
}

// A successor is the process that is to be the node.
type successor struct {
	*handover.Successor
	service *service
	tell    func(string)
}

// AwaitData tells that it has come so far.
func (n *successor) AwaitData(ctx context.Context) error {
	err := n.Successor.AwaitData(ctx)
	if err == nil {
		n.tell(fmt.Sprintf("process %d has found nothing wrong, and gets the data directory", n.PID()))
	}
	return err
}

// Main makes it the one that systemd looks after, and hears from.
func (n *successor) Main() {
	n.service.notify(fmt.Sprintf("MAINPID=%d", n.PID()), "READY=1")
	n.service.mute.Store(true)
	n.Successor.Main()
}

// startedAs is the path by which this program was started, which may be another
// program's by the time that somebody looks.
func startedAs() string {
	path, err := exec.LookPath(os.Args[0])
	if err == nil || errors.Is(err, exec.ErrDot) {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		path, _ = os.Executable()
	}
	return path
}
