package e2e

import "strings"

func method(name string) semantic {
	return semantic{name: "method " + name, ask: ask{method: name, target: "/method"}}
}

var (
	cookie30k = strings.Repeat("c", 30<<10)
	shout     = []field{{"X-Shout", "\"quoted\", and; more\t\xe4\xff"}, {"X-Empty", ""}}
)

// The sections are those of RFC 9110, where no other is named.
var semantics = []semantic{
	// 9: methods, also those that nobody registered, and case matters.
	method("GET"), method("POST"), method("PUT"), method("DELETE"), method("OPTIONS"), method("PATCH"),
	method("TRACE"), method("PROPFIND"), method("M-SEARCH"), method("get"), method("BREW"),
	{name: "OPTIONS of everything", ask: ask{method: "OPTIONS", target: "*"}},
	{name: "HEAD has a length and no body", ask: ask{method: "HEAD", target: "/"},
		answer: "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nETag: \"e\"\r\n\r\n",
		hears:  []string{"content-length: 12345", `etag: "e"`}},
	{name: "HEAD of an answer in chunks", ask: ask{method: "HEAD", target: "/"},
		answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", hearsNot: "content-length"},

	// 8.6 and RFC 9112, section 6: bodies, framed as they were.
	{name: "body with a length", ask: ask{method: "POST", target: "/", body: "hello"},
		got: []string{"content-length: 5"}, gotNot: "transfer-encoding"},
	{name: "body of GET", ask: ask{target: "/", body: "hello"}, got: []string{"content-length: 5"}},
	{name: "no body", ask: ask{method: "POST", target: "/", fields: []field{{"Content-Length", "0"}}},
		got: []string{"content-length: 0"}},
	{name: "no body, and no word of one", ask: ask{target: "/"}, gotNot: "content-length transfer-encoding"},
	{name: "body in chunks", ask: ask{method: "POST", target: "/", body: "hello", chunked: true},
		got: []string{"transfer-encoding: chunked"}, gotNot: "content-length"},
	{name: "empty body in chunks", ask: ask{method: "POST", target: "/", chunked: true}},
	{name: "large body", ask: ask{method: "PUT", target: "/", body: strings.Repeat("large ", 50_000)}},
	{name: "answer with a length", ask: ask{target: "/"}, answer: length("200 OK", "hello"), body: "hello",
		hears: []string{"content-length: 5"}, hearsNot: "transfer-encoding"},
	{name: "empty answer", ask: ask{target: "/"}, answer: length("200 OK", ""), hears: []string{"content-length: 0"}},
	{name: "answer in chunks, with extensions", ask: ask{target: "/"}, answer: chunks("0;last\r\n\r\n"), body: "abcdefg",
		hearsNot: "trailer"},
	{name: "answer up to the end of the connection", ask: ask{target: "/"}, answer: "HTTP/1.1 200 OK\r\n\r\nhello", body: "hello"},
	{name: "answer broken off, with a length", ask: ask{target: "/"}, broken: true,
		answer: "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nBREAK"},
	{name: "answer broken off, in chunks", ask: ask{target: "/"}, broken: true,
		answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nBREAK\r\n"},

	// 6.5: trailers, both ways.
	{name: "trailers, announced", ask: ask{method: "POST", target: "/", body: "b", fields: []field{{"Trailer", "X-One, X-Two"}},
		trailers: []field{{"X-One", "1"}, {"X-Two", "2"}}}},
	// Over HTTP/2 the standard library keeps those that were announced.
	{name: "trailers, not announced", lost2: true, ask: ask{method: "POST", target: "/", body: "b", trailers: []field{{"X-One", "1"}}}},
	{name: "trailers without a body", lost2: true, ask: ask{method: "POST", target: "/", trailers: []field{{"X-One", "1"}}}},
	{name: "trailers of the answer, announced", ask: ask{target: "/"}, body: "abcdefg",
		answer: chunks("0\r\nX-Sum: 7\r\nX-More: 8\r\n\r\n", "Trailer: X-Sum, X-More"), trailers: []string{"x-sum: 7", "x-more: 8"}},
	{name: "trailers of the answer, not announced", ask: ask{target: "/"}, body: "abcdefg",
		answer: chunks("0\r\nX-Sum: 7\r\n\r\n"), trailers: []string{"x-sum: 7"}},

	// 15: statuses.
	{name: "204 has no body", ask: ask{target: "/"}, answer: "HTTP/1.1 204 No Content\r\n\r\n", status: 204,
		hearsNot: "content-length transfer-encoding"},
	{name: "304 has no body", ask: ask{target: "/"}, answer: "HTTP/1.1 304 Not Modified\r\nETag: \"e\"\r\n\r\n", status: 304,
		hears: []string{`etag: "e"`}, hearsNot: "transfer-encoding"},
	{name: "304 may say how long the body would be", ask: ask{target: "/"}, status: 304,
		answer: "HTTP/1.1 304 Not Modified\r\nContent-Length: 999\r\n\r\n", hearsNot: "transfer-encoding"},
	{name: "205", ask: ask{target: "/"}, answer: length("205 Reset Content", ""), status: 205},
	{name: "206", ask: ask{target: "/", fields: []field{{"Range", "bytes=1-3"}}}, got: []string{"range: bytes=1-3"}, status: 206,
		answer: length("206 Partial Content", "bcd", "Content-Range: bytes 1-3/9"), body: "bcd", hears: []string{"content-range: bytes 1-3/9"}},
	{name: "302", ask: ask{target: "/"}, answer: length("302 Found", "", "Location: ../else?where#there"), status: 302,
		hears: []string{"location: ../else?where#there"}},
	{name: "401", ask: ask{target: "/"}, answer: length("401 Unauthorized", "no", "WWW-Authenticate: Basic realm=\"r\""), status: 401, body: "no",
		hears: []string{`www-authenticate: Basic realm="r"`}},
	{name: "418", ask: ask{target: "/"}, answer: length("418 I'm a teapot", "short"), status: 418, body: "short"},
	{name: "299, which nobody knows", ask: ask{target: "/"}, answer: length("299 Whatever", "x"), status: 299, body: "x"},
	{name: "599, which nobody knows", ask: ask{target: "/"}, answer: length("599 ", "x"), status: 599, body: "x"},
	{name: "500 of the service is the service's", ask: ask{target: "/"}, answer: length("500 Oh", "my", "X-Mine: 1"), status: 500, body: "my",
		hears: []string{"x-mine: 1"}, hearsNot: "culvert-error"},
	{name: "103 and its hints", ask: ask{target: "/"}, interim: []int{103}, body: "ok", hints: []string{"link: </a.css>; rel=preload"},
		answer: "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n" + length("200 OK", "ok")},
	{name: "102 and 103 and 103", ask: ask{target: "/"}, interim: []int{102, 103, 103}, body: "ok",
		answer: "HTTP/1.1 102 Processing\r\n\r\n" + strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 2) + length("200 OK", "ok")},

	// 5: fields, kept as they are.
	{name: "repeated fields keep their order", ask: ask{target: "/", fields: []field{{"X-A", "2"}, {"X-A", "1"}, {"X-A", "3, 4"}}},
		got: []string{"x-a: 2", "x-a: 1", "x-a: 3, 4"}},
	{name: "cookies are set one by one", ask: ask{target: "/"}, body: "ok",
		answer: length("200 OK", "ok", "Set-Cookie: b=2; Path=/", "Set-Cookie: a=1; Expires=Tue, 01 Jan 2030 00:00:00 GMT", "Set-Cookie: b=3"),
		hears:  []string{"set-cookie: b=2; Path=/", "set-cookie: a=1; Expires=Tue, 01 Jan 2030 00:00:00 GMT", "set-cookie: b=3"}},
	{name: "crumbs of a cookie become one", ask: ask{target: "/", fields: []field{{"Cookie", "a=1"}, {"Cookie", "b=2"}}}, only: "h2",
		got: []string{"cookie: a=1; b=2"}}, // RFC 9113, section 8.2.3
	{name: "values as they are", ask: ask{target: "/", fields: shout}, got: spell(shout), body: "ok",
		answer: length("200 OK", "ok", "X-Shout: "+shout[0].value, "X-Empty:"), hears: spell(shout)},
	{name: "a cookie of 30 KB", ask: ask{target: "/", fields: []field{{"Cookie", cookie30k}}}, got: []string{"cookie: " + cookie30k}},
	{name: "an answer's field of 30 KB", ask: ask{target: "/"}, answer: length("200 OK", "ok", "X-Long: "+cookie30k), body: "ok",
		hears: []string{"x-long: " + cookie30k}},
	{name: "many fields", ask: ask{target: "/", fields: manyFields}, got: spell(manyFields)},
	{name: "names as they were spelled", ask: ask{target: "/", fields: []field{{"x-lOUD", "1"}, {"DNT", "1"}}}, only: "h1",
		gotExact: "x-lOUD: 1\r\nDNT: 1\r\n"},
	{name: "fields in their order", only: "h1", ordered: true, ask: ask{target: "/", fields: []field{{"X-C", "1"}, {"X-A", "2"}, {"X-B", "3"}}},
		got: []string{"x-c: 1", "x-a: 2", "x-b: 3"}},
	{name: "fields of the answer in their order", only: "h1", ordered: true, ask: ask{target: "/"}, body: "ok",
		answer: length("200 OK", "ok", "X-C: 1", "X-A: 2", "X-B: 3"), hears: []string{"x-c: 1", "x-a: 2", "x-b: 3"}},
	{name: "nothing is added for the visitor", ask: ask{target: "/"}, gotNot: "user-agent accept accept-encoding accept-language cookie via te"},
	{name: "nothing is guessed for the service", ask: ask{target: "/"}, answer: length("200 OK", "<html>"), body: "<html>",
		hearsNot: "content-type content-encoding server via cache-control vary"},
	{name: "the service's own date", ask: ask{target: "/"}, answer: length("200 OK", "ok", "Date: Mon, 01 Jan 2001 00:00:00 GMT"), body: "ok",
		hears: []string{"date: Mon, 01 Jan 2001 00:00:00 GMT"}},
	{name: "a coded body stays coded", ask: ask{target: "/", fields: []field{{"Accept-Encoding", "gzip"}}}, got: []string{"accept-encoding: gzip"},
		answer: length("200 OK", "\x1f\x8bnot", "Content-Encoding: gzip"), body: "\x1f\x8bnot", hears: []string{"content-encoding: gzip"}},
	{name: "credentials pass", ask: ask{target: "/", fields: []field{{"Authorization", "Basic eDp5"}}}, got: []string{"authorization: Basic eDp5"}},

	// 7.6.1: what is for one hop stays on it.
	{name: "fields for the visitor's hop", ask: ask{target: "/", fields: []field{{"Connection", "X-Hop, keep-alive"}, {"X-Hop", "1"},
		{"Keep-Alive", "timeout=5"}, {"Proxy-Connection", "keep-alive"}}}, only: "h1",
		gotNot: "connection x-hop keep-alive proxy-connection"},
	{name: "fields for the service's hop", ask: ask{target: "/"}, body: "ok", hearsNot: "x-hop keep-alive proxy-connection",
		answer: length("200 OK", "ok", "Connection: X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5", "Proxy-Connection: x")},
	{name: "the service hangs up, the visitor need not", ask: ask{target: "/"}, body: "ok",
		serve: func(q *asked) { q.readBody(); q.say("%s", length("200 OK", "ok", "Connection: close")); q.c.Close() }},
	{name: "nobody switches to h2c", ask: ask{target: "/", fields: []field{{"Connection", "Upgrade, HTTP2-Settings"}, {"Upgrade", "h2c"},
		{"HTTP2-Settings", "AAMAAABkAAQAAP__"}}}, only: "h1", gotNot: "upgrade connection http2-settings"},
	{name: "who the visitor is, is ours to say", ask: ask{target: "/", fields: []field{{"X-Forwarded-For", "6.6.6.6"}, {"Forwarded", "for=6.6.6.6"},
		{"X-Real-IP", "6.6.6.6"}, {"X-Forwarded-Proto", "gopher"}, {"Culvert-Admin", "yes"}}},
		got: []string{"x-forwarded-for: 127.0.0.1", "x-forwarded-proto: https"}, gotNot: "x-real-ip culvert-admin"},
	{name: "where else the service is, is ours to say", ask: ask{target: "/"}, body: "ok", hearsNot: "alt-svc culvert-error",
		answer: length("200 OK", "ok", `Alt-Svc: h3=":443"`, "Culvert-Error: mine")},
}

var manyFields = func() (fields []field) {
	for _, c := range "abcdefghijklmnopqrstuvwxyz" {
		fields = append(fields, field{"X-Many-" + string(c), "1"}, field{"X-Many-" + string(c), "2"})
	}
	return fields
}()
