package edge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestNothingIsAskedTwice: a service may hang up on an idle connection at any
// time, also in the moment in which it gets another request. What may have
// changed something is not sent again then; what is safe is, once, and over a
// new connection.
func TestNothingIsAskedTwice(t *testing.T) {
	for _, when := range []string{"at once", "later", "when it is asked", "in the answer", "always when it is asked"} {
		for _, method := range []string{"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"} {
			t.Run(method+", hangs up "+when, func(t *testing.T) {
				both(t, func(t *testing.T, h2 bool) {
					synctest.Test(t, func(t *testing.T) { testRetries(t, h2, method, when) })
				})
			})
		}
	}
}

func testRetries(t *testing.T, h2 bool, method, when string) {
	w := newWorld(t, nil)
	var mu sync.Mutex
	asked := make(map[string]int)
	idle := 0 // hundredths of a second, from 0 to 2 s
	s := rawService(func(c net.Conn) {
		r := bufio.NewReader(c)
		for n := 0; ; n++ {
			if when == "later" {
				mu.Lock()
				idle = (idle + 37) % 200
				c.SetReadDeadline(time.Now().Add(time.Duration(idle) * 10 * time.Millisecond))
				mu.Unlock()
			}
			if n == 0 {
				c.SetReadDeadline(time.Time{})
			}
			q, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, q.Body)
			mu.Lock()
			asked[q.URL.RawQuery]++
			mu.Unlock()
			if n > 0 && when == "when it is asked" || when == "always when it is asked" {
				return
			}
			if n > 0 && when == "in the answer" {
				io.WriteString(c, "HTTP/1.1 2")
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			if when == "at once" {
				return
			}
		}
	})
	w.bind(blog, s)
	c := w.visitor(h2)
	safe := method == "GET" || method == "HEAD"
	good, bad := 0, 0
	for i := range 40 {
		time.Sleep(time.Duration(i*53%200) * 10 * time.Millisecond)
		id := fmt.Sprint(i)
		var body io.Reader
		if !safe {
			body = strings.NewReader("change")
		}
		opened := s.opened.Load()
		r, _ := http.NewRequest(method, "https://"+blog+"/?"+id, body)
		res, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		read(t, res)
		mu.Lock()
		n := asked[id]
		mu.Unlock()
		most := 1
		if safe && when == "when it is asked" {
			most = 2
		}
		if n > most {
			t.Errorf("request %d was asked %d times; want %d at most", i, n, most)
		}
		if fresh := s.opened.Load() - opened; fresh > 1 {
			t.Errorf("request %d took %d new streams", i, fresh)
		}
		switch res.StatusCode {
		case 200:
			good++
		case 502:
			bad++
		default:
			t.Errorf("request %d got %d", i, res.StatusCode)
		}
	}
	if safe && bad > 0 && when != "in the answer" && when != "always when it is asked" {
		t.Errorf("%d of %d failed; want all to be asked again", bad, good+bad)
	}
	if when == "at once" && bad > 0 {
		t.Errorf("%d failed over connections that had ended", bad)
	}
	if when == "always when it is asked" && good > 0 {
		t.Errorf("%d answers to nothing", good)
	}
}
