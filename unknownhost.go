package culvert

import (
	"bytes"
	"fmt"
	"net/url"
	"sync"

	"github.com/culvertd/culvert/internal/relay"
)

// lookInto is how many bytes of an answer we search. The pages of all that
// refuse a host say so at their beginning.
const lookInto = 8 << 10

// An UnknownHostError says that a service answers only to hosts it knows, and
// that the one it was asked for is none of them. It is the Err of
// [EventHostUnknown].
type UnknownHostError struct {
	Host string // as the service saw it

	// Forwarded reports whether it is a service that looks at X-Forwarded-Host,
	// too, which is always the public host: another [Tunnel.HostHeader] alone
	// will not do, and the service has to be told.
	Forwarded bool
}

func (e *UnknownHostError) Error() string {
	return fmt.Sprintf("the service does not know the host %q", e.Host)
}

// A refusal is what a kind of service says to hosts that it does not know, with
// the status 400, 403 or 421.
type refusal struct {
	text      []byte
	forwarded bool // it looks at X-Forwarded-Host, too
}

// refusals are told by their words; there is nothing else to tell them by. Each
// is in TestUnknownHost.
var refusals = [...]refusal{
	{[]byte("Blocked request. This host"), false},                           // Vite, and what is made of it: Astro, Nuxt, SvelteKit, Angular, …
	{[]byte("Invalid Host header"), false},                                  // webpack-dev-server, MCP servers
	{[]byte("Invalid host header"), false},                                  // Starlette, FastAPI
	{[]byte("<title>DisallowedHost"), false},                                // Django, which says nothing without DEBUG
	{[]byte("Blocked hosts: "), true},                                       // Rails 7 and up, in development
	{[]byte("Blocked host: "), true},                                        // Rails 6
	{[]byte("Host not permitted"), true},                                    // Rack::Protection: Sinatra
	{[]byte("&#39; is not trusted."), false},                                // Werkzeug, Flask
	{[]byte("Untrusted Host "), false},                                      // Symfony, Laravel
	{[]byte("403 - Forbidden: The host "), false},                           // esbuild
	{[]byte("Blocked: Host header does not match the dev server"), false},   // Bun
	{[]byte("Bad Request - Invalid Hostname"), false},                       // ASP.NET Core, IIS Express
	{[]byte(`Header "host" with value `), true},                             // Angular, rendering on the server
	{[]byte(`Header "x-forwarded-host" with value `), true},                 // the same
	{[]byte("Access through untrusted domain"), false},                      // Nextcloud
	{[]byte("Transmission received your request, but the hostname"), false}, // Transmission
	{[]byte("Host check error"), false},                                     // Syncthing
}

// oldWebpack is how all answers of webpack-dev-server 2 to 4 end that refuse a
// host. They have the status 200.
var oldWebpack = []byte("\r\n\r\nInvalid Host header")

// A watched service is one whose answers we look at as they pass, for the words
// with which it refuses a host. That costs a comparison for each read, and a
// search for answers with one of three statuses; not a byte is copied, changed
// or kept back. Words that two reads cut in half are missed.
type watched struct {
	relay.HalfCloser
	found func(refusal)
	left  int // bytes of a refusal that we may still look into
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.HalfCloser.Read(b)
	w.look(b[:n])
	return n, err
}

// Break makes it a [relay.Breaker], lest an embedded TCP conn be closed in good
// order.
func (w *watched) Break(err error) { relay.Sever(w.HalfCloser, err) }

func (w *watched) look(b []byte) {
	const head = "HTTP/1.1 400"
	if len(b) >= len(head) && string(b[:len("HTTP/1.")]) == "HTTP/1." {
		w.left = 0
		switch string(b[len("HTTP/1.1 "):len(head)]) {
		case "400", "403", "421":
			w.left = lookInto
		case "200":
			if len(b) < 1<<10 && bytes.HasSuffix(b, oldWebpack) {
				w.found(refusal{})
			}
		}
	}
	if w.left == 0 {
		return
	}
	b = b[:min(len(b), w.left)]
	w.left -= len(b)
	for _, r := range refusals {
		if bytes.Contains(b, r.text) {
			w.left = 0
			w.found(r)
			return
		}
	}
}

// watch returns service, watched for the first refusal that the tunnel of c
// meets, if it has not met one. What it says is said in a goroutine of wg.
func (c *Conn) watch(service relay.HalfCloser, wg *sync.WaitGroup) relay.HalfCloser {
	l := c.listener
	if l.tunnel.Proto != HTTP1 || l.hinted.Load() {
		return service
	}
	return &watched{HalfCloser: service, found: func(r refusal) {
		if !l.hinted.CompareAndSwap(false, true) {
			return
		}
		wg.Go(func() { // nobody's bytes wait for the one who listens
			l.agent.emit(Event{Kind: EventHostUnknown, Name: l.Name(), URL: l.URL(), Err: &UnknownHostError{
				Host: l.host(), Forwarded: r.forwarded,
			}})
		})
	}}
}

// host is what the service is asked for.
func (l *Listener) host() string {
	if l.tunnel.HostHeader != "" {
		return l.tunnel.HostHeader
	}
	if u, err := url.Parse(l.URL()); err == nil {
		return u.Host
	}
	return ""
}
