package main

import (
	"errors"
	"io/fs"
	"net"
	"strconv"
	"syscall"

	"github.com/culvertd/culvert"
	"github.com/culvertd/culvert/internal/admin"
	"github.com/culvertd/culvert/internal/handover"
	"github.com/culvertd/culvert/internal/server"
	"github.com/culvertd/culvert/internal/store"
)

// Exit codes, as in docs/operating.md.
const (
	exitOK = iota
	exitFailed
	exitUsage
	exitRefused // and it will be refused again
)

func exitCode(err error) int {
	_, usage := errors.AsType[*usageError](err)
	_, config := errors.AsType[*server.ConfigError](err)
	_, agent := errors.AsType[*culvert.ConfigError](err)
	answer, answered := errors.AsType[*admin.Error](err)
	_, sockets := errors.AsType[*handover.Error](err)
	refused, no := errors.AsType[*culvert.RefusedError](err)
	switch {
	case usage, config, agent, sockets, answered && answer.Code == admin.BadRequest:
		return exitUsage
	case errors.Is(err, store.ErrDamaged), answered && answer.Code == admin.NameTaken, no && refused.Final:
		return exitRefused
	}
	return exitFailed
}

// hint says what to do about err, to someone at a terminal; "" if we don't know.
func hint(err error) string {
	if e, ok := errors.AsType[*usageError](err); ok {
		return e.hint
	}
	if e, ok := errors.AsType[*server.ConfigError](err); ok {
		return configHint(e)
	}
	if e, ok := errors.AsType[*admin.Error](err); ok {
		switch e.Code {
		case admin.NotFound:
			return "culvertd token list, name list and session list show what there is"
		case admin.NameTaken:
			return "culvertd name list shows whose it is; culvertd name release makes it free"
		}
		return e.Hint
	}
	if e, ok := errors.AsType[*handover.Error](err); ok {
		return e.Hint
	}
	if _, ok := errors.AsType[*server.FixedError](err); ok {
		return "culvertd upgrade starts the node anew with it, and nobody notices"
	}
	switch {
	case errors.Is(err, store.ErrLocked):
		return "stop the other culvertd first, or give this one a directory of its own with --data"
	case errors.Is(err, store.ErrDamaged):
		return "restore the data directory from a copy; to start anew, with all tokens and names forgotten, move its folder store away"
	case errors.Is(err, admin.ErrNotRunning):
		return "start it with culvertd serve, or name its data directory with --data"
	case errors.Is(err, admin.ErrPermission):
		return "run this as the user that culvertd runs as"
	case errors.Is(err, syscall.EADDRINUSE):
		return "another program has that port; stop it, or choose another with " + listenFlag(err)
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "listen" {
		if a, ok := e.Addr.(*net.TCPAddr); ok && errors.Is(err, fs.ErrPermission) && a.Port < 1024 {
			return "port " + strconv.Itoa(a.Port) + " needs root or CAP_NET_BIND_SERVICE; or choose another with " + listenFlag(err)
		}
		if errors.Is(err, syscall.EADDRNOTAVAIL) {
			return "that address is not one of this machine's"
		}
	}
	if errors.Is(err, fs.ErrPermission) {
		return "check who may read and write there, or choose another directory with --data"
	}
	return ""
}

// listenFlag is what chooses the port that err is about.
func listenFlag(err error) string {
	if errors.Is(err, server.ErrRedirect) {
		return "--http, or --http '' for none"
	}
	return "--listen"
}

func configHint(e *server.ConfigError) string {
	switch e.Field {
	case "domain":
		return "culvertd serve --domain tunnel.example.com; both it and *.tunnel.example.com must point to this machine"
	case "listen", "http":
		return "for example --listen :443 --http :80"
	case "cert", "key":
		return "--cert and --key name PEM files that belong together and that culvertd may read"
	case "data":
		return "give it to the user that culvertd runs as, with chmod 700, or choose a directory of its own with --data"
	case "tls":
		if e.Err != nil { // about our own CA
			return "serve the domain that this CA was made for, or move its directory away; agents and visitors must then trust the new one"
		}
	}
	return ""
}
