package mux

// refHeader says what is wrong with a header.
func refHeader(kind byte, size int) (broken []string) {
	if kind > 0x0f && kind < 0x40 {
		broken = append(broken, refProtocol)
	}
	if kind <= 1 && size > 16384+16 || kind > 1 && size > 1024 {
		broken = append(broken, refFrameSize)
	}
	return broken
}

// refBody takes a body apart that follows a header.
func refBody(kind byte, body []byte) (n [3]uint64, tail []byte, broken []string) {
	if broken = refHeader(kind, len(body)); broken != nil {
		return n, nil, broken
	}
	return refTakeApart(kind, body)
}

// refFields is how many numbers a frame begins with.
var refFields = [...]int{2, 2, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1, 0, 1, 1, 2}

// refTakeApart gives a body's numbers and what comes after them.
func refTakeApart(kind byte, body []byte) (n [3]uint64, tail []byte, broken []string) {
	if kind == 0x0c || kind >= 0x40 {
		return n, body, nil
	}
	tail = body
	for i := range refFields[kind] {
		v, size, shortest := refNumber(tail)
		if size == 0 {
			return n, nil, []string{refProtocol}
		}
		if !shortest {
			broken = append(broken, refProtocol)
		}
		n[i], tail = v, tail[size:]
	}
	switch {
	case kind <= 1 && len(tail) > 16384, kind == 0x0b && len(tail) > 256:
		broken = append(broken, refFrameSize)
	case kind > 1 && kind != 0x0b && len(tail) > 0:
		broken = append(broken, refProtocol)
	}
	if (kind == 2 || kind == 3) && n[1] >= 1<<32 || kind == 0x0b && n[0] >= 1<<32 {
		broken = append(broken, refProtocol)
	}
	return n, tail, broken
}

// refNumber reads a number of RFC 9000, section 16; size 0: it is cut short.
func refNumber(b []byte) (v uint64, size int, shortest bool) {
	if len(b) == 0 || len(b) < 1<<(b[0]>>6) {
		return 0, 0, false
	}
	size = 1 << (b[0] >> 6)
	v = uint64(b[0] & 0x3f)
	for _, x := range b[1:size] {
		v = v<<8 | uint64(x)
	}
	need := 8
	switch {
	case v < 64:
		need = 1
	case v < 16384:
		need = 2
	case v < 1<<30:
		need = 4
	}
	return v, size, size == need
}
