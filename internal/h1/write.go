package h1

import (
	"fmt"
	"strconv"
)

// The functions of this file write to the end of dst, in the canonical spelling: one
// space, ": ", CRLF, and version 1.1 always (RFC 9110, section 2.5). They panic
// when that would not be the message that was meant: whoever passes on what
// comes from elsewhere, as from HTTP/2, asks a Valid function first. What a
// Reader returned is valid.

// AppendRequestLine writes the first line of a request (RFC 9112, section 3).
// The target is in origin form, or "*" with OPTIONS: what [Request.AppendTarget]
// makes of any other.
func AppendRequestLine[M, T ~string | ~[]byte](dst []byte, method M, target T) []byte {
	if !ValidMethod(method) || !ValidTarget(method, target) {
		panic("BUG: request line that nobody could read")
	}
	dst = append(dst, method...)
	dst = append(dst, ' ')
	dst = append(dst, target...)
	return append(dst, " HTTP/1.1\r\n"...)
}

// AppendStatusLine writes the first line of an answer (RFC 9112, section 4).
// The reason may be empty.
func AppendStatusLine[T ~string | ~[]byte](dst []byte, status int, reason T) []byte {
	if status < 100 || status > 599 {
		panic(fmt.Sprintf("BUG: status %d", status))
	}
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendUint(dst, uint64(status), 10)
	dst = append(dst, ' ')
	at := len(dst)
	dst = append(dst, reason...)
	if valueEnd(dst, at) != len(dst) {
		panic("BUG: control character in reason")
	}
	return append(dst, "\r\n"...)
}

// AppendField writes a field (RFC 9112, section 5).
func AppendField[N, V ~string | ~[]byte](dst []byte, name N, value V) []byte {
	at := len(dst)
	dst = append(dst, name...)
	if len(name) == 0 || tokenEnd(dst, at) != len(dst) {
		panic("BUG: field name is no token")
	}
	dst = append(dst, ": "...)
	at = len(dst)
	dst = append(dst, value...)
	if valueEnd(dst, at) != len(dst) || len(value) > 0 && (isSpace(dst[at]) || isSpace(dst[len(dst)-1])) {
		panic("BUG: field value that nobody could read")
	}
	return append(dst, "\r\n"...)
}

// AppendLength writes the field that frames a body (RFC 9112, section 6):
// Content-Length, or for [Chunked] Transfer-Encoding. For [UntilClose] there is
// none.
func AppendLength(dst []byte, n int64) []byte {
	switch {
	case n == Chunked:
		return append(dst, "Transfer-Encoding: chunked\r\n"...)
	case n == UntilClose:
		return dst
	case n < 0:
		panic(fmt.Sprintf("BUG: length %d", n))
	}
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, "\r\n"...)
}

// AppendEnd writes the empty line behind the fields.
func AppendEnd(dst []byte) []byte { return append(dst, "\r\n"...) }

// AppendChunkSize writes the line before a chunk of n > 0 bytes. Behind these
// comes [AppendEnd].
func AppendChunkSize(dst []byte, n int) []byte {
	if n <= 0 {
		panic(fmt.Sprintf("BUG: chunk of %d bytes", n))
	}
	dst = strconv.AppendUint(dst, uint64(n), 16)
	return append(dst, "\r\n"...)
}

// AppendChunk writes a whole chunk (RFC 9112, section 7.1), which must not be
// empty: that would be the last.
func AppendChunk[T ~string | ~[]byte](dst []byte, data T) []byte {
	dst = AppendChunkSize(dst, len(data))
	dst = append(dst, data...)
	return AppendEnd(dst)
}

// AppendLastChunk ends a chunked body, with trailers if there are any (RFC 9112,
// section 7.1.2). They must be such as [MayTrail] lets pass.
func AppendLastChunk(dst []byte, trailers []Field) []byte {
	dst = append(dst, "0\r\n"...)
	for i := range trailers {
		if !MayTrail(trailers[i].Name) {
			panic("BUG: field that may not be a trailer")
		}
		dst = AppendField(dst, trailers[i].Name, trailers[i].Value)
	}
	return AppendEnd(dst)
}

// ValidName says whether name can be that of a field: a token (RFC 9110,
// section 5.1).
func ValidName[T ~string | ~[]byte](name T) bool { return len(name) > 0 && only(name, inToken) }

// ValidValue says whether value can be that of a field: without control
// characters but tabs, and without whitespace at its ends (RFC 9110, section
// 5.5). It may be empty.
func ValidValue[T ~string | ~[]byte](value T) bool {
	if len(value) == 0 {
		return true
	}
	return !isSpace(value[0]) && !isSpace(value[len(value)-1]) && only(value, inValue)
}

// ValidMethod says whether method can be that of a request that we would take.
func ValidMethod[T ~string | ~[]byte](method T) bool {
	return ValidName(method) && len(method) <= maxMethod &&
		string(method) != "CONNECT" && string(method) != "PRI"
}

// ValidTarget says whether target can be that of a request that an origin
// server is sent: in origin form and of the characters that we would take, or
// "*" with OPTIONS (RFC 9112, section 3.2).
func ValidTarget[M, T ~string | ~[]byte](method M, target T) bool {
	if len(target) == 0 || target[0] != '/' {
		return string(target) == "*" && string(method) == "OPTIONS"
	}
	return only(target, inTarget)
}

// only says whether all of s may be part of that.
func only[T text](s T, as uint8) bool {
	for i := range len(s) {
		if class[s[i]]&as == 0 {
			return false
		}
	}
	return true
}
