// Package admin is how an operator speaks with a running node: HTTP and JSON
// over a unix socket in the node's data directory, and the client for it.
//
// Whoever may open the socket may do everything; the directory and the socket
// are closed to all but the node's own user, and there is no other lock. A
// Server works in Serve and stops when Serve's ctx ends. The package decides
// nothing: it asks auth and session.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/culvertd/culvert/internal/auth"
	"github.com/culvertd/culvert/internal/name"
	"github.com/culvertd/culvert/internal/session"
	"github.com/culvertd/culvert/internal/store"
)

const (
	socketName = "admin.sock"
	maxBody    = 64 << 10
)

// Status is what a node says of itself.
type Status struct {
	Domain   string    `json:"domain"`
	Listen   string    `json:"listen"` // the address visitors and agents come to
	TLS      string    `json:"tls"`
	Software string    `json:"software"`
	PID      int       `json:"pid"` // of the process; another one after an upgrade
	Since    time.Time `json:"since"`
	Tokens   int       `json:"tokens"`
	Names    int       `json:"names"`
	Sessions int       `json:"sessions"`
}

// Sessions is what an operator may ask of the sessions of a node.
// *session.Server is one.
type Sessions interface {
	Sessions() []session.Info
	Kick(id string) bool
	DropToken(id string)
}

// Server answers an operator. Its fields are set before Serve.
type Server struct {
	Auth     *auth.Auth
	Sessions Sessions
	Status   Status // Tokens, Names and Sessions are counted anew for every answer
	Log      *slog.Logger

	// Reload reads the settings again, and returns the names of those that have
	// changed. Nil means that there is nothing to be read.
	Reload func(ctx context.Context) (changed []string, err error)

	// Upgrade has another process take the node's place, and says how it goes.
	// Its ctx does not end when the operator leaves. Nil means that it cannot.
	Upgrade func(ctx context.Context, tell func(line string)) error
}

// Listen opens the socket in a data directory. The caller must hold the
// directory's store open: then nobody else can be behind a socket that is
// already there, and it is replaced.
func Listen(dataDir string) (net.Listener, error) {
	path := filepath.Join(dataDir, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if len(path) > 100 {
		return nil, fmt.Errorf("admin socket %s: the path is longer than 100 bytes, which sockets do not allow", path)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// Another process may be passed on what listens here: to close it is not to
	// end it.
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	// Between the two calls the mode of the directory holds others off.
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// Forget removes the socket in a data directory if nobody listens behind it.
func Forget(dataDir string) {
	path := filepath.Join(dataDir, socketName)
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close() // it was passed on
		return
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		os.Remove(path)
	}
}

// Serve answers on ln until ctx ends, gives answers under way a second, and
// closes ln. Its error is nil when it ended because of ctx.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	h := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	failed := make(chan error, 1)
	go func() { failed <- h.Serve(ln) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	brief, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if h.Shutdown(brief) != nil {
		h.Close()
	}
	<-failed
	return nil
}

// handler is the whole API. Answers are JSON; an error is an *Error.
func (s *Server) handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/status", answer(func(*http.Request) (any, error) {
		st := s.Status
		st.Tokens, st.Names, st.Sessions = len(s.Auth.List()), len(s.Auth.Names()), len(s.Sessions.Sessions())
		return st, nil
	}))
	m.HandleFunc("GET /v1/tokens", answer(func(*http.Request) (any, error) { return orEmpty(s.Auth.List()), nil }))
	m.HandleFunc("POST /v1/tokens", answer(s.createToken))
	m.HandleFunc("DELETE /v1/tokens/{id}", answer(s.revokeToken))
	m.HandleFunc("GET /v1/names", answer(func(*http.Request) (any, error) { return orEmpty(s.Auth.Names()), nil }))
	m.HandleFunc("POST /v1/names", answer(s.reserveName))
	m.HandleFunc("DELETE /v1/names/{name}", answer(func(r *http.Request) (any, error) {
		return struct{}{}, s.Auth.Release(r.Context(), r.PathValue("name"))
	}))
	m.HandleFunc("GET /v1/sessions", answer(func(*http.Request) (any, error) { return orEmpty(s.Sessions.Sessions()), nil }))
	m.HandleFunc("DELETE /v1/sessions/{id}", answer(func(r *http.Request) (any, error) {
		id := r.PathValue("id")
		if !s.Sessions.Kick(id) {
			return nil, fmt.Errorf("session %q: %w", id, auth.ErrNotFound)
		}
		return struct{}{}, nil
	}))
	if s.Reload != nil {
		m.HandleFunc("POST /v1/reload", answer(func(r *http.Request) (any, error) {
			changed, err := s.Reload(r.Context())
			return Reloaded{orEmpty(changed)}, err
		}))
	}
	if s.Upgrade != nil {
		m.HandleFunc("POST /v1/upgrade", s.upgrade)
	}
	m.HandleFunc("/", answer(func(r *http.Request) (any, error) {
		return nil, fmt.Errorf("%s %s: %w", r.Method, r.URL.Path, auth.ErrNotFound)
	}))
	return m
}

// Reloaded says which settings have changed.
type Reloaded struct {
	Changed []string `json:"changed"`
}

// upgradeTime is how long an upgrade may take, with all that is told of it.
const upgradeTime = 2 * time.Minute

// A progress is one line of what is told of an upgrade. The last has an error,
// or says that it is done.
type progress struct {
	Line  string `json:"line,omitempty"`
	Done  bool   `json:"done,omitempty"`
	Error *Error `json:"error,omitempty"`
}

// upgrade answers while it happens, and not in one piece.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	c.SetReadDeadline(time.Time{})
	c.SetWriteDeadline(time.Now().Add(upgradeTime))
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Connection", "close") // the next word is for whoever is the node by then
	out := json.NewEncoder(w)
	say := func(p progress) {
		out.Encode(p)
		c.Flush()
	}
	if err := s.Upgrade(context.WithoutCancel(r.Context()), func(line string) { say(progress{Line: line}) }); err != nil {
		e, _ := judge(err)
		say(progress{Error: e})
		return
	}
	say(progress{Done: true})
}

// NewToken asks for a token.
type NewToken struct {
	Owner   string        `json:"owner"`
	Names   []string      `json:"names,omitempty"`   // patterns; empty is any name
	Expires time.Duration `json:"expires,omitempty"` // in nanoseconds from now; 0 is never
	Note    string        `json:"note,omitempty"`
}

// CreatedToken is a token with its secret, which is said this once. It is the
// one place where a secret travels, and only over the socket.
type CreatedToken struct {
	Secret string     `json:"secret"`
	Token  auth.Token `json:"token"`
}

func (s *Server) createToken(r *http.Request) (any, error) {
	var ask NewToken
	if err := readBody(r, &ask); err != nil {
		return nil, err
	}
	secret, token, err := s.Auth.Create(r.Context(), ask.Owner, auth.CreateOptions{Names: ask.Names, Expires: ask.Expires, Note: ask.Note})
	if err != nil {
		return nil, err
	}
	s.log().Info("token created", "token", token.ID, "owner", token.Owner)
	return CreatedToken{secret.Reveal(), token}, nil
}

func (s *Server) revokeToken(r *http.Request) (any, error) {
	id := r.PathValue("id")
	if err := s.Auth.Revoke(r.Context(), id); err != nil {
		return nil, err
	}
	s.Sessions.DropToken(id) // after Revoke, so that none can come back
	s.log().Info("token revoked", "token", id)
	return struct{}{}, nil
}

// NewName asks to keep a name for an owner.
type NewName struct {
	Name  string `json:"name"`
	Owner string `json:"owner"`
}

func (s *Server) reserveName(r *http.Request) (any, error) {
	var ask NewName
	if err := readBody(r, &ask); err != nil {
		return nil, err
	}
	n, err := s.Auth.Reserve(r.Context(), ask.Owner, ask.Name)
	return NewName{n, ask.Owner}, err
}

func (s *Server) log() *slog.Logger {
	if s.Log != nil {
		return s.Log
	}
	return slog.New(slog.DiscardHandler)
}

// Code says of an Error what a caller may decide on.
type Code string

const (
	BadRequest Code = "bad_request" // the arguments are wrong, and will stay so
	NotFound   Code = "not_found"
	NameTaken  Code = "name_taken"
	Internal   Code = "internal"

	// NotDone: a reload or an upgrade came to nothing, and everything is as
	// before.
	NotDone Code = "not_done"

	// HandedOver: another process is the node by now. A Client asks that one.
	HandedOver Code = "handed_over"
)

// Error is an answer of the node that is not what was asked for.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"` // what to do about it
}

func (e *Error) Error() string { return e.Message }

// judge finds the code for an error of the rooms below, and the status for it.
func judge(err error) (*Error, int) {
	if e, ok := errors.AsType[*Error](err); ok {
		return e, http.StatusConflict
	}
	_, badInput := errors.AsType[*auth.InputError](err)
	_, badName := errors.AsType[*name.Error](err)
	_, badBody := errors.AsType[*bodyError](err)
	switch {
	case badInput, badName, badBody:
		return &Error{Code: BadRequest, Message: err.Error()}, http.StatusBadRequest
	case errors.Is(err, auth.ErrNotFound):
		return &Error{Code: NotFound, Message: err.Error()}, http.StatusNotFound
	case errors.Is(err, auth.ErrNameTaken):
		return &Error{Code: NameTaken, Message: err.Error()}, http.StatusConflict
	case errors.Is(err, store.ErrClosed):
		return &Error{Code: HandedOver, Message: "the node is stopping, or was just replaced; try again"}, http.StatusServiceUnavailable
	}
	return &Error{Code: Internal, Message: err.Error()}, http.StatusInternalServerError
}

// answer makes a handler of a function that gives a value or an error.
func answer(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		v, err := f(r)
		status := http.StatusOK
		if err != nil {
			v, status = judge(err)
		}
		if status == http.StatusServiceUnavailable {
			w.Header().Set("Connection", "close")
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v)
	}
}

type bodyError struct{ err error }

func (e *bodyError) Error() string { return "request body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// readBody reads one JSON value with the fields of v and no others.
func readBody(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return &bodyError{err}
	}
	if _, err := d.Token(); err != io.EOF {
		return &bodyError{errors.New("more than one value")}
	}
	return nil
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{} // [] in JSON, not null
	}
	return list
}
