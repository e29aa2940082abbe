package h1

import (
	"strings"
	"testing"
)

// TestKinds: every name is known in every case, and no other of its length is.
func TestKinds(t *testing.T) {
	names := map[string]Kind{
		"Connection": KindConnection, "Content-Length": KindContentLength, "Expect": KindExpect, "Host": KindHost,
		"HTTP2-Settings": KindHTTP2Settings, "Keep-Alive": KindKeepAlive, "Proxy-Authenticate": KindProxyAuthenticate,
		"Proxy-Authentication-Info": KindProxyAuthInfo, "Proxy-Authorization": KindProxyAuthorization,
		"Proxy-Connection": KindProxyConnection, "TE": KindTE, "Trailer": KindTrailer,
		"Transfer-Encoding": KindTransferEncoding, "Upgrade": KindUpgrade,
	}
	hops := 0
	for name, want := range names {
		for _, spelling := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
			if got := KindOf(spelling); got != want {
				t.Errorf("%s is of kind %d, want %d", spelling, got, want)
			}
		}
		for i := range len(name) {
			for c := range 256 {
				other := name[:i] + string([]byte{byte(c)}) + name[i+1:]
				if ValidName(other) && !strings.EqualFold(other, name) && KindOf(other) != KindOther {
					t.Errorf("%s is of kind %d", other, KindOf(other))
				}
			}
		}
		if want.Hop() {
			hops++
		}
	}
	if hops != len(names)-4 { // all but Content-Length, Expect, Host and Trailer
		t.Errorf("%d names are for one hop, want %d", hops, len(names)-4)
	}
	if KindOther.Hop() {
		t.Error("all others are for one hop")
	}
}
