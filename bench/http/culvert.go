package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// buildCulvert builds culvert and culvertd as they are built for use, unless
// profiles are wanted, for which they are not.
func (s *site) buildCulvert(ctx context.Context) error {
	if s.profiles != "" {
		return nil
	}
	log.Print("building culvert and culvertd")
	cmd := exec.CommandContext(ctx, "go", "build", "-C", "..", "-trimpath", "-o", filepath.Join(s.dir, "bin")+"/", "./cmd/culvert", "./cmd/culvertd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build culvert, from the directory bench: %w: %s", err, out)
	}
	return nil
}

// startCulvert starts two nodes with two agents each, for pages and for
// uploads: culvertd for visitors with TLS, and for those without our own (see
// node.go), whose agents come in at agents. If profiles are wanted, node and
// agent are this program, and the one node serves all visitors.
func (s *site) startCulvert(ctx context.Context, agents string) error {
	c := s.contestants[0]
	if s.profiles != "" {
		return s.startNode(ctx, c.tls, s.startAgentRole)
	}
	if err := s.startNode(ctx, agents, s.startAgent); err != nil {
		return err
	}

	data := filepath.Join(s.dir, "culvertd.data")
	p, err := s.keep(start("culvertd", exec.Command(s.program("culvertd"), "serve", "--domain", domain, "--listen", c.tls, "--http", "",
		"--tls", "files", "--cert", s.identity.cert, "--key", s.identity.key, "--data", data, "--drain", "1s")))
	if err != nil {
		return err
	}
	var token string
	err = p.eventually(ctx, "make a token", func() (err error) {
		token, err = output(ctx, s.program("culvertd"), "token", "create", "--owner", "bench", "--data", data)
		return err
	})
	if err != nil {
		return err
	}
	return s.startAgents(ctx, c.tls, strings.TrimSpace(token), s.startAgent)
}

// startNode starts our own node, with its agents.
func (s *site) startNode(ctx context.Context, tls string, agent startAgent) error {
	p, err := s.keep(startRole("node", nil, "-tls", tls, "-plain", s.contestants[0].plain, "-data", filepath.Join(s.dir, "node.data"),
		"-cert", s.identity.cert, "-key", s.identity.key))
	if err != nil {
		return err
	}
	token, err := p.ready(ctx)
	if err != nil {
		return err
	}
	if s.profiles != "" {
		s.profiled = append(s.profiled, p)
	}
	return s.startAgents(ctx, tls, token, agent)
}

// startAgent starts an agent for one tunnel, and waits until visitors can
// reach it.
type startAgent func(ctx context.Context, server, token, name, target string) error

func (s *site) startAgents(ctx context.Context, node, token string, agent startAgent) error {
	server := domain + ":" + port(node)
	for host, target := range map[string]string{pageHost: s.service, uploadHost: s.counter} {
		if err := agent(ctx, server, token, strings.TrimSuffix(host, "."+domain), target); err != nil {
			return err
		}
	}
	return nil
}

func (s *site) startAgent(ctx context.Context, server, token, name, target string) error {
	cmd := exec.Command(s.program("culvert"), "http", target, "--server", server, "--ca", s.identity.cert, "--name", name)
	cmd.Env = append(os.Environ(), "CULVERT_TOKEN="+token, "XDG_CONFIG_HOME="+filepath.Join(s.dir, "config"))
	p, err := s.keep(start("culvert", cmd))
	if err != nil {
		return err
	}
	_, err = p.line(ctx) // the URL
	return err
}

func (s *site) startAgentRole(ctx context.Context, server, token, name, target string) error {
	p, err := s.keep(startRole("agent", []string{"CULVERT_TOKEN=" + token},
		"-server", server, "-ca", s.identity.cert, "-name", name, "-target", target))
	if err != nil {
		return err
	}
	p.name = "agent-" + name // as its profiles are called
	s.profiled = append(s.profiled, p)
	_, err = p.ready(ctx)
	return err
}
