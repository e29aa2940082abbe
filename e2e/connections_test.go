package e2e

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// tooMuch answers before the end of the upload, and hangs up.
func tooMuch(q *asked) {
	final("413 Content Too Large")(q)
}

// echoAfter101 switches to a protocol that repeats everything.
func echoAfter101(q *asked) {
	if q.value("upgrade") != "echo" {
		q.say("%s", length("426 Upgrade Required", "", "Upgrade: echo", "Connection: Upgrade"))
		return
	}
	q.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nhi ")
	q.c.Write(q.r.b[q.r.at:])
	io.Copy(q.c, q.c)
	q.say(" bye")
	q.c.Close()
}

// connectionTalks is about connections: what ends them and what does not (RFC
// 9112, section 9), and what becomes of them.
var connectionTalks = []conversation{
	{"HTTP 1.0 ends with the answer", nil, func(t *testing.T, e *entrance) {
		v := e.speak1(t)
		v.say(e, "GET / HTTP/1.0\r\nHost: @H@\r\n\r\n")
		v.want(t, "GET", 200)
		v.wantEnd(t)
	}},
	{"HTTP 1.0 that asks to go on", nil, func(t *testing.T, e *entrance) {
		v := e.speak1(t)
		for range 2 {
			v.say(e, "GET / HTTP/1.0\r\nHost: @H@\r\nConnection: keep-alive\r\n\r\n")
			if h := v.want(t, "GET", 200); !strings.EqualFold(h.value("connection"), "keep-alive") {
				t.Fatalf("%+v; want it to say that it goes on", h)
			}
		}
	}},
	{"HTTP 1.0 knows no chunks and no interim answers", func(q *asked) {
		q.readBody()
		q.say("%s", "HTTP/1.1 103 Early Hints\r\n\r\n"+chunks("0\r\nX-Trailer: 1\r\n\r\n"))
	}, func(t *testing.T, e *entrance) {
		v := e.speak1(t)
		v.say(e, "GET / HTTP/1.0\r\nHost: @H@\r\nConnection: keep-alive\r\n\r\n")
		h := v.want(t, "GET", 200)
		if h.interim != nil || h.values("transfer-encoding") != nil || h.body != "abcdefg" {
			t.Errorf("%+v", h)
		}
		v.wantEnd(t)
	}},
	{"HTTP 1.0 without a host", nil, refused(400, "bad_request", "GET / HTTP/1.0\r\n\r\n")},
	{"Connection: close", nil, func(t *testing.T, e *entrance) {
		v := e.speak1(t)
		v.say(e, "GET / HTTP/1.1\r\nHost: @H@\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\nHost: @H@\r\n\r\n")
		if h := v.want(t, "GET", 200); !strings.EqualFold(h.value("connection"), "close") {
			t.Errorf("%+v; want it to say that it ends", h)
		}
		v.wantEnd(t)
	}},
	{"ten requests at once", wantsEcho, func(t *testing.T, e *entrance) {
		v := e.speak1(t)
		var all strings.Builder
		var asks []ask
		for i := range 10 {
			q := ask{method: []string{"GET", "POST", "HEAD", "PUT", "OPTIONS"}[i%5], target: fmt.Sprint("/", i)}
			if i%5 == 1 || i%5 == 3 {
				q.body, q.chunked = strings.Repeat("b", i*1000), i > 5
			}
			asks = append(asks, q)
			all.WriteString(q.bytes(e.host))
		}
		go io.WriteString(v.c, all.String())
		for _, q := range asks {
			want := q.method + " " + q.target + " of " + e.host
			if h, err := v.hear(q.method); err != nil || h.status != 200 || q.method != "HEAD" && h.body != want {
				t.Fatalf("%+v, %v; want %q", h, err, want)
			}
		}
	}},
	{"a visitor who has said all", nil, func(t *testing.T, e *entrance) {
		v := e.speak1(t)
		v.say(e, "POST / HTTP/1.1\r\nHost: @H@\r\nContent-Length: 2\r\n\r\nhi")
		if err := v.c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if h := v.want(t, "POST", 200); h.body != "ok" {
			t.Errorf("%+v", h)
		}
	}},
	{"413 before the end of the upload", tooMuch, func(t *testing.T, e *entrance) {
		v := e.speak1(t)
		v.say(e, "POST / HTTP/1.1\r\nHost: @H@\r\nContent-Length: 100000000\r\n\r\nthe beginning")
		v.want(t, "POST", 413)
	}},
	{"413 while the upload goes on", tooMuch, func(t *testing.T, e *entrance) {
		v := e.speak1(t)
		v.say(e, "POST / HTTP/1.1\r\nHost: @H@\r\nTransfer-Encoding: chunked\r\n\r\n")
		sent := make(chan struct{})
		go func() { // until the edge has enough
			defer close(sent)
			chunk := "8000\r\n" + strings.Repeat("x", 0x8000) + "\r\n"
			for range 1000 {
				if _, err := io.WriteString(v.c, chunk); err != nil {
					return
				}
			}
		}()
		v.want(t, "POST", 413)
		v.c.Close()
		<-sent
	}},
	{"413 before the end of the upload, h2", tooMuch, func(t *testing.T, e *entrance) {
		v := e.speak(t, "h2").(*speaker2)
		v.open(ask{method: "POST", target: "/"}.pseudo(e.host), false)
		v.data([]byte("the beginning"), false)
		h, err := v.hear()
		if err != nil || h.status != 413 || h.body != "no" {
			t.Errorf("%+v, %v", h, err)
		}
	}},
	{"upgrade, and both sides speak", echoAfter101, func(t *testing.T, e *entrance) {
		v := e.speak1(t)
		v.say(e, "GET / HTTP/1.1\r\nHost: @H@\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		if h := v.want(t, "GET", 101); h.value("upgrade") != "echo" {
			t.Errorf("%+v", h)
		}
		v.say(e, "hello")
		v.c.(interface{ CloseWrite() error }).CloseWrite()
		h := new(heard)
		if err := v.rest(h); err != nil || h.body != "hi hello bye" {
			t.Errorf("the visitor hears %q, %v; want all of it", h.body, err)
		}
	}},
	{"upgrade refused is no upgrade", echoAfter101, func(t *testing.T, e *entrance) {
		v := e.speak1(t)
		v.say(e, "GET / HTTP/1.1\r\nHost: @H@\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"+
			"GET / HTTP/1.1\r\nHost: misdirected.localhost\r\n\r\n")
		v.want(t, "GET", 426)
		v.want(t, "GET", 421) // the edge has read it
	}},
}

// leavers are visitors who go before they have their answer: the service is
// told, and need not work for nobody.
func leavers() (all []conversation) {
	for _, tt := range protos {
		came, left := make(chan struct{}, 1), make(chan error, 1)
		serve := func(q *asked) { // who would answer, had he not left
			came <- struct{}{}
			q.c.SetReadDeadline(time.Now().Add(patience))
			_, err := q.r.r.Read(make([]byte, 1))
			left <- err
			q.c.Close()
		}
		talk := func(t *testing.T, e *entrance) {
			var leave func()
			if tt.name == "h2" {
				v := e.speak(t, tt.proto).(*speaker2)
				v.open(ask{target: "/"}.pseudo(e.host), true)
				leave = func() { v.write(frameReset, 0, v.last, []byte{0, 0, 0, 8}) } // CANCEL
			} else {
				v := e.speak1(t)
				v.say(e, "GET / HTTP/1.1\r\nHost: @H@\r\n\r\n")
				leave = func() { v.c.Close() }
			}
			select {
			case <-came:
			case <-time.After(patience):
				t.Fatal("the service never saw the visitor")
			}
			leave()
			if err, ok := (<-left).(net.Error); ok && err.Timeout() {
				t.Errorf("the service is not told within %v", patience)
			}
		}
		all = append(all, conversation{"a visitor who leaves, " + tt.name, serve, talk})
	}
	return all
}
