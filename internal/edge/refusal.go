package edge

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"strconv"

	"github.com/culvertd/culvert/internal/h1"
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
	tooSlow = refusal{408, "bad_request",
		"The request did not arrive in time.", 0}
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

// as is f with the status that h1 found to be right.
func (f refusal) as(status int) refusal {
	f.status = status
	return f
}

// answer answers a request with the refusal: as a page to a browser, as JSON to
// everybody else.
func (f refusal) answer(v *visit) {
	kind, body := f.body(wantsPage(v.req), v.id.String())
	v.visitor.refusing()
	v.answer(f.status, f.fields(kind, v.id.String()), body)
}

// answer answers a request ourselves.
func (v *visit) answer(status int, fields [][2]string, body []byte) {
	s := h1.Response{Status: status, Reason: []byte(http.StatusText(status))}
	s.Length, s.Declared = int64(len(body)), int64(len(body))
	for _, f := range fields {
		s.Fields = append(s.Fields, h1.Field{Name: []byte(f[0]), Value: []byte(f[1])})
	}
	if hsts := v.door.sayHSTS(); hsts != nil && !v.from.http {
		s.Fields = append(s.Fields, h1.Field{Name: nameHSTS, Value: hsts})
	}
	v.watch.turnTo(phaseAnswering)
	v.status = status
	if v.visitor.begin(&s, true) == nil && (v.isHEAD() || v.visitor.write(body, true) == nil) {
		v.visitor.end(nil)
	}
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
func wantsPage(q *h1.Request) bool {
	for i := range q.Fields {
		if !like(q.Fields[i].Name, "accept") {
			continue
		}
		for kind := range bytes.SplitSeq(q.Fields[i].Value, comma) {
			kind, _, _ = bytes.Cut(kind, semicolon)
			if like(bytes.TrimSpace(kind), "text/html") {
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
