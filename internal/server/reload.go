package server

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/culvertd/culvert/internal/certs"
	"github.com/culvertd/culvert/internal/name"
)

// A setting is one of a Config, as operators call it. To add one that can be
// reloaded, add it here, and where it is used: in Config.edge, or in Reload.
type setting struct {
	name string
	is   any
}

// fixed are the settings with which a node lives and dies.
func (c Config) fixed() []setting {
	return []setting{
		{"domain", c.Domain}, {"data", c.Data}, {"listen", c.listen()}, {"http", c.HTTP}, {"tls", c.tls()},
	}
}

// loose are those that can change meanwhile.
func (c Config) loose() []setting {
	return []setting{
		{"cert", c.CertFile}, {"key", c.KeyFile}, {"trusted-proxy", c.TrustedProxies}, {"drain", c.drain()},
		{"resume", c.Resume}, {"hold", c.Hold}, {"hold-max", c.HoldMax},
		{"head-timeout", c.HeadTimeout}, {"service-timeout", c.ServiceTimeout}, {"silence", c.Silence},
		{"idle-timeout", c.IdleTimeout}, {"min-rate", c.MinRate}, {"hsts", c.HSTS}, {"max-visitors", c.MaxVisitors},
	}
}

// differ names the settings that differ.
func differ(a, b []setting) (names []string) {
	for i := range a {
		if !reflect.DeepEqual(a[i].is, b[i].is) {
			names = append(names, a[i].name)
		}
	}
	return names
}

// FixedError means that settings would have changed that cannot while the node
// runs. Nothing was applied.
type FixedError struct{ Names []string }

func (e *FixedError) Error() string {
	return fmt.Sprintf("%s cannot change while the node runs; nothing was applied", strings.Join(e.Names, ", "))
}

// Reload puts what can change of cfg in force, and reads certificate files
// again: all of it or, with an error, nothing. Tunnels and visitors who are here
// stay. It returns the names of the settings that have changed. Fields that are
// no settings are ignored.
func (n *Node) Reload(cfg Config) (changed []string, err error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg.Domain, _ = name.Host(cfg.Domain)
	n.mu.Lock()
	defer n.mu.Unlock() // held while files are read: one reload after the other
	r := n.running
	if r == nil {
		return nil, ErrNotRunning
	}
	if names := differ(n.cfg.fixed(), cfg.fixed()); len(names) > 0 {
		return nil, &FixedError{names}
	}
	if cfg.tls() == TLSFiles {
		pair, err := certs.OpenPair(cfg.CertFile, cfg.KeyFile, n.log)
		if err != nil {
			return nil, cfg.pairError(err)
		}
		r.pair.Store(pair)
	}
	changed = differ(n.latest.loose(), cfg.loose())
	n.latest = cfg
	r.edge.Set(cfg.edge())
	r.routes.SetHold(cfg.Hold, cfg.HoldMax)
	r.sessions.SetResume(cfg.Resume)
	n.log.Info("settings reloaded", "changed", changed)
	return changed, nil
}
