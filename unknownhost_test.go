package culvert

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

const blocked = "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\n\r\nBlocked request. This host (\"blog.node.test\") is not allowed."

// unknownHost is what services say to a host that they do not know. The first
// ones were taken down from the servers, with the host, and the lengths that
// hang on it, changed since. The others were put together from what source,
// documentation and reports say of their words and statuses; nobody has met
// them here.
var unknownHost = []struct {
	service, answer string
	forwarded       bool
}{
	// Taken down.
	{service: "Vite 8.3.8", answer: "HTTP/1.1 403 Forbidden\r\nVary: Origin\r\nContent-Type: text/plain\r\nDate: Tue, 24 Nov 2026 17:04:23 GMT\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\n\r\na7\r\n" +
		"Blocked request. This host (\"blog.node.test\") is not allowed.\nTo allow this host, add \"blog.node.test\" to `server.allowedHosts` in vite.config.js.\r\n0\r\n\r\n"},
	{service: "webpack-dev-server 5.2.7", answer: "HTTP/1.1 403 Forbidden\r\nX-Powered-By: Express\r\nDate: Tue, 24 Nov 2026 17:04:23 GMT\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 19\r\n\r\nInvalid Host header"},
	{service: "Django 5.2.19 with DEBUG", answer: "HTTP/1.1 400 Bad Request\r\nDate: Tue, 24 Nov 2026 17:04:23 GMT\r\nServer: WSGIServer/0.2 CPython/3.11.7\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\n\r\n<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n  <meta http-equiv=\"content-type\" content=\"text/html; charset=utf-8\">\n  <meta name=\"robots\" content=\"NONE,NOARCHIVE\">\n  <title>DisallowedHost\n          at /</title>\n  <style>" + strings.Repeat("x", 60_000)},
	{service: "Starlette 1.10.0", answer: "HTTP/1.1 400 Bad Request\r\ndate: Tue, 24 Nov 2026 17:04:23 GMT\r\nserver: uvicorn\r\ncontent-length: 19\r\ncontent-type: text/plain; charset=utf-8\r\n\r\nInvalid host header"},
	{service: "Werkzeug 3.1.9", answer: "HTTP/1.1 400 BAD REQUEST\r\nServer: Werkzeug/3.1.9 Python/3.11.7\r\nDate: Tue, 24 Nov 2026 17:04:23 GMT\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 145\r\nConnection: close\r\n\r\n<!doctype html>\n<html lang=en>\n<title>400 Bad Request</title>\n<h1>Bad Request</h1>\n<p>Host &#39;blog.node.test&#39; is not trusted.</p>\n"},
	{service: "esbuild 0.28.2", answer: "HTTP/1.1 403 Forbidden\r\nDate: Tue, 24 Nov 2026 17:04:23 GMT\r\nContent-Length: 66\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n403 - Forbidden: The host \"blog.node.test\" is not allowed"},

	// Put together.
	{service: "webpack-dev-server 4, as in Create React App", answer: "HTTP/1.1 200 OK\r\nX-Powered-By: Express\r\nAccess-Control-Allow-Origin: *\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 19\r\nETag: W/\"13-3ufnWBJKBjGaN\"\r\nConnection: keep-alive\r\n\r\nInvalid Host header"},
	{service: "Rails 7", forwarded: true, answer: "HTTP/1.1 403 Forbidden\r\nContent-Type: text/html; charset=UTF-8\r\nContent-Length: 3000\r\n\r\n<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n  <meta charset=\"utf-8\" />\n  <title>Action Controller: Exception caught</title>\n  <style>" + strings.Repeat("s", 4000) + "</style><header role=\"banner\">\n  <h1>Blocked hosts: blog.node.test</h1>\n</header>"},
	{service: "Rails 6", forwarded: true, answer: "HTTP/1.1 403 Forbidden\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<header>\n  <h1>Blocked host: blog.node.test</h1>\n</header>"},
	{service: "Sinatra 4.1", forwarded: true, answer: "HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\nContent-Length: 18\r\n\r\nHost not permitted"},
	{service: "Symfony", answer: "HTTP/1.1 400 Bad Request\r\nContent-Type: text/html; charset=UTF-8\r\n\r\n<!-- Untrusted Host &quot;blog.node.test&quot;. (400 Bad Request) -->\n<!DOCTYPE html>"},
	{service: "Bun", answer: "HTTP/1.1 403 Forbidden\r\nContent-Length: 52\r\n\r\nBlocked: Host header does not match the dev server"},
	{service: "ASP.NET Core", answer: "HTTP/1.1 400 Bad Request\r\nContent-Length: 334\r\nContent-Type: text/html\r\nServer: Kestrel\r\n\r\n<!DOCTYPE HTML PUBLIC \"-//W3C//DTD HTML 4.01//EN\"\"http://www.w3.org/TR/html4/strict.dtd\">\r\n<HTML><HEAD><TITLE>Bad Request</TITLE>\r\n<META HTTP-EQUIV=\"Content-Type\" Content=\"text/html; charset=us-ascii\"></ HEAD >\r\n<BODY><h2>Bad Request - Invalid Hostname</h2>\r\n"},
	{service: "Angular on the server", forwarded: true, answer: "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\n\r\nHeader \"host\" with value \"blog.node.test\" is not allowed."},
	{service: "Angular on the server, told of a front end", forwarded: true, answer: "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\n\r\nHeader \"x-forwarded-host\" with value \"blog.node.test\" is not allowed."},
	{service: "Nextcloud", answer: "HTTP/1.1 400 Bad Request\r\nContent-Type: text/html; charset=UTF-8\r\n\r\n<!DOCTYPE html>\n<h2>Access through untrusted domain</h2>"},
	{service: "Transmission", answer: "HTTP/1.1 421 Misdirected Request\r\nServer: Transmission\r\nContent-Type: text/html; charset=ISO-8859-1\r\n\r\n<h1>421: Misdirected Request</h1><p>Transmission received your request, but the hostname was unrecognized.</p>"},
	{service: "Syncthing", answer: "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 17\r\n\r\nHost check error\n"},
}

// found is what is found in reads.
func found(reads ...string) (found []refusal) {
	w := &watched{found: func(r refusal) { found = append(found, r) }}
	for _, b := range reads {
		w.look([]byte(b))
	}
	return found
}

func TestUnknownHost(t *testing.T) {
	used := map[string]bool{}
	for _, tt := range unknownHost {
		head, body, _ := strings.Cut(tt.answer, "\r\n\r\n")
		ways := [][]string{{tt.answer}, {head + "\r\n\r\n", body}, {"HTTP/1.1 204 No Content\r\n\r\n", tt.answer}, {"HTTP/1.1 404 Not Found\r\n\r\n", "no", tt.answer}}
		if strings.HasPrefix(tt.answer, "HTTP/1.1 200") {
			ways = [][]string{{tt.answer}}
		}
		for _, reads := range ways {
			got := found(reads...)
			if len(got) != 1 || got[0].forwarded != tt.forwarded {
				t.Errorf("%s in %d reads: found %v", tt.service, len(reads), got)
				continue
			}
			used[string(got[0].text)] = true
		}
	}
	for _, r := range refusals {
		if !used[string(r.text)] {
			t.Errorf("%q is what none of them says", r.text)
		}
	}
}

// TestKnownHost: what is no refusal is none, whatever it speaks about.
func TestKnownHost(t *testing.T) {
	far := blocked[:54] + strings.Repeat(" ", lookInto) + blocked[54:]
	for what, reads := range map[string][]string{
		"nothing":                   {"", ""},
		"a page about it":           {"HTTP/1.1 200 OK\r\n\r\n", "Invalid Host header", "Blocked request. This host"},
		"a longer page about it":    {"HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat(" ", 1024) + "\r\n\r\nInvalid Host header"},
		"a page that is not there":  {"HTTP/1.1 404 Not Found\r\n\r\nBlocked request. This host"},
		"something else is refused": {"HTTP/1.1 403 Forbidden\r\n\r\nForbidden"},
		"far behind the beginning":  {far},
		"far behind, in reads":      {blocked[:54], strings.Repeat(" ", lookInto/2), strings.Repeat(" ", lookInto/2), blocked[54:]},
		"the next answer":           {"HTTP/1.1 403 Forbidden\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nBlocked request. This host"},
		"no HTTP":                   {"403", "HTTP/1.1 4", "\x00\x00\x00\x04", "HTTP/1."},
		"a WebSocket":               {"HTTP/1.1 101 Switching Protocols\r\n\r\n", "Invalid Host header"},
	} {
		if got := found(reads...); len(got) > 0 {
			t.Errorf("%s: found %q", what, got[0].text)
		}
	}
}

// TestUnknownHostEvent: it is told once for each tunnel, and the visitor gets
// what the service said.
func TestUnknownHostEvent(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, blocked)
			c.Close()
		}
	}()
	for header, want := range map[string]string{"": "blog.node.test", "localhost:3000": "localhost:3000"} {
		var events diary
		d := newDoor(t)
		d.agent.OnEvent = events.note
		d.listener.tunnel.HostHeader = header
		stop := forwarding(t, d, Service{Target: ln.Addr().String()})
		for range 3 {
			visitor := d.visit(t)
			if got, err := io.ReadAll(visitor); string(got) != blocked || err != nil {
				t.Errorf("the visitor got %q, %v", got, err)
			}
			visitor.Close()
		}
		stop()
		told := events.of(EventHostUnknown)
		if len(told) != 1 {
			t.Fatalf("told %+v, want one", told)
		}
		e, ok := errors.AsType[*UnknownHostError](told[0].Err)
		if !ok || e.Host != want || e.Forwarded || told[0].Name != "blog" || told[0].Time.IsZero() {
			t.Errorf("told %+v, want the host %q", told[0], want)
		}
		if text := fmt.Sprintf("the service does not know the host %q", want); e.Error() != text {
			t.Errorf("says %q, want %q", e, text)
		}
	}
}

// TestWatchedIsBroken: a service that is watched breaks off as loudly as one
// that is not.
func TestWatchedIsBroken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	d := newDoor(t)
	forwarding(t, d, Service{Target: ln.Addr().String()})
	visitor := d.visit(t)
	service, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	visitor.Reset(0)
	service.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := service.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the service saw %v, want a reset", err)
	}
}

// BenchmarkWatched is what looking costs for each read of a bulk transfer, and
// for an answer that has to be searched.
func BenchmarkWatched(b *testing.B) {
	w := &watched{found: func(refusal) {}}
	for name, read := range map[string]string{
		"bulk":    strings.Repeat("x", 32<<10),
		"refused": "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\n\r\n" + strings.Repeat("x", 300),
		"largest": "HTTP/1.1 403 Forbidden\r\n\r\n" + strings.Repeat("x", 32<<10),
	} {
		b.Run(name, func(b *testing.B) {
			data := []byte(read)
			b.ReportAllocs()
			for b.Loop() {
				w.left = 0
				w.look(data)
			}
		})
	}
}
