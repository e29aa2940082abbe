package h1

// A Kind says which of the names that the machinery of HTTP/1.1 cares for a
// field has.
type Kind uint8

const (
	KindOther              Kind = iota
	KindConnection              // RFC 9110, section 7.6.1
	KindContentLength           // RFC 9110, section 8.6
	KindExpect                  // RFC 9110, section 10.1.1
	KindHost                    // RFC 9110, section 7.2
	KindHTTP2Settings           // RFC 7540, section 3.2.1: of an upgrade that RFC 9113 took back
	KindKeepAlive               // RFC 9110, section 7.6.1
	KindProxyAuthenticate       // RFC 9110, section 11.7.1
	KindProxyAuthInfo           // RFC 9110, section 11.7.3
	KindProxyAuthorization      // RFC 9110, section 11.7.2
	KindProxyConnection         // RFC 9110, section 7.6.1
	KindTE                      // RFC 9110, section 10.1.4
	KindTrailer                 // RFC 9110, section 6.6.2
	KindTransferEncoding        // RFC 9112, section 6.1
	KindUpgrade                 // RFC 9110, section 7.8
)

// Hop says whether fields of this kind concern one connection only, whether or
// not Connection names them: those of RFC 9110, section 7.6.1, and those by
// which a proxy and its neighbour know each other. Trailer is none of them,
// and neither is Content-Length.
func (k Kind) Hop() bool {
	switch k {
	case KindConnection, KindHTTP2Settings, KindKeepAlive, KindProxyAuthenticate,
		KindProxyAuthInfo, KindProxyAuthorization, KindProxyConnection, KindTE,
		KindTransferEncoding, KindUpgrade:
		return true
	}
	return false
}

// KindOf returns the kind of the field name, in any case.
func KindOf[T ~string | ~[]byte](name T) Kind {
	switch len(name) {
	case 2:
		if is(name, "te") {
			return KindTE
		}
	case 4:
		if is(name, "host") {
			return KindHost
		}
	case 6:
		if is(name, "expect") {
			return KindExpect
		}
	case 7:
		if is(name, "upgrade") {
			return KindUpgrade
		}
		if is(name, "trailer") {
			return KindTrailer
		}
	case 10:
		if is(name, "connection") {
			return KindConnection
		}
		if is(name, "keep-alive") {
			return KindKeepAlive
		}
	case 14:
		if is(name, "content-length") {
			return KindContentLength
		}
		if is(name, "http2-settings") {
			return KindHTTP2Settings
		}
	case 16:
		if is(name, "proxy-connection") {
			return KindProxyConnection
		}
	case 17:
		if is(name, "transfer-encoding") {
			return KindTransferEncoding
		}
	case 18:
		if is(name, "proxy-authenticate") {
			return KindProxyAuthenticate
		}
	case 19:
		if is(name, "proxy-authorization") {
			return KindProxyAuthorization
		}
	case 25:
		if is(name, "proxy-authentication-info") {
			return KindProxyAuthInfo
		}
	}
	return KindOther
}

// MayTrail says whether the field name may stand in a trailer section. Those
// that frame, route, authenticate, modify a request, control an answer or say
// how its content is to be understood may not (RFC 9110, section 6.5.1): whoever
// merges trailers into a head would believe them too late.
func MayTrail[T ~string | ~[]byte](name T) bool {
	if KindOf(name) != KindOther {
		return false
	}
	for _, never := range neverTrail {
		if same(name, never) {
			return false
		}
	}
	switch {
	case hasPrefix(name, "content-"):
		// RFC 9530, section 2: made to be sent when the content is known.
		return same(name, "content-digest")
	case hasPrefix(name, "if-"), hasPrefix(name, "proxy-"):
		return false
	}
	return true
}

var neverTrail = [...]string{
	"max-forwards", "via", "forwarded", // routing
	"cache-control", "pragma", "range", "prefer", // modifiers of requests
	"authorization", "www-authenticate", "authentication-info", "cookie", "set-cookie",
	"age", "expires", "date", "location", "retry-after", "vary", "warning", // control of answers
	"accept-ranges", "alt-svc", "allow", "strict-transport-security",
}

// is compares name with lower, which is as long and has no upper case. Only a
// letter of the other case, or a control character, differs in that bit alone
// from what stands in lower; and in tokens, values and targets is none of the
// latter.
func is[T text](name T, lower string) bool {
	for i := range len(lower) {
		if name[i]|0x20 != lower[i] {
			return false
		}
	}
	return true
}

// same is is for names and values of any length.
func same[T text](name T, lower string) bool {
	return len(name) == len(lower) && is(name, lower)
}

func hasPrefix[T text](name T, lower string) bool {
	return len(name) >= len(lower) && is(name, lower)
}
