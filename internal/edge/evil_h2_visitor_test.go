//go:build !race

package edge

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/culvertd/culvert/internal/router"
)

// TestNoWindowForTheEnd: a small answer, too, is only kept so long for a
// visitor who has no window for it.
func TestNoWindowForTheEnd(t *testing.T) {
	for _, size := range []int{1, 4000, 5000, 100_000} {
		for host, path := range map[string]string{blog: "a service", "unknown." + domain: "the edge"} {
			t.Run(fmt.Sprintf("%d bytes of %s", size, path), inBubble(func(t *testing.T) {
				w := newWorld(t, nil)
				w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
					rw.Write(make([]byte, size))
				}))
				f := w.frames(setting(settingWindow, 0)...)
				start := time.Now()
				f.get(1, host)
				hour := time.AfterFunc(time.Hour, func() { f.Close() })
				defer hour.Stop()
				a := f.answer(1)
				if took := time.Since(start); !a.reset || took > 2*slowFor+lateBy {
					t.Errorf("got %+v after %v; want a reset", a, took)
				}
			}))
		}
	}
}

var usualBlock = []string{":method", "GET", ":scheme", "https", ":authority", blog, ":path", "/"}

// A meter is a service that notes how many streams are being opened, or open.
type meter struct {
	*service
	now, most, all atomic.Int32
}

func (m *meter) Open(ctx context.Context, v router.Visit) (net.Conn, error) {
	n := m.now.Add(1)
	defer m.now.Add(-1)
	m.all.Add(1)
	for {
		most := m.most.Load()
		if n <= most || m.most.CompareAndSwap(most, n) {
			break
		}
	}
	if v.Remote.Addr().String() == "198.51.100.6" { // never gets it
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return m.service.Open(ctx, v)
}

// TestRapidReset: ten thousand requests that are taken back at once
// (CVE-2023-44487, H2-02). A hundred thousand do no more, but take ten seconds.
func TestRapidReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(e *Edge) { e.Log = nil })
		s := newService(func(rw http.ResponseWriter, r *http.Request) {})
		m := &meter{service: s}
		w.bind(blog, s)
		w.routes.Add(blog, m, router.Options{})
		honest := w.visitor(true)
		get(t, honest, "https://"+blog)
		w.from = "198.51.100.6:1"
		f := w.frames()
		go io.Copy(io.Discard, f.Conn)
		f.headers(1, true, usualBlock...)
		f.write(frameReset, 0, 1, number(8))
		block := f.block(usualBlock...) // from memory, by now
		sent, slowest := 0, time.Duration(0)
	flood:
		for id := uint32(3); sent < 10_000; {
			for _, round := range []int{400, 1} { // so that streams are being opened, and not
				var heads, resets []byte
				for range round {
					heads = appendFrame(heads, frameHeaders, flagEndHeaders|flagEndStream, id, block)
					resets = appendFrame(resets, frameReset, 0, id, number(8))
					id += 2
				}
				if _, err := f.Write(heads); err != nil {
					break flood
				}
				if round > 1 {
					synctest.Wait()
				}
				if _, err := f.Write(resets); err != nil {
					break flood
				}
				start := time.Now()
				synctest.Wait()
				if m.now.Load() > 0 {
					time.Sleep(time.Second)
					slowest = max(slowest, time.Since(start))
				}
				sent += round
			}
			if res, _ := get(t, honest, "https://"+blog); res.StatusCode != 200 {
				t.Errorf("meanwhile somebody else got %d", res.StatusCode)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if m.most.Load() > 250 || m.now.Load() > 0 {
			t.Errorf("%d streams were being opened at once, and %d are a second later; want 250 at most, and none", m.most.Load(), m.now.Load())
		}
		t.Logf("%d requests were taken, %d opened, %d at once, and taken back after %v", sent, m.all.Load(), m.most.Load(), slowest)
	})
}

// TestFloodsOfFrames: frames that cost the visitor little and are worth nothing
// do not cost us much either: he is cut off, or they are done with as they
// come, and an honest visitor sees nothing of it.
func TestFloodsOfFrames(t *testing.T) {
	const bytesSent = 256 << 10
	open := func(f *frames, end byte) {
		f.write(frameHeaders, flagEndHeaders|end, 1, f.block(":method", "POST", ":scheme", "https", ":authority", blog, ":path", "/"))
	}
	for _, e := range []struct {
		name  string
		cut   bool
		reads bool
		begin func(f *frames)
		frame func(i uint32) []byte
	}{
		{"CONTINUATION", true, true, func(f *frames) {
			f.write(frameHeaders, flagEndStream, 1, f.block(":method", "GET"))
		}, func(uint32) []byte {
			return appendFrame(nil, frameContinuation, 0, 1, hpack.AppendHuffmanString([]byte{0x00, 0x81, 0x8f, 0x89 | 0x80}, "abcdefgh"))
		}},
		{"empty CONTINUATION", false, true, func(f *frames) {
			f.write(frameHeaders, flagEndStream, 1, f.block(":method", "GET"))
		}, func(uint32) []byte { return appendFrame(nil, frameContinuation, 0, 1, nil) }},
		{"SETTINGS", false, true, nil, func(uint32) []byte { return appendFrame(nil, frameSettings, 0, 0, nil) }},
		{"SETTINGS, reading nothing", false, false, nil, func(i uint32) []byte {
			return appendFrame(nil, frameSettings, 0, 0, setting(settingWindow, i))
		}},
		{"PING", false, true, nil, func(uint32) []byte { return appendFrame(nil, framePing, 0, 0, make([]byte, 8)) }},
		{"PING, reading nothing", true, false, nil, func(uint32) []byte {
			return appendFrame(nil, framePing, 0, 0, make([]byte, 8))
		}},
		{"PRIORITY", false, true, nil, func(i uint32) []byte {
			return appendFrame(nil, framePriority, 0, 2*i+1, []byte{0, 0, 0, 0, 1})
		}},
		{"empty DATA", false, true, func(f *frames) { open(f, 0) }, func(uint32) []byte {
			return appendFrame(nil, frameData, 0, 1, nil)
		}},
		{"padding", false, true, func(f *frames) { open(f, 0) }, func(uint32) []byte {
			return appendFrame(nil, frameData, 0x8, 1, []byte{0})
		}},
		{"empty HEADERS", false, true, nil, func(i uint32) []byte {
			return appendFrame(nil, frameHeaders, flagEndHeaders, 2*i+1, nil)
		}},
		{"window by one", false, true, func(f *frames) { open(f, 0) }, func(uint32) []byte {
			return appendFrame(nil, frameWindow, 0, 1, number(1))
		}},
		{"window by nothing", true, true, func(f *frames) { open(f, 0) }, func(uint32) []byte {
			return appendFrame(nil, frameWindow, 0, 0, number(0))
		}},
		{"window by all", true, true, nil, func(uint32) []byte {
			return appendFrame(nil, frameWindow, 0, 0, number(1<<31-1))
		}},
		{"resets of nothing", true, true, nil, func(i uint32) []byte {
			return appendFrame(nil, frameReset, 0, 2*i+1, number(8))
		}},
		{"unknown frames", false, true, nil, func(i uint32) []byte {
			return appendFrame(nil, 0x0a+byte(i%6), byte(i), i%3, make([]byte, 100))
		}},
		{"frames too large", true, true, nil, func(uint32) []byte {
			return appendFrame(nil, framePing, 0, 0, make([]byte, 17<<10))
		}},
		{"bytes on no stream", true, true, nil, func(uint32) []byte { return appendFrame(nil, frameData, 0, 99, []byte("x")) }},
		{"bytes behind the end", false, true, func(f *frames) { open(f, flagEndStream) }, func(uint32) []byte {
			return appendFrame(nil, frameData, 0, 1, []byte("x"))
		}},
		{"promises", true, true, nil, func(uint32) []byte { return appendFrame(nil, framePromise, 4, 1, number(2)) }},
		{"frames of no type that is known", false, true, nil, func(i uint32) []byte {
			return appendFrame(nil, 0x40+byte(i&0x7f), 0xff, 0, nil)
		}},
	} {
		t.Run(e.name, inBubble(func(t *testing.T) {
			w := newWorld(t, func(e *Edge) { e.Log = nil })
			w.bind(blog, newService(func(rw http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
			}))
			honest := w.visitor(true)
			get(t, honest, "https://"+blog)
			w.from = "198.51.100.6:1"
			f := w.frames()
			if e.reads {
				go io.Copy(io.Discard, f.Conn)
			}
			if e.begin != nil {
				e.begin(f)
			}
			heap := heapNow()
			most := heap
			sent := 0
			done := make(chan bool)
			go func() {
				defer close(done)
				for i := uint32(0); sent < bytesSent; {
					var b []byte
					for len(b) < 16<<10 {
						b = append(b, e.frame(i)...)
						i++
					}
					if _, err := f.Write(b); err != nil {
						return
					}
					sent += len(b)
				}
			}()
			for range 2 {
				time.Sleep(30 * time.Second)
				synctest.Wait()
				most = max(most, heapNow())
				if res, _ := get(t, honest, "https://"+blog); res.StatusCode != 200 {
					t.Errorf("meanwhile somebody else got %d", res.StatusCode)
				}
			}
			_, err := f.Write(e.frame(0))
			if e.cut && err == nil {
				t.Errorf("%d bytes were taken; want him to be cut off", sent)
			}
			f.Close()
			<-done
			t.Logf("%d bytes were taken, cut off %v, %d KiB more of memory", sent, err != nil, (most-heap)>>10)
			if most-heap > 5<<20 {
				t.Errorf("it took %d KiB of memory", (most-heap)>>10)
			}
		}))
	}
}

// TestDowngrades: what HTTP/2 can say and HTTP/1.1 cannot does not become
// something else (H2-06).
func TestDowngrades(t *testing.T) {
	usual := usualBlock
	with := func(fields ...string) []string { return append(usual[:8:8], fields...) }
	pseudo := func(name, value string) []string {
		fields := append([]string(nil), usual...)
		for i := 0; i < len(fields); i += 2 {
			if fields[i] == name {
				fields[i+1] = value
			}
		}
		return fields
	}
	smuggled := "x\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: " + blog + "\r\n\r\n"
	for name, test := range map[string]struct {
		fields []string
		body   []string // DATA frames; nil for the end of the stream at once
	}{
		"CRLF in a value":               {with("x", smuggled), nil},
		"LF in a value":                 {with("x", "a\nb: c"), nil},
		"CR in a value":                 {with("x", "a\rb: c"), nil},
		"NUL in a value":                {with("x", "a\x00b"), nil},
		"CRLF in a name":                {with("x: y\r\nz", "v"), nil},
		"colon in a name":               {with("transfer-encoding: chunked", "v"), nil},
		"space in a name":               {with("transfer-encoding ", "chunked"), nil},
		"capitals in a name":            {with("Transfer-Encoding", "chunked"), nil},
		"no name":                       {with("", "chunked"), nil},
		"NUL in a name":                 {with("x\x00", "v"), nil},
		"transfer-encoding":             {with("transfer-encoding", "chunked"), []string{"0\r\n\r\n", smuggled[5:]}},
		"connection":                    {with("connection", "x-forwarded-for"), nil},
		"upgrade":                       {with("upgrade", "h2c"), nil},
		"keep-alive":                    {with("keep-alive", "1"), nil},
		"proxy-connection":              {with("proxy-connection", "keep-alive"), nil},
		"te":                            {with("te", "chunked"), nil},
		"two paths":                     {with(":path", "/smuggled"), nil},
		"two methods":                   {with(":method", "POST"), nil},
		"two authorities":               {with(":authority", "b."+domain), nil},
		"an unknown pseudo-field":       {with(":x", "y"), nil},
		"a status":                      {with(":status", "200"), nil},
		"pseudo-field behind a field":   {append([]string{"x", "y"}, usual...), nil},
		"no path":                       {usual[:6], nil},
		"no method":                     {usual[2:], nil},
		"an empty path":                 {pseudo(":path", ""), nil},
		"space in the path":             {pseudo(":path", "/ HTTP/1.1\r\nX: y"), nil},
		"CRLF in the path":              {pseudo(":path", "/\r\nX: y"), nil},
		"a space in the path":           {pseudo(":path", "/a b"), nil},
		"a tab in the path":             {pseudo(":path", "/a\tb"), nil},
		"a fragment in the path":        {pseudo(":path", "/a#b"), nil},
		"path without a slash":          {pseudo(":path", "smuggled"), nil},
		"a URL for a path":              {pseudo(":path", "http://b."+domain+"/"), nil},
		"umlaut in the path":            {pseudo(":path", "/\xfc"), nil},
		"star with GET":                 {pseudo(":path", "*"), nil},
		"CRLF in the method":            {pseudo(":method", "GET / HTTP/1.1\r\nX: y\r\n\r\nGET"), nil},
		"space in the method":           {pseudo(":method", "GET /smuggled"), nil},
		"an empty method":               {pseudo(":method", ""), nil},
		"CONNECT":                       {pseudo(":method", "CONNECT"), nil},
		"CRLF in the authority":         {pseudo(":authority", blog+"\r\nX: y"), nil},
		"a path in the authority":       {pseudo(":authority", blog+"/smuggled"), nil},
		"a user in the authority":       {pseudo(":authority", "x@"+blog), nil},
		"an empty authority":            {pseudo(":authority", ""), nil},
		"another host":                  {with("host", "b."+domain), nil},
		"CRLF in the scheme":            {pseudo(":scheme", "https\r\nX: y"), nil},
		"another protocol":              {with(":protocol", "websocket"), nil},
		"length too long":               {with("content-length", "10"), []string{"short"}},
		"length too short":              {with("content-length", "1"), []string{"x" + smuggled}},
		"length and no body":            {with("content-length", "10"), nil},
		"two lengths":                   {with("content-length", "1", "content-length", "2"), []string{"x"}},
		"negative length":               {with("content-length", "-1"), []string{"x"}},
		"length with a sign":            {with("content-length", "+1"), []string{"x"}},
		"length in words":               {with("content-length", "one"), []string{"x"}},
		"length beyond 64 bits":         {with("content-length", "18446744073709551617"), []string{"x"}},
		"a list of lengths":             {with("content-length", "1, 1"), []string{"x"}},
		"an expectation nobody has":     {with("expect", "miracles"), []string{"x"}},
		"websocket to somewhere else":   {[]string{":method", "CONNECT", ":protocol", "websocket\r\nX: y", ":scheme", "https", ":authority", blog, ":path", "/"}, nil},
		"protocol with a slash":         {[]string{":method", "CONNECT", ":protocol", "a/b", ":scheme", "https", ":authority", blog, ":path", "/"}, nil},
		"a field that is only ours":     {with("x-forwarded-for", "6.6.6.6", "x_forwarded_for", "6.6.6.6", "culvert-x", "y"), nil},
		"cookies in pieces":             {with("cookie", "a=b", "cookie", "c=d\r\nX: y"), nil},
		"whitespace around a value":     {with("x", " y "), nil},
		"a value that is only a tab":    {with("x", "\t"), nil},
		"a body behind a GET of 0":      {with("content-length", "0"), []string{smuggled}},
		"bad trailers":                  {with("trailer", "x"), []string{"body", "\x00trailers"}},
		"padding that is not there":     {with("content-length", "0000000000000000000000005"), []string{"hello"}},
		"a length in front of anything": {with("content-length", "5 "), []string{"hello"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			var mu sync.Mutex
			var got []byte
			w.bind(blog, rawService(func(c net.Conn) {
				b := make([]byte, 4<<10)
				for {
					n, err := c.Read(b)
					mu.Lock()
					got = append(got, b[:n]...)
					whole := bytes.Contains(got, []byte("\r\n\r\n"))
					mu.Unlock()
					if err != nil {
						return
					}
					if whole {
						io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
				}
			}))
			f := w.frames()
			f.headers(1, test.body == nil, test.fields...)
			for i, b := range test.body {
				if b == "\x00trailers" {
					f.headers(1, true, "x", "y\r\nz", "transfer-encoding", "chunked", "content-length", "1")
					break
				}
				f.write(frameData, byte(flagEndStream*((i+1)/len(test.body))), 1, []byte(b))
			}
			a := f.answer(1)
			f.Close()
			mu.Lock()
			defer mu.Unlock()
			if bytes.Contains(got, []byte("smuggled")) || bytes.Contains(bytes.ToLower(got), []byte("\nx: y")) || bytes.Contains(got, []byte("6.6.6.6")) {
				t.Errorf("the service got %q", got)
			}
			if len(got) > 0 {
				m, err := naiveRequests(got)
				if err != nil && err != errShort || len(m) > 1 { // what is cut off has not arrived
					t.Errorf("the service got %d requests, %v: %q", len(m), err, got)
				}
			}
			switch {
			case name == "another host" && a.status != "400":
				t.Errorf("got %+v; want 400", a)
			case a.reset, a.away, strings.HasPrefix(a.status, "4"), a.status == "502":
			case a.status == "200" && len(got) > 0:
				t.Logf("passed: %q", got)
			default:
				t.Errorf("got %+v", a)
			}
		})
	}
}
