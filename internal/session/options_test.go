package session

import (
	"testing"
	"time"

	"github.com/culvertd/culvert/internal/router"
	"github.com/culvertd/culvert/internal/wire"
)

// TestOptions: what an agent says of its service arrives at the router.
func TestOptions(t *testing.T) {
	bubble(t, func(f *fixture) {
		p := f.join("ann-1", 1)
		request := uint32(0)
		for _, tt := range []struct {
			bind wire.Bind
			want router.Options
		}{
			{wire.Bind{}, router.Options{}},
			{wire.Bind{HostHeader: "[::1]:3000", HTTP: wire.HTTP2}, router.Options{HostHeader: "[::1]:3000", Proto: router.H2}},
			{wire.Bind{ServiceTimeout: 1, Silence: 86_400_000}, router.Options{ServiceTimeout: time.Millisecond, Silence: 24 * time.Hour}},
			{wire.Bind{ServiceTimeout: wire.Forever, Silence: wire.Forever}, router.Options{ServiceTimeout: -1, Silence: -1}},
		} {
			request++
			tt.bind.Request, tt.bind.Name = request, "blog"
			p.say(&tt.bind)
			p.want("bind", &wire.Bound{Request: request, Name: "blog", URL: "https://blog.node.test"})
			if got, err := f.router.Lookup("blog.node.test"); got.Options != tt.want || err != nil {
				f.Errorf("%+v became %+v, %v; want %+v", tt.bind, got.Options, err, tt.want)
			}
			p.say(&wire.Unbind{Request: request})
		}
	})
}

// TestOptionsRefused: what is no host, no HTTP or no time is not taken for one,
// and the name is not given either.
func TestOptionsRefused(t *testing.T) {
	bubble(t, func(f *fixture) {
		p := f.join("ann-1", 1)
		for i, bind := range []wire.Bind{
			{HostHeader: "a\u00a0b"},
			{HostHeader: "a/b"},
			{HostHeader: ":3000"},
			{HTTP: 1},
			{HTTP: 3},
			{ServiceTimeout: 86_400_001},
			{Silence: wire.Forever - 1},
		} {
			bind.Request, bind.Name = uint32(i+1), "blog"
			p.say(&bind)
			if m := p.wantRefused("an option", bind.Request, wire.OptionInvalid); m.Reason == "" {
				f.Errorf("%+v was refused without a reason", bind)
			}
			f.wantNobody("after that", "blog")
		}
		p.bind(20, "blog")
	})
}
