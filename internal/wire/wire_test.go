package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata anew from the messages in this file")

var (
	agentID   = [16]byte{0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x10}
	sessionID = [16]byte{0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff}
	secret    = Key([]byte("0123456789abcdef0123456789abcdef"))
)

// golden is what stands in testdata/NAME.hex.
var golden = []struct {
	name string
	m    Message
}{
	{"hello", &Hello{Version: 1, Features: []string{"resume", "lanes"}, Agent: agentID, Token: "cvt_example", Software: "culvert/1.2.3"}},
	{"hello-least", &Hello{Version: 1, Agent: agentID, Token: "t"}},
	{"welcome", &Welcome{Version: 1, Features: []string{"resume"}, Session: sessionID, Domain: "tunnel.example.com", Software: "culvertd/1.2.3"}},
	{"welcome-resume", &Welcome{Version: 1, Session: sessionID, Domain: "tunnel.example.com", Secret: secret, Resume: 30_000}},
	{"join", &Join{Version: 1, Session: sessionID, Lane: 1, Token: "cvt_example", Proof: Proof(secret, sessionID, 1)}},
	{"join-late", &Join{Version: 1, Session: sessionID, Lane: 1 << 40, Token: "cvt_example", Proof: Proof(secret, sessionID, 1<<40)}},
	{"joined", &Joined{}},
	{"refused-join", &Refused{Code: SessionUnknown}},
	{"bind", &Bind{Request: 1, Name: "blog", HostHeader: "localhost"}},
	{"bind-random", &Bind{Request: 300}},
	{"bind-http2", &Bind{Request: 1, Name: "grpc", HTTP: HTTP2, ServiceTimeout: 90_000, Silence: Forever}},
	{"bind-pool", &Bind{Request: 1, Name: "blog", Takeover: TakeoverPool}},
	{"bound", &Bound{Request: 1, Name: "blog", URL: "https://blog.tunnel.example.com", Epoch: 1 << 40}},
	{"refused-session", &Refused{Code: Unauthorized, Reason: "unknown token"}},
	{"refused-bind", &Refused{Request: 1, Code: NameTaken, Reason: `"blog" belongs to somebody else`}},
	{"refused-retry", &Refused{Code: ShuttingDown, RetryAfter: 1500}},
	{"unbind", &Unbind{Request: 1<<32 - 1}},
	{"unbound", &Unbound{Request: 1, Code: Replaced, Reason: "another agent took over"}},
	{"drain", &Drain{Deadline: 30000, RetryAfter: 1000}},
	{"drain-now", &Drain{}},
	{"visit-v4", &Visit{Request: 1, ID: "01jd2v", Remote: netip.MustParseAddrPort("192.0.2.7:50123")}},
	{"visit-v6", &Visit{Request: 1, ID: "01jd2v", Remote: netip.MustParseAddrPort("[2001:db8::7]:443")}},
	{"visit-unknown", &Visit{Request: 1}},
}

// TestGolden holds us to the vectors that other implementations test against.
func TestGolden(t *testing.T) {
	seen := map[string]bool{}
	for _, g := range golden {
		file := filepath.Join("testdata", g.name+".hex")
		seen[file] = true
		if *update {
			text := fmt.Sprintf("# %s\n%s\n", describe(g.m), hex.EncodeToString(Append(nil, g.m)))
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want := readHex(t, file)
		if got := Append(nil, g.m); !bytes.Equal(got, want) {
			t.Errorf("%s: we write %x, want %x", g.name, got, want)
		}
		m, n, err := Parse(want)
		if err != nil || n != len(want) || !reflect.DeepEqual(m, g.m) {
			t.Errorf("%s: we read %+v (%d bytes, %v), want %+v", g.name, m, n, err, g.m)
		}
	}
	files, err := filepath.Glob("testdata/*.hex")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !seen[file] {
			t.Errorf("%s is tested by nobody", file)
		}
	}
}

// describe is the line above a vector: the message, for people.
func describe(m Message) string {
	v := reflect.ValueOf(m).Elem()
	var b strings.Builder
	b.WriteString(v.Type().Name())
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			continue
		}
		x := v.Field(i).Interface()
		if id, ok := x.([16]byte); ok {
			x = hex.EncodeToString(id[:])
		}
		switch key := x.(type) {
		case [32]byte:
			x = hex.EncodeToString(key[:])
		case Key: // one for examples may be seen
			x = hex.EncodeToString(key[:])
		}
		if v.Field(i).Kind() == reflect.String {
			x = fmt.Sprintf("%q", v.Field(i).String())
		}
		fmt.Fprintf(&b, " %s=%v", v.Type().Field(i).Name, x)
	}
	return b.String()
}

// readHex reads a vector: hex digits, white space, and comments behind #.
func readHex(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return b
}

// TestSpelling: what is refused although one could guess what was meant.
func TestSpelling(t *testing.T) {
	for _, tt := range []struct {
		name, hex string
		want      error
	}{
		{"tags descend", "03000007" + "020161" + "010101" + "00", errOrder},
		{"tag twice", "03000006" + "010101" + "010101", errOrder},
		{"tag zero", "03000002" + "0000", errOrder},
		{"tag not minimal", "03000004" + "81000101", errVarint},
		{"length not minimal", "03000004" + "01810001", errVarint},
		{"int not minimal", "03000004" + "01028100", errVarint},
		{"int beyond 32 bits", "03000007" + "0105ffffffff1f", errLong},
		{"int beyond 64 bits", "0400000f" + "010101" + "040a" + "ffffffffffffffffff7f", errVarint},
		{"int with a tail", "03000004" + "01020101", errLong},
		{"zero int", "03000003" + "010100", errZero},
		{"int without bytes", "03000002" + "0100", errCut},
		{"empty text", "03000005" + "010101" + "0200", errZero},
		{"empty list", "01000002" + "0200", errZero},
		{"empty list entry", "01000003" + "020100", errZero},
		{"list entry cut", "01000004" + "02020261", errCut},
		{"value beyond the body", "03000003" + "010201", errCut},
		{"tag alone", "03000001" + "01", errCut},
		{"control character", "03000003" + "02011b", errText},
		{"C1 control character", "03000004" + "0202c29b", errText},
		{"direction override", "03000005" + "0203e280ae", errText},
		{"not UTF-8", "03000003" + "0201ff", errText},
		{"short id", "01000003" + "030101", errLong},
		{"zero id", "01000012" + "0310" + strings.Repeat("00", 16), errZero},
		{"short key", "02000003" + "060101", errLong},
		{"long key", "02000023" + "0621" + strings.Repeat("01", 33), errLong},
		{"zero key", "02000022" + "0620" + strings.Repeat("00", 32), errZero},
		{"short proof", "09000003" + "050101", errLong},
		{"lane zero", "09000003" + "030100", errZero},
		{"mapped address", "10000014" + "0312" + "00000000000000000000ffff7f000001" + "0050", errAddress},
		{"no address", "10000004" + "03020050", errAddress},
		{"one byte of address", "10000003" + "030150", errAddress},
		{"body too large", "03ffffff", ErrMalformed},
		{"body one too large", "03004001", ErrMalformed},
	} {
		in, err := hex.DecodeString(tt.hex)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if len(in) > headSize {
			putLength(in, len(in)-headSize)
		}
		m, _, err := Parse(in)
		if !errors.Is(err, tt.want) || !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %+v, %v; want %v", tt.name, m, err, tt.want)
		}
	}
}

// TestLimits: every text has a length beyond which it is refused, by the one
// who would send it and by the one who would read it.
func TestLimits(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	many := func(n int) []string { return strings.Fields(strings.Repeat("f ", n)) }
	for _, tt := range []struct {
		fits, exceeds Message
	}{
		{&Bind{Name: long(MaxName)}, &Bind{Name: long(MaxName + 1)}},
		{&Bind{HostHeader: long(MaxHost)}, &Bind{HostHeader: long(MaxHost + 1)}},
		{&Hello{Token: Secret(long(MaxToken))}, &Hello{Token: Secret(long(MaxToken + 1))}},
		{&Hello{Software: long(MaxSoftware)}, &Hello{Software: long(MaxSoftware + 1)}},
		{&Hello{Features: many(MaxFeatures)}, &Hello{Features: many(MaxFeatures + 1)}},
		{&Hello{Features: []string{long(MaxFeature)}}, &Hello{Features: []string{long(MaxFeature + 1)}}},
		{&Bound{URL: long(MaxURL)}, &Bound{URL: long(MaxURL + 1)}},
		{&Refused{Reason: long(MaxReason)}, &Refused{Reason: long(MaxReason + 1)}},
		{&Visit{ID: long(MaxVisitID)}, &Visit{ID: long(MaxVisitID + 1)}},
		{&Visit{}, &Visit{ID: long(MaxBody)}},
		{&Visit{}, &Visit{ID: long(1 << 24)}},
	} {
		if err := Write(io.Discard, tt.fits); err != nil {
			t.Errorf("%T: %v, want it to fit", tt.fits, err)
		}
		var out bytes.Buffer
		if err := Write(&out, tt.exceeds); !errors.Is(err, ErrMalformed) || out.Len() > 0 {
			t.Errorf("%T: got %v and %d bytes, want a refusal and none", tt.exceeds, err, out.Len())
		}
		if _, _, err := Parse(Append(nil, tt.exceeds)); err == nil {
			t.Errorf("%T: read although it exceeds the limit", tt.exceeds)
		}
	}
}

// TestNewerPeer: fields and messages that we have never heard of pass us by.
func TestNewerPeer(t *testing.T) {
	var in []byte
	in = append(in, 0x7f, 0, 0, 3, 1, 2, 3)                      // an unknown message
	in = append(in, 0x03, 0, 0, 9, 1, 1, 7, 2, 1, 'a', 99, 1, 0) // a known one with a field behind
	in = append(in, Append(nil, &Drain{Deadline: 1})...)         // and all is well after it
	in = append(in, 0x04, 0, 0, 8, 1, 1, 7, 4, 1, 1, 5, 0)       // a field of no length
	r := bytes.NewReader(in)
	for _, want := range []Message{&Bind{Request: 7, Name: "a"}, &Drain{Deadline: 1}, &Bound{Request: 7, Epoch: 1}} {
		got, err := Read(r)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, %v; want %+v", got, err, want)
		}
	}
	if _, err := Read(r); err != io.EOF {
		t.Errorf("at the end: got %v, want io.EOF", err)
	}
}

// TestReadTakesItsOwn: what follows a message is the visitor's, and not ours to
// read.
func TestReadTakesItsOwn(t *testing.T) {
	r := bytes.NewReader(append(Append(nil, &Visit{Request: 1, ID: "a"}), "GET / HTTP/1.1"...))
	if _, err := Read(r); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "GET / HTTP/1.1" {
		t.Errorf("left %q to the visitor", rest)
	}
}

// TestCutOff: a message that ends early is not a clean end.
func TestCutOff(t *testing.T) {
	whole := Append(nil, &Bind{Request: 1, Name: "blog"})
	for n := range len(whole) {
		_, err := Read(bytes.NewReader(whole[:n]))
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if err != want {
			t.Errorf("after %d bytes: got %v, want %v", n, err, want)
		}
		if _, _, err := Parse(whole[:n]); err != ErrIncomplete {
			t.Errorf("Parse of %d bytes: got %v, want ErrIncomplete", n, err)
		}
	}
}

// TestCodes: the set is closed, spelled once, and a stranger's code is never final.
func TestCodes(t *testing.T) {
	seen := map[string]Code{}
	for c := Unauthorized; c <= NameHeld; c++ {
		s := c.String()
		if other, twice := seen[s]; twice || strings.HasPrefix(s, "code_") {
			t.Errorf("code %d is spelled %q, as is %d", c, s, other)
		}
		seen[s] = c
		if temporary := c == ShuttingDown || c == Internal || c == SessionUnknown || c == NameInUse; c.Final() == temporary {
			t.Errorf("%v: Final() = %v", c, c.Final())
		}
	}
	if c := Code(999); c.Final() || c.String() != "code_999" {
		t.Errorf("unknown code: %v, final %v", c, c.Final())
	}
}

func TestText(t *testing.T) {
	for _, tt := range []struct {
		in, want string
		most     int
	}{
		{"plain", "plain", 10},
		{"two\nlines\x1b[31m", "two lines [31m", 20},
		{"cut here", "cut", 3},
		{"ü", "", 1},
		{"\xff", "\uFFFD", 5},
	} {
		if got := Text(tt.in, tt.most); got != tt.want {
			t.Errorf("Text(%q, %d) = %q, want %q", tt.in, tt.most, got, tt.want)
		}
	}
}

// TestSecret: a token in a message that somebody prints is not a token told.
func TestSecret(t *testing.T) {
	for _, m := range []Message{&Hello{Token: "cvt_canary"}, &Join{Token: "cvt_canary"}, &Welcome{Secret: Key([]byte("canary canary canary canary canar"[:32]))}} {
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			if got := fmt.Sprintf(format, m); strings.Contains(got, "canary") || strings.Contains(got, "99 97 110") {
				t.Errorf("%s prints %s", format, got)
			}
		}
		if b, err := json.Marshal(m); err != nil || strings.Contains(string(b), "canary") || strings.Contains(string(b), "99,97,110") {
			t.Errorf("JSON says %s, %v", b, err)
		}
	}
}

// TestProof: it is worth something for one lane of one session, and tells
// nothing of the secret.
func TestProof(t *testing.T) {
	const want = "553ee197bc4a2d1637cfac5a2f6d42e4ef42fc82ca90023fbc192e4af8b03ea1" // openssl dgst -sha256 -mac HMAC agrees
	proof := Proof(secret, sessionID, 7)
	if got := hex.EncodeToString(proof[:]); got != want {
		t.Errorf("the proof is %s, want %s", got, want)
	}
	if !secret.Proves(proof, sessionID, 7) {
		t.Error("the proof of lane 7 was not believed")
	}
	other := secret
	other[31]++
	for why, proved := range map[string]bool{
		"another lane":    secret.Proves(proof, sessionID, 8),
		"another session": secret.Proves(proof, agentID, 7),
		"another secret":  other.Proves(proof, sessionID, 7),
		"no proof":        secret.Proves([32]byte{}, sessionID, 7),
		"no secret":       Key{}.Proves(Proof(Key{}, sessionID, 7), sessionID, 7),
	} {
		if proved {
			t.Errorf("%s: believed", why)
		}
	}
}

// TestReadFirst: who has proved nothing is not given much room, nor skipped.
func TestReadFirst(t *testing.T) {
	in := append(Append(nil, &Join{Version: 1, Lane: 1}), "culvmux"...)
	r := bytes.NewReader(in)
	if m, err := ReadFirst(r); err != nil || m.Type() != TypeJoin {
		t.Errorf("got %+v, %v", m, err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "culvmux" {
		t.Errorf("left %q to the mux", rest)
	}
	for why, in := range map[string]string{
		"too long":          "\x01\x00\x10\x01" + strings.Repeat("x", 5000),
		"an unknown one":    "\x7f\x00\x00\x00" + string(in),
		"HTTP":              "GET / HTTP/1.1\r\n\r\n",
		"a mux of long ago": "culvmux\x01",
	} {
		r := strings.NewReader(in)
		if m, err := ReadFirst(r); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %+v, %v; want it to be malformed", why, m, err)
		}
		if left := r.Len(); left < len(in)-headSize {
			t.Errorf("%s: took %d bytes", why, len(in)-left)
		}
	}
}

func TestDurations(t *testing.T) {
	if got := Milliseconds(-time.Second); got != 0 {
		t.Errorf("a second ago: %d", got)
	}
	if got := Milliseconds(1 << 62); got != 1<<32-1 {
		t.Errorf("for ever: %d", got)
	}
	if got := Duration(1<<32-1, time.Minute); got != time.Minute {
		t.Errorf("a peer's 49 days became %v, want the minute we allow", got)
	}
}

// TestTimeouts: what goes out comes in again, and what is neither a time nor
// for ever is told from both.
func TestTimeouts(t *testing.T) {
	for d, want := range map[time.Duration]time.Duration{
		0: 0, time.Minute: time.Minute, MaxTimeout: MaxTimeout, -1: -1, -time.Hour: -1,
		1: time.Millisecond, time.Millisecond + 1: 2 * time.Millisecond, // never none, which is the default
	} {
		if got := TimeoutOf(d); !got.Valid() || got.Duration() != want {
			t.Errorf("%v travels as %d and arrives as %v, valid %v; want %v", d, got, got.Duration(), got.Valid(), want)
		}
	}
	for _, bad := range []Timeout{TimeoutOf(MaxTimeout + 1), TimeoutOf(1<<63 - 1), Forever - 1} {
		if bad.Valid() {
			t.Errorf("%d is valid", bad)
		}
	}
	for h, want := range map[HTTP]bool{HTTP1: true, 1: false, HTTP2: true, 3: false, 65535: false} {
		if h.Known() != want {
			t.Errorf("HTTP %d: known is %v", h, !want)
		}
	}
}

// FuzzMessage holds three laws. There is one spelling for every message, and we
// accept no other; the exception are fields of a newer peer, which we forget.
// What we write, we read. What we would refuse to read, Write refuses to write.
func FuzzMessage(f *testing.F) {
	for _, g := range golden {
		f.Add(Append(nil, g.m))
	}
	f.Add([]byte{0x03, 0, 0, 5, 1, 1, 7, 99, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		m, n, skipped, err := parse(in)
		if err != nil || m == nil {
			return
		}
		out := Append(nil, m)
		if skipped == 0 && !bytes.Equal(out, in[:n]) {
			t.Errorf("read %x but would write %x", in[:n], out)
		}
		if skipped > 0 && len(out) >= n {
			t.Errorf("read %x with %d unknown fields, but would write as much: %x", in[:n], skipped, out)
		}
		again, _, err := Parse(out)
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("wrote %x for %+v and read %+v, %v", out, m, again, err)
		}
		if err := Write(io.Discard, m); err != nil {
			t.Errorf("would not write what we read: %v", err)
		}
	})
}
