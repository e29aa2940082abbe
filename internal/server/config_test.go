package server_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/culvertd/culvert/internal/server"
)

func mustPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestCheck(t *testing.T) {
	good := server.Config{Domain: "tunnel.example.com", Data: "/data"}
	if err := good.Check(); err != nil {
		t.Errorf("the least there is: %v", err)
	}
	for what, c := range map[string]struct {
		change func(*server.Config)
		field  string
	}{
		"no domain":             {func(c *server.Config) { c.Domain = "" }, "domain"},
		"domain with port":      {func(c *server.Config) { c.Domain = "a.b:443" }, "domain"},
		"domain with dot":       {func(c *server.Config) { c.Domain = "a.b." }, "domain"},
		"domain is a URL":       {func(c *server.Config) { c.Domain = "https://a.b" }, "domain"},
		"domain is an address":  {func(c *server.Config) { c.Domain = "192.0.2.1" }, "domain"},
		"domain is an IPv6":     {func(c *server.Config) { c.Domain = "[::1]" }, "domain"},
		"domain is a wildcard":  {func(c *server.Config) { c.Domain = "*.a.b" }, "domain"},
		"domain too long":       {func(c *server.Config) { c.Domain = strings.Repeat("a.", 100) + "b" }, "domain"},
		"no data":               {func(c *server.Config) { c.Data = "" }, "data"},
		"unknown tls":           {func(c *server.Config) { c.TLS = "on" }, "tls"},
		"acme":                  {func(c *server.Config) { c.TLS = "acme" }, "tls"},
		"files without cert":    {func(c *server.Config) { c.TLS = "files" }, "tls"},
		"files without key":     {func(c *server.Config) { c.TLS, c.CertFile = "files", "c" }, "tls"},
		"cert without files":    {func(c *server.Config) { c.CertFile = "c" }, "tls"},
		"off without front end": {func(c *server.Config) { c.TLS = "off" }, "tls"},
		"off with redirect": {func(c *server.Config) {
			c.TLS, c.HTTP, c.TrustedProxies = "off", ":80", []netip.Prefix{mustPrefix("10.0.0.0/8")}
		}, "http"},
		"front end without off":  {func(c *server.Config) { c.TrustedProxies = []netip.Prefix{mustPrefix("10.0.0.0/8")} }, "trusted-proxy"},
		"head without end":       {func(c *server.Config) { c.HeadTimeout = -1 }, "head-timeout"},
		"visitors without end":   {func(c *server.Config) { c.MaxVisitors = -1 }, "max-visitors"},
		"HSTS that would end it": {func(c *server.Config) { c.HSTS = time.Millisecond }, "hsts"},
		"HSTS of the past":       {func(c *server.Config) { c.HSTS = -time.Hour }, "hsts"},
		"listen without port":    {func(c *server.Config) { c.Listen = "127.0.0.1" }, "listen"},
		"listen is a bare port":  {func(c *server.Config) { c.Listen = "443" }, "listen"},
		"listen beyond ports":    {func(c *server.Config) { c.Listen = "127.0.0.1:99999" }, "listen"},
		"redirect beyond ports":  {func(c *server.Config) { c.HTTP = ":-1" }, "http"},
		"redirect without colon": {func(c *server.Config) { c.HTTP = "80" }, "http"},
	} {
		cfg := good
		c.change(&cfg)
		_, err := server.New(cfg)
		if e, ok := errors.AsType[*server.ConfigError](err); !ok || e.Field != c.field {
			t.Errorf("%s: got %v; want an error about %s", what, err, c.field)
		}
	}
	good.Drain, good.ServiceTimeout, good.Silence, good.IdleTimeout, good.MinRate = -1, -1, -1, -1, -1
	good.HSTS = 8760 * time.Hour
	good.Domain = "Tunnel.Example.COM"
	if err := good.Check(); err != nil {
		t.Errorf("capitals: %v", err)
	}
}

func TestURL(t *testing.T) {
	if got := server.URL("a.b", 443); got != "https://a.b" {
		t.Errorf("got %s", got)
	}
	if got := server.URL("a.b", 8443); got != "https://a.b:8443" {
		t.Errorf("got %s", got)
	}
}
