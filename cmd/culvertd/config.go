package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/culvertd/culvert/internal/server"
)

// settings are what serve can be told: by a file, and over it by flags. The
// names are the same in both.
type settings struct {
	domain, listen, http, data string
	tls, cert, key             string
	trustedProxy               []string
	drain, resume, hold        time.Duration
	holdMax                    int

	headTimeout, serviceTimeout, silence, idleTimeout, hsts time.Duration
	minRate, maxVisitors                                    int
}

// defaults are the settings when nobody says anything.
func defaults() settings {
	return settings{
		listen: ":443", http: ":80", tls: "internal", drain: 30 * time.Second,
		resume: 30 * time.Second, hold: 10 * time.Second, holdMax: 100,
		headTimeout: 10 * time.Second, serviceTimeout: time.Minute, silence: 5 * time.Minute,
		idleTimeout: 5 * time.Minute, minRate: 240, maxVisitors: 16384,
	}
}

// maxConfig bounds the file.
const maxConfig = 1 << 20

// fields says how each key of the file is read.
func (s *settings) fields() map[string]any {
	return map[string]any{
		"domain": &s.domain, "listen": &s.listen, "http": &s.http, "data": &s.data,
		"tls": &s.tls, "cert": &s.cert, "key": &s.key,
		"trusted-proxy": &s.trustedProxy, "drain": &s.drain,
		"resume": &s.resume, "hold": &s.hold, "hold-max": &s.holdMax,
		"head-timeout": &s.headTimeout, "service-timeout": &s.serviceTimeout, "silence": &s.silence,
		"idle-timeout": &s.idleTimeout, "hsts": &s.hsts, "min-rate": &s.minRate, "max-visitors": &s.maxVisitors,
	}
}

// load reads a YAML file into s. What it does not know it refuses, with the
// line and the key that was probably meant.
func (s *settings) load(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return &usageError{"config " + err.Error(), "name the file with --config"}
	}
	if info.Size() > maxConfig {
		return &usageError{fmt.Sprintf("config %s: larger than 1 MiB", path), ""}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return &usageError{"config " + err.Error(), ""}
	}
	return s.parse(path, raw)
}

func (s *settings) parse(path string, raw []byte) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return &usageError{fmt.Sprintf("config %s: %s", path, plainYAML(err)), ""}
	}
	if doc.Kind == 0 {
		return nil // an empty file is one with nothing to say
	}
	top := doc.Content[0]
	at := func(n *yaml.Node, text, advice string) error {
		return &usageError{fmt.Sprintf("config %s:%d: %s", path, n.Line, text), advice}
	}
	if top.Kind != yaml.MappingNode {
		return at(top, "want lines of the form key: value", "for example domain: tunnel.example.com")
	}
	fields, seen := s.fields(), make(map[string]int)
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		into, ok := fields[key.Value]
		if !ok {
			return at(key, fmt.Sprintf("unknown key %q", key.Value), meant(key.Value, fields))
		}
		if line := seen[key.Value]; line != 0 {
			return at(key, fmt.Sprintf("%s stands here a second time; the first is in line %d", key.Value, line), "")
		}
		seen[key.Value] = key.Line
		if list, ok := into.(*[]string); ok && value.Kind == yaml.ScalarNode && value.Tag != "!!null" {
			*list = []string{value.Value} // one is a list, too
			continue
		}
		if d, ok := into.(*time.Duration); ok && value.Value == "0" {
			*d = 0 // needs no unit, as on the command line
			continue
		}
		if err := value.Decode(into); err != nil {
			return at(value, fmt.Sprintf("%s: %q is not %s", key.Value, value.Value, kind(into)), "")
		}
	}
	return nil
}

// meant suggests what to write instead of an unknown key.
func meant(key string, fields map[string]any) string {
	known := make([]string, 0, len(fields))
	for k := range fields {
		known = append(known, k)
	}
	slices.Sort(known)
	if near := nearest(strings.ReplaceAll(strings.ToLower(key), "_", "-"), known); near != "" {
		return fmt.Sprintf("did you mean %s?", near)
	}
	return "the keys are " + strings.Join(known, ", ")
}

func kind(into any) string {
	switch into.(type) {
	case *time.Duration:
		return "a duration, as in 30s"
	case *[]string:
		return "a list"
	case *int:
		return "a whole number"
	}
	return "a text"
}

// plainYAML drops what the parser puts before its line number.
func plainYAML(err error) string {
	if e, ok := errors.AsType[*yaml.TypeError](err); ok {
		return strings.Join(e.Errors, "; ")
	}
	return strings.TrimPrefix(err.Error(), "yaml: ")
}

// config makes of the settings what the server wants.
func (s *settings) config() (server.Config, error) {
	cfg := server.Config{
		Domain: s.domain, Data: s.data, Listen: s.listen, HTTP: s.http,
		TLS: server.TLS(s.tls), CertFile: s.cert, KeyFile: s.key, Drain: off(s.drain),
		Resume: off(s.resume), Hold: off(s.hold), HoldMax: off(s.holdMax),
		HeadTimeout: off(s.headTimeout), ServiceTimeout: off(s.serviceTimeout), Silence: off(s.silence),
		IdleTimeout: off(s.idleTimeout), HSTS: s.hsts, MinRate: off(s.minRate), MaxVisitors: off(s.maxVisitors),
	}
	for _, text := range s.trustedProxy {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			addr, err := netip.ParseAddr(text)
			if err != nil || addr.Zone() != "" {
				return cfg, &server.ConfigError{Field: "trusted-proxy", Reason: fmt.Sprintf("%q is not an address or CIDR, as in 127.0.0.1 or 10.0.0.0/8", text)}
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		cfg.TrustedProxies = append(cfg.TrustedProxies, prefix.Masked())
	}
	return cfg, cfg.Check()
}

// off is v as the server wants it: somebody wrote 0 and means it, which there is
// the default.
func off[T int | time.Duration](v T) T {
	if v <= 0 {
		return -1
	}
	return v
}
