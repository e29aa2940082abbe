package main

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/culvertd/culvert"
)

// settings say which node, and who we are to it. They are what login stores.
type settings struct {
	Server string `yaml:"server"`
	Token  string `yaml:"token"`
	CA     string `yaml:"ca,omitempty"` // file with the CA of the node
}

// maxFile is as much as a file of settings, a token or a CA may hold.
const maxFile = 1 << 20

func (c *cli) connectionFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.file, "token-file", "", "read the token from the first line of `file` (CULVERT_TOKEN is the token itself)")
	cmd.Flags().StringVar(&c.flags.CA, "ca", "", "trust the CA certificates in this `file`, and no others (CULVERT_CA)")
}

// agent returns an agent with the settings of file, environment and flags.
func (c *cli) agent() (*culvert.Agent, error) {
	s, err := c.settings()
	if err != nil {
		return nil, err
	}
	return c.agentFor(s)
}

// agentFor returns an agent for s, which is complete.
func (c *cli) agentFor(s settings) (*culvert.Agent, error) {
	roots, err := readCA("CA", s.CA, "the file of a node's own CA is DATA/ca/root.pem")
	if err != nil {
		return nil, err
	}
	return &culvert.Agent{
		Server: s.Server, Token: s.Token, RootCAs: roots, Software: "culvert/" + version(),
		Proxy: func(u *url.URL) (*url.URL, error) { return http.ProxyFromEnvironment(&http.Request{URL: u}) },
	}, nil
}

// settings puts together what login stored, the environment and the flags, each
// over the one before. What was stored for one node is not sent to another.
func (c *cli) settings() (settings, error) {
	var stored settings
	path, err := settingsPath()
	if err == nil {
		if stored, err = readSettings(path); err != nil {
			return settings{}, err
		}
	}
	s := settings{
		Server: cmp.Or(c.flags.Server, c.getenv("CULVERT_SERVER"), stored.Server),
		CA:     cmp.Or(c.flags.CA, c.getenv("CULVERT_CA")),
		Token:  c.getenv("CULVERT_TOKEN"),
	}
	if c.file != "" {
		if s.Token, err = tokenFile(c.file); err != nil {
			return settings{}, err
		}
	}
	if s.Server == stored.Server {
		s.Token = cmp.Or(s.Token, stored.Token)
		s.CA = cmp.Or(s.CA, stored.CA)
	}
	switch {
	case s.Server == "":
		return settings{}, &usageError{"no server", "run culvert login SERVER once, or pass --server HOST, or set CULVERT_SERVER"}
	case s.Token == "":
		return settings{}, &usageError{
			fmt.Sprintf("no token for %s", s.Server),
			fmt.Sprintf("run culvert login %s once, or pass --token-file FILE, or set CULVERT_TOKEN", s.Server),
		}
	}
	return s, checkToken(s.Token)
}

func (c *cli) getenv(key string) string {
	v, _ := c.env(key)
	return v
}

// settingsPath is where login stores: culvert/config.yaml in the folder that
// this system has for that, ~/.config on most.
func settingsPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "culvert", "config.yaml"), nil
}

// readSettings reads what login stored; nothing, if it never did.
func readSettings(path string) (s settings, err error) {
	text, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return settings{}, nil
	}
	if err != nil {
		return settings{}, err
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 && os.PathSeparator == '/' {
		return settings{}, &usageError{
			fmt.Sprintf("%s holds a token, and others can read it", path), fmt.Sprintf("chmod 600 %s", path),
		}
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&s); err != nil && err != io.EOF {
		return settings{}, &usageError{fmt.Sprintf("%s: %v", path, err), "it may hold server, token and ca, and nothing else"}
	}
	return s, nil
}

// write stores s so that only its user can read it. A reader sees the old file
// or the new one, and never a half.
func (s settings) write(path string) error {
	text, err := yaml.Marshal(s)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".config-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // of no effect once it was renamed
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func tokenFile(path string) (string, error) {
	text, err := readFile(path)
	if err != nil {
		return "", &usageError{text: fmt.Sprintf("token file: %v", err)}
	}
	return firstLine(text), nil
}

func firstLine(text []byte) string {
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(line)
}

// checkToken refuses what cannot be a token, and does not repeat it.
func checkToken(token string) error {
	for _, r := range token {
		if r <= ' ' || r > '~' {
			return &usageError{"the token has characters that no token has", "copy it again, without quotes or spaces"}
		}
	}
	if len(token) > 512 {
		return &usageError{text: "the token is too long to be one"}
	}
	return nil
}

// readCA reads the certificates in a file; nil for no file. Errors call it
// what, and give that advice about one without a certificate.
func readCA(what, path, advice string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	text, err := readFile(path)
	if err != nil {
		return nil, &usageError{text: fmt.Sprintf("%s: %v", what, err)}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, &usageError{fmt.Sprintf("%s: %s: no certificate in it", what, path), advice}
	}
	return roots, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s: too large", path)
	}
	return text, err
}
