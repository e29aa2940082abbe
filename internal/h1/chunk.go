package h1

const (
	// maxChunkDigits keeps the size of a chunk within an int64.
	maxChunkDigits = 15

	// maxChunkLine bounds the line before a chunk.
	maxChunkLine = 1 << 10

	// A sender of small chunks sends more framing than bytes, and may: one by
	// one, "1\r\nX\r\n" is five bytes of it for one. But a body may not be
	// nothing else (CVE-2023-39326). A chunk pays for chunkGrant bytes of
	// framing and for twice its size, as in net/http, and what is not paid
	// may not grow beyond maxChunkDebt.
	chunkGrant   = 16
	maxChunkDebt = 16 << 10
)

// chunks is how far the framing of a chunked body was read (RFC 9112, section
// 7.1). It may stop behind every byte.
type chunks struct {
	state  chunkState
	size   int64 // of the chunk whose line is being read
	digits int   // of its size
	line   int   // bytes of that line
	debt   int64
}

type chunkState uint8

const (
	atSize    chunkState = iota // the first digit of a size
	inSize                      // the next, or what ends it
	extBefore                   // whitespace before a semicolon
	extAt                       // whitespace, or the first byte of a name
	extName
	extAfterName // whitespace before an equals sign
	extAtValue   // whitespace, or the first byte of a value
	extValue
	extQuoted  // within quotation marks
	extEscaped // behind a backslash
	extUnquoted
	sizeEnd    // the line feed behind a size
	inChunk    // the bytes of a chunk come next
	afterChunk // the carriage return behind them
	chunkEnd   // the line feed behind them
	afterLast  // the trailer section comes next
)

// frame goes on in b, and returns how many bytes of it are framing. It stops
// behind b, or in state inChunk or afterLast. A reason says what is wrong.
func (c *chunks) frame(b []byte) (n int, reason string) {
	for n < len(b) && c.state != inChunk && c.state != afterLast {
		if c.line++; c.line > maxChunkLine {
			return n, "chunk line too long"
		}
		if reason := c.step(b[n]); reason != "" {
			return n, reason
		}
		n++
	}
	return n, ""
}

// step looks at one byte.
func (c *chunks) step(b byte) (reason string) {
	is := class[b]
	switch c.state {
	case atSize, inSize:
		if is&inHex != 0 {
			if c.digits++; c.digits > maxChunkDigits {
				return "chunk too big"
			}
			c.size, c.state = c.size<<4|int64(hexValue(b)), inSize
			return ""
		}
		if c.state == atSize {
			return "malformed chunk size"
		}
		return c.extension(b, extBefore)
	case extBefore:
		if b == ';' || isSpace(b) {
			return c.extension(b, extBefore)
		}
	case extAt:
		if isSpace(b) {
			return ""
		}
		if is&inToken != 0 {
			c.state = extName
			return ""
		}
	case extName:
		if is&inToken != 0 {
			return ""
		}
		return c.extension(b, extAfterName)
	case extAfterName:
		if b != '\r' {
			return c.extension(b, extAfterName)
		}
	case extAtValue:
		switch {
		case isSpace(b):
			return ""
		case b == '"':
			c.state = extQuoted
			return ""
		case is&inToken != 0:
			c.state = extValue
			return ""
		}
	case extValue:
		if is&inToken != 0 {
			return ""
		}
		return c.extension(b, extBefore)
	case extQuoted:
		switch {
		case b == '"':
			c.state = extUnquoted
			return ""
		case b == '\\':
			c.state = extEscaped
			return ""
		case is&inValue != 0:
			return ""
		}
	case extEscaped:
		if is&inValue != 0 {
			c.state = extQuoted
			return ""
		}
	case extUnquoted:
		return c.extension(b, extBefore)
	case sizeEnd:
		if b == '\n' {
			return c.lineDone()
		}
		return "carriage return without line feed"
	case afterChunk:
		if b == '\r' {
			c.state = chunkEnd
			return ""
		}
		return "chunk longer than its size"
	case chunkEnd:
		if b == '\n' {
			c.state, c.size, c.digits = atSize, 0, 0
			return ""
		}
		return "carriage return without line feed"
	}
	return "malformed chunk extension"
}

// extension takes a byte that ends a size, a name or a value: the end of the
// line, or the delimiter of the next part. Whitespace may stand before that,
// which space then is about; it must be read, though nobody should send it
// (RFC 9110, section 5.6.3). At the end of the line, none may.
func (c *chunks) extension(b byte, space chunkState) (reason string) {
	switch {
	case b == '\r':
		c.state = sizeEnd
	case b == ';':
		c.state = extAt
	case b == '=' && space == extAfterName:
		c.state = extAtValue
	case isSpace(b):
		c.state = space
	default:
		if c.state == inSize {
			return "malformed chunk size"
		}
		return "malformed chunk extension"
	}
	return ""
}

// lineDone does the accounts at the end of the line of a chunk.
func (c *chunks) lineDone() (reason string) {
	c.debt = max(c.debt+int64(c.line)-chunkGrant-2*c.size, 0)
	if c.debt > maxChunkDebt {
		return "more framing than body"
	}
	c.state, c.line = inChunk, 0
	if c.size == 0 {
		c.state = afterLast
	}
	return ""
}

func hexValue(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}
