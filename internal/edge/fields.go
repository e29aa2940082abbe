package edge

import (
	"bytes"
	"net/http"
	"slices"

	"github.com/culvertd/culvert/internal/h1"
)

// appendRequest writes the head of a request as its service is sent it.
func appendRequest(b []byte, v *visit) []byte {
	q := v.req
	target := q.Target
	if q.Form != h1.OriginForm {
		at := len(v.scratch)
		v.scratch = q.AppendTarget(v.scratch)
		target = v.scratch[at:]
	}
	b = h1.AppendRequestLine(b, q.Method, target)
	if v.route.HostHeader != "" {
		b = h1.AppendField(b, "Host", v.route.HostHeader)
	} else {
		b = h1.AppendField(b, "Host", q.Host)
	}
	for i := range q.Fields {
		b = h1.AppendField(b, q.Fields[i].Name, q.Fields[i].Value)
	}
	switch upgrade := upgradable(q); {
	case v.trailing && upgrade:
		b = append(b, "TE: trailers\r\nConnection: TE, Upgrade\r\n"...)
	case v.trailing:
		b = append(b, "TE: trailers\r\nConnection: TE\r\n"...)
	case upgrade:
		b = append(b, "Connection: Upgrade\r\n"...)
	}
	if upgradable(q) {
		b = h1.AppendField(b, "Upgrade", q.Upgrade)
	}
	if q.Length != 0 || q.Declared == 0 {
		b = h1.AppendLength(b, q.Length)
	}
	return h1.AppendEnd(b)
}

// introduce makes the fields of a request those that its service is sent: what
// is meant for this hop alone goes, what Connection names, and everything the
// visitor said about who is asking. Then we say that. Nothing that is added
// here can be removed by the visitor.
func introduce(v *visit) {
	q := v.req
	v.trailing = false
	custom := namesOthers(q.Fields)
	for i := range q.Fields {
		f := &q.Fields[i]
		if f.Kind == h1.KindTE && listed(f.Value, "trailers") {
			v.trailing = true // we take them, and pass them on
		}
		if f.Kind.Hop() || f.Kind == h1.KindContentLength || f.Kind == h1.KindHost ||
			requestOwned(f.Name) || custom && q.Named(f.Name) {
			f.Name = nil
		}
		if f.Kind == h1.KindTrailer {
			f.Value = announced(f.Value, requestOwned)
		}
	}
	fields := compact(q.Fields)
	add := func(name, value []byte) { fields = append(fields, h1.Field{Name: name, Value: value}) }
	addr := v.from.text
	if len(addr) > 0 {
		add(nameFor, addr)
	}
	add(nameHost, q.Host)
	proto := protoHTTPS
	if v.from.http {
		proto = protoHTTP
	}
	add(nameProto, proto)
	add(nameID, v.id[:])

	// Our own canonical check has left no quotes or backslashes in Host.
	at := len(v.scratch)
	b := append(v.scratch, "for="...)
	switch {
	case len(addr) == 0:
		b = append(b, "unknown"...) // RFC 7239, section 6.2
	case v.from.addr.Addr().Is6(): // section 6: colons and brackets are quoted
		b = append(append(append(b, `"[`...), addr...), `]"`...)
	default:
		b = append(b, addr...)
	}
	b = append(append(append(b, `;host="`...), q.Host...), `";proto=`...)
	v.scratch = append(b, proto...)
	add(nameForwarded, v.scratch[at:])
	q.Fields = fields
}

var (
	nameFor       = []byte("X-Forwarded-For")
	nameHost      = []byte("X-Forwarded-Host")
	nameProto     = []byte("X-Forwarded-Proto")
	nameID        = []byte("X-Request-Id")
	nameForwarded = []byte("Forwarded")
	protoHTTP     = []byte("http")
	protoHTTPS    = []byte("https")
)

// cleanAnswer makes the fields of a service's answer those that the visitor is
// sent. What goes is meant for this hop alone, named by Connection, or ours to
// say: where else this host is served, and how it is to be reached.
func cleanAnswer(v *visit, s *h1.Response) {
	custom := namesOthers(s.Fields)
	hsts := v.door.sayHSTS()
	if v.from.http {
		hsts = nil
	}
	for i := range s.Fields {
		f := &s.Fields[i]
		switch {
		case f.Kind.Hop(), f.Kind == h1.KindContentLength, answerOwned(f.Name),
			hsts != nil && like(f.Name, "strict-transport-security"),
			custom && s.Named(f.Name):
			f.Name = nil
		case f.Kind == h1.KindTrailer:
			f.Value = announced(f.Value, answerOwned)
		case len(f.Name) == len("set-cookie") && like(f.Name, "set-cookie"):
			f.Value = narrowed(f.Value, v.host)
		}
	}
	s.Fields = compact(s.Fields)
	if hsts != nil && s.Status >= 200 {
		s.Fields = append(s.Fields, h1.Field{Name: nameHSTS, Value: hsts})
	}
}

var nameHSTS = []byte("Strict-Transport-Security")

// cleanTrailers leaves out those that are ours to say. What may not be a
// trailer at all, reading has left out.
func cleanTrailers(fields []h1.Field, owned func([]byte) bool) []h1.Field {
	for i := range fields {
		if owned(fields[i].Name) {
			fields[i].Name = nil
		}
	}
	return compact(fields)
}

// announced is a list of trailers without those that will be left out.
func announced(list []byte, owned func([]byte) bool) []byte {
	var kept []byte
	for name := range bytes.SplitSeq(list, comma) {
		name = bytes.Trim(name, " \t")
		if len(name) == 0 || owned(name) || !h1.MayTrail(name) {
			continue
		}
		if len(kept) > 0 {
			kept = append(kept, ", "...)
		}
		kept = append(kept, name...)
	}
	return kept
}

// compact removes the fields without a name.
func compact(fields []h1.Field) []h1.Field {
	kept := fields[:0]
	for _, f := range fields {
		if f.Name != nil {
			kept = append(kept, f)
		}
	}
	return kept
}

// namesOthers reports whether Connection may name a field that would pass
// otherwise.
func namesOthers(fields []h1.Field) bool {
	for i := range fields {
		if fields[i].Kind != h1.KindConnection {
			continue
		}
		for option := range bytes.SplitSeq(fields[i].Value, comma) {
			option = bytes.Trim(option, " \t")
			if !like(option, "keep-alive") && !like(option, "close") && !like(option, "upgrade") {
				return true
			}
		}
	}
	return false
}

var comma = []byte(",")

// listed reports whether element, which is in lower case, is in a list.
func listed(list []byte, element string) bool {
	for e := range bytes.SplitSeq(list, comma) {
		if like(bytes.Trim(e, " \t"), element) {
			return true
		}
	}
	return false
}

// requestOwned reports whether a field is one in which a visitor could speak
// for us, in every spelling that a service might take for the same: CGI and its
// heirs make no difference between a hyphen and an underscore.
func requestOwned(name []byte) bool {
	switch name[0] | 0x20 {
	case 'x':
		return likePrefix(name, "x-forwarded") || like(name, "x-real-ip") || like(name, "x-request-id")
	case 'f':
		return like(name, "forwarded")
	case 'c':
		return likePrefix(name, "culvert-")
	}
	return false
}

// answerOwned reports whether a field of an answer is ours alone to write.
func answerOwned(name []byte) bool {
	switch name[0] | 0x20 {
	case 'a':
		return like(name, "alt-svc")
	case 'v':
		return like(name, "via")
	case 'c':
		return likePrefix(name, "culvert-")
	}
	return false
}

func like(name []byte, want string) bool {
	return len(name) == len(want) && likePrefix(name, want)
}

// likePrefix reports whether name begins like want, which is in lower case.
func likePrefix(name []byte, want string) bool {
	if len(name) < len(want) {
		return false
	}
	for i := range len(want) {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case c == '_':
			c = '-'
		}
		if c != want[i] {
			return false
		}
	}
	return true
}

func dated(fields []h1.Field) bool {
	for i := range fields {
		if len(fields[i].Name) == len("date") && like(fields[i].Name, "date") {
			return true
		}
	}
	return false
}

// fieldsOf gives the fields of a message of HTTP/2, in any order; false if one
// of them has no equal in HTTP/1.1.
func fieldsOf(fields []h1.Field, h http.Header) ([]h1.Field, bool) {
	size, n := 0, 0
	for name, values := range h {
		for _, value := range values {
			size += len(name) + len(value)
			n++
		}
	}
	fields = slices.Grow(fields, n+ours)
	text := make([]byte, 0, size) // never grows, so that what points into it stays
	for name, values := range h {
		if name == ":protocol" {
			continue
		}
		for _, value := range values {
			if !h1.ValidName(name) || !h1.ValidValue(value) {
				return nil, false
			}
			at := len(text)
			text = append(append(text, name...), value...)
			fields = append(fields, h1.Field{
				Name: text[at : at+len(name)], Value: text[at+len(name):], Kind: h1.KindOf(name),
			})
		}
	}
	return fields, true
}

// ours is how many fields we add.
const ours = 6
