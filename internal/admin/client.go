package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"syscall"
	"time"

	"github.com/culvertd/culvert/internal/auth"
	"github.com/culvertd/culvert/internal/session"
)

var (
	// ErrNotRunning means that no node answers in the data directory.
	ErrNotRunning = errors.New("no node is running")

	// ErrPermission means that the socket is not this user's to open.
	ErrPermission = errors.New("permission denied")
)

// Client speaks with the node of a data directory.
type Client struct {
	socket string
	http   http.Client
}

// Dial gives a client for the node that runs on dataDir. It tries the socket at
// once, and fails with ErrNotRunning or ErrPermission. Close it after use.
func Dial(dataDir string) (*Client, error) {
	c := &Client{socket: filepath.Join(dataDir, socketName)}
	conn, err := c.dial(context.Background(), "", "")
	if err != nil {
		return nil, err
	}
	conn.Close()
	c.http = http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: c.dial}}
	return c, nil
}

// Close lets go of the socket.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (c *Client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.socket)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return nil, fmt.Errorf("%w on %s", ErrNotRunning, filepath.Dir(c.socket))
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s: %w", c.socket, ErrPermission)
	}
	return conn, err
}

// Status says what the node is and how much it holds.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, "GET", "/v1/status", nil)
}

// Tokens lists the tokens, the oldest first.
func (c *Client) Tokens(ctx context.Context) ([]auth.Token, error) {
	return call[[]auth.Token](ctx, c, "GET", "/v1/tokens", nil)
}

// CreateToken makes a token.
func (c *Client) CreateToken(ctx context.Context, ask NewToken) (CreatedToken, error) {
	return call[CreatedToken](ctx, c, "POST", "/v1/tokens", ask)
}

// RevokeToken forgets a token and ends its sessions.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	_, err := call[struct{}](ctx, c, "DELETE", "/v1/tokens/"+url.PathEscape(id), nil)
	return err
}

// Names lists the names that are owned, sorted.
func (c *Client) Names(ctx context.Context) ([]auth.Name, error) {
	return call[[]auth.Name](ctx, c, "GET", "/v1/names", nil)
}

// ReserveName keeps a name for an owner and gives its canonical spelling.
func (c *Client) ReserveName(ctx context.Context, owner, name string) (string, error) {
	n, err := call[NewName](ctx, c, "POST", "/v1/names", NewName{Name: name, Owner: owner})
	return n.Name, err
}

// ReleaseName makes a name free for anybody.
func (c *Client) ReleaseName(ctx context.Context, name string) error {
	_, err := call[struct{}](ctx, c, "DELETE", "/v1/names/"+url.PathEscape(name), nil)
	return err
}

// Sessions lists the sessions, the oldest first.
func (c *Client) Sessions(ctx context.Context) ([]session.Info, error) {
	return call[[]session.Info](ctx, c, "GET", "/v1/sessions", nil)
}

// KickSession ends a session; its agent will be back.
func (c *Client) KickSession(ctx context.Context, id string) error {
	_, err := call[struct{}](ctx, c, "DELETE", "/v1/sessions/"+url.PathEscape(id), nil)
	return err
}

// Reload has the node read its settings again, and returns the names of those
// that have changed.
func (c *Client) Reload(ctx context.Context) (changed []string, err error) {
	r, err := call[Reloaded](ctx, c, "POST", "/v1/reload", nil)
	return r.Changed, err
}

// Upgrade has another process take the node's place, and tells how it goes. It
// returns nil when that is the node.
func (c *Client) Upgrade(ctx context.Context, tell func(line string)) error {
	ctx, cancel := context.WithTimeout(ctx, upgradeTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "POST", "http://culvertd/v1/upgrade", nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: c.http.Transport}).Do(r)
	if err != nil {
		return plain(err)
	}
	defer resp.Body.Close()
	answer := json.NewDecoder(io.LimitReader(resp.Body, 1<<20))
	if resp.StatusCode != http.StatusOK {
		return refusal(resp, answer)
	}
	for {
		var p progress
		switch err := answer.Decode(&p); {
		case err != nil:
			return fmt.Errorf("the node went away in the middle of it: %w", err)
		case p.Error != nil:
			return p.Error
		case p.Done:
			return nil
		}
		tell(p.Line)
	}
}

// call asks the node one thing; if it was just replaced, the one that is in its
// place.
func call[T any](ctx context.Context, c *Client, method, path string, body any) (v T, err error) {
	v, err = ask[T](ctx, c, method, path, body)
	if e, ok := errors.AsType[*Error](err); ok && e.Code == HandedOver {
		return ask[T](ctx, c, method, path, body)
	}
	return v, err
}

func ask[T any](ctx context.Context, c *Client, method, path string, body any) (v T, err error) {
	var raw bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&raw).Encode(body); err != nil {
			return v, err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://culvertd"+path, &raw)
	if err != nil {
		return v, err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return v, plain(err)
	}
	defer resp.Body.Close()
	answer := json.NewDecoder(io.LimitReader(resp.Body, 256<<20))
	if resp.StatusCode != http.StatusOK {
		return v, refusal(resp, answer)
	}
	if err := answer.Decode(&v); err != nil {
		return v, fmt.Errorf("the node's answer: %w", err)
	}
	return v, nil
}

// refusal is the error of an answer that is one.
func refusal(resp *http.Response, answer *json.Decoder) error {
	e := &Error{}
	if err := answer.Decode(e); err != nil || e.Message == "" {
		return fmt.Errorf("the node answered %s", resp.Status)
	}
	return e
}

// plain is err without what the client puts around it, which is about a host
// that does not exist.
func plain(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
