package session

import (
	"fmt"

	"github.com/culvertd/culvert/internal/h1"
	"github.com/culvertd/culvert/internal/router"
	"github.com/culvertd/culvert/internal/wire"
)

// options are what the agent says of its service, or why it cannot be taken at
// its word.
func options(m *wire.Bind) (opt router.Options, why string) {
	switch {
	case m.HostHeader != "" && !h1.ValidHost(m.HostHeader):
		return opt, "the host header is not a host"
	case !m.HTTP.Known():
		return opt, fmt.Sprintf("this node knows no service that speaks HTTP of the number %d", m.HTTP)
	case !m.Takeover.Known():
		return opt, fmt.Sprintf("this node knows no takeover of the number %d", m.Takeover)
	case !m.ServiceTimeout.Valid():
		return opt, fmt.Sprintf("the service timeout is longer than %v", wire.MaxTimeout)
	case !m.Silence.Valid():
		return opt, fmt.Sprintf("the silence is longer than %v", wire.MaxTimeout)
	}
	opt = router.Options{
		HostHeader:     m.HostHeader,
		ServiceTimeout: m.ServiceTimeout.Duration(),
		Silence:        m.Silence.Duration(),
	}
	if m.HTTP == wire.HTTP2 {
		opt.Proto = router.H2
	}
	return opt, ""
}
