package culvert

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/culvertd/culvert/internal/wire"
)

// dialThrough asks an HTTP proxy for a connection to addr (CONNECT, RFC 9110,
// section 9.3.6), with Basic credentials if the URL of the proxy has any. What
// passes through it is our TLS: the proxy learns the name of the node.
func dialThrough(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), proxy *url.URL, addr string) (net.Conn, error) {
	port := proxy.Port()
	switch {
	case proxy.Scheme != "http" && proxy.Scheme != "https":
		return nil, fmt.Errorf("proxy %s: want http:// or https://", proxy.Redacted())
	case port == "" && proxy.Scheme == "https":
		port = "443"
	case port == "":
		port = "80"
	}
	conn, err := dial(ctx, "tcp", net.JoinHostPort(proxy.Hostname(), port))
	if err != nil {
		return nil, &unreachableError{fmt.Errorf("proxy %s: %w", proxy.Redacted(), err)}
	}
	if proxy.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{ServerName: proxy.Hostname(), MinVersion: tls.VersionTLS12})
	}
	if err := askProxy(ctx, conn, proxy, addr); err != nil {
		conn.Close()
		return nil, &unreachableError{fmt.Errorf("proxy %s: %w", proxy.Redacted(), err)}
	}
	return conn, nil
}

func askProxy(ctx context.Context, conn net.Conn, proxy *url.URL, addr string) error {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err := exchangeConnect(conn, proxy, addr)
	if !stop() {
		return context.Cause(ctx)
	}
	return err
}

func exchangeConnect(conn net.Conn, proxy *url.URL, addr string) error {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: http.Header{}}
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		req.Header.Set("Proxy-Authorization",
			"Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	if err := req.Write(conn); err != nil {
		return err
	}
	br := bufio.NewReader(io.LimitReader(conn, 64<<10)) // a head, and no more
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("HTTP status %s", wire.Text(resp.Status, 64))
	}
	if br.Buffered() > 0 { // in TLS the one who dialled speaks first
		return errors.New("it answered more than it was asked")
	}
	return nil
}
