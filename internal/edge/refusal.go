package edge

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"strconv"
	"strings"
)

// A refusal is what a visitor is told when a request cannot be served: whose
// side is broken, and nothing about its inside.
type refusal struct {
	status     int
	code       string // the value of Culvert-Error
	message    string
	retryAfter int // seconds; 0 for none
}

// The closed set of refusals; docs/operating.md explains them to operators.
var (
	badRequest = refusal{400, "bad_request",
		"The request is malformed or cannot be forwarded.", 0}
	noTunnel = refusal{404, "tunnel_not_found",
		"There is no tunnel with this name.", 0}
	nothingHere = refusal{404, "not_found",
		"This is a node; there is nothing at this address.", 0}
	misdirected = refusal{421, "misdirected",
		"This connection was made for another host.", 0}
	serviceRefused = refusal{502, "service_refused",
		"The tunnel is up, but the service behind it does not answer.", 0}
	serviceReset = refusal{502, "service_reset",
		"The service behind the tunnel broke off before it had answered.", 0}
	badResponse = refusal{502, "service_bad_response",
		"The service behind the tunnel gave an answer that is not valid HTTP.", 0}
	offline = refusal{503, "tunnel_offline",
		"The tunnel exists, but its agent is not connected at the moment.", 5}
	serviceTimeout = refusal{504, "service_timeout",
		"The service behind the tunnel did not answer in time.", 0}
)

// write answers a request with the refusal: as a page to a browser, as JSON to
// everybody else. id is the number by which logs know the visit.
func (f refusal) write(w http.ResponseWriter, r *http.Request, id string) {
	kind, body := f.body(wantsPage(r), id)
	h := w.Header()
	clear(h) // whatever a service had said, it did not say this
	for _, field := range f.fields(kind, id) {
		h.Set(field[0], field[1])
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if r.ProtoMajor == 1 && r.Body != http.NoBody {
		h.Set("Connection", "close") // the body is not read, and what follows it never will be
	}
	w.WriteHeader(f.status)
	if r.Method != http.MethodHead {
		w.Write(body)
	}
}

// wire is the whole answer as JSON in HTTP/1.1, for a connection that ends
// with it.
func (f refusal) wire(id string) []byte {
	kind, body := f.body(false, id)
	text := http.StatusText(f.status)
	b := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\n", f.status, text)
	for _, field := range f.fields(kind, id) {
		b = fmt.Appendf(b, "%s: %s\r\n", field[0], field[1])
	}
	b = fmt.Appendf(b, "Content-Length: %d\r\nConnection: close\r\n\r\n", len(body))
	return append(b, body...)
}

func (f refusal) fields(kind, id string) [][2]string {
	fields := [][2]string{
		{"Culvert-Error", f.code},
		{"X-Request-Id", id},
		{"Content-Type", kind},
		{"Cache-Control", "no-store"},
		{"Vary", "Accept"},
		{"X-Content-Type-Options", "nosniff"},
		{"Referrer-Policy", "no-referrer"},
		{"Content-Security-Policy", pagePolicy},
	}
	if f.retryAfter > 0 {
		fields = append(fields, [2]string{"Retry-After", strconv.Itoa(f.retryAfter)})
	}
	return fields
}

func (f refusal) body(page bool, id string) (kind string, body []byte) {
	if page {
		return "text/html; charset=utf-8", renderPage(
			fmt.Sprintf("%d %s", f.status, http.StatusText(f.status)), f.message, f.code+" · "+id)
	}
	body, err := json.Marshal(struct {
		Error     string `json:"error"`
		Status    int    `json:"status"`
		Message   string `json:"message"`
		RequestID string `json:"request_id"`
	}{f.code, f.status, f.message, id})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return "application/json", append(body, '\n')
}

// wantsPage reports whether the visitor is somebody who looks at pages.
func wantsPage(r *http.Request) bool {
	for _, accept := range r.Header["Accept"] {
		for kind := range strings.SplitSeq(accept, ",") {
			kind, _, _ = strings.Cut(kind, ";")
			if strings.EqualFold(strings.TrimSpace(kind), "text/html") {
				return true
			}
		}
	}
	return false
}

const pageStyle = `body{font:1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem;color:#222;background:#fff}` +
	`h1{font-size:1.3rem}small{color:#666}` +
	`@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}small{color:#999}}`

// pagePolicy allows a page of ours its own style and nothing else.
var pagePolicy = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

// renderPage makes a page without links, scripts or anything to load.
func renderPage(title, message, small string) []byte {
	title, message, small = html.EscapeString(title), html.EscapeString(message), html.EscapeString(small)
	return fmt.Appendf(nil, `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>%s</title>
<style>%s</style>
<h1>%s</h1>
<p>%s</p>
<p><small>%s</small></p>
</html>
`, title, pageStyle, title, message, small)
}
