package main

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// maxShown is how much of a body the built-in page repeats, in bytes.
const maxShown = 16 << 10

// page answers every request with itself, as a service sees it: as text, or as
// a small page for browsers.
func page(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxShown+1))
	if err != nil {
		return // the visitor is gone
	}
	var seen strings.Builder
	fmt.Fprintf(&seen, "%s %s %s\nHost: %s\n", r.Method, r.RequestURI, r.Proto, r.Host)
	for _, key := range slices.Sorted(maps.Keys(r.Header)) {
		for _, value := range r.Header[key] {
			fmt.Fprintf(&seen, "%s: %s\n", key, value)
		}
	}
	if len(body) > 0 {
		more := ""
		if len(body) > maxShown {
			body, more = body[:maxShown], "\n… and more"
		}
		fmt.Fprintf(&seen, "\n%s%s\n", body, more)
	}

	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(w, seen.String())
		return
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	visitor := cmp.Or(r.Header.Get("X-Forwarded-For"), "somebody")
	fmt.Fprintf(w, `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>It works – culvert</title>
<style>
body { font: 17px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 12vh auto 4rem; padding: 0 1.2rem; color: #1c2733; background: #f7f8fa }
pre { font: 14px/1.6 ui-monospace, monospace; background: #fff; border: 1px solid #dde2e8; border-radius: 8px; padding: 1rem; overflow-x: auto }
p { color: #51606f }
@media (prefers-color-scheme: dark) { body { color: #e3e8ee; background: #14191f } pre { background: #1c232b; border-color: #2e3843 } p { color: #9aa8b6 } }
</style>
<h1>It works.</h1>
<p>%s asked, the node carried the question through one connection to the agent, and this is what a service behind it sees:</p>
<pre>%s</pre>
<p>Put your own service here: <code>culvertd dev 3000</code></p>
`, html.EscapeString(visitor), html.EscapeString(seen.String()))
}
