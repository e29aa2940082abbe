package e2e

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// People's own programs, opened through the tunnel in a real browser.

// A wiki from Debian's packages behind nginx, clicked through: read, log in,
// write, search, upload. See browser/wiki.mjs.
func TestWiki(t *testing.T) {
	t.Parallel()
	need(t, "nginx", "node", "chromium", "certutil")
	const user, password = "ada", "analytical engine"
	n := startNode(t)
	_, url := n.startAgent(n.token("ada"), port(startWiki(t, user, password)), "--name", "wiki")
	browse(t, n, "wiki.mjs", url, user, password)
}

// Vite's development server, whose pages change under the visitor's eyes when
// a file is edited. See browser/hmr.mjs.
func TestVite(t *testing.T) {
	t.Parallel()
	need(t, "node", "chromium", "certutil")
	app := t.TempDir()
	if err := os.CopyFS(app, os.DirFS("browser/app")); err != nil {
		t.Fatal(err)
	}
	addr := freeAddr(t)
	vite := start(t, "vite", exec.Command("node", "browser/node_modules/vite/bin/vite.js", app,
		"--host", "127.0.0.1", "--port", port(addr), "--strictPort", "--clearScreen", "false"))
	vite.awaitListener(addr)

	n := startNode(t)
	_, url := n.startAgent(n.token("ada"), port(addr), "--name", "dev")
	browse(t, n, "hmr.mjs", url, app)
}

// browse runs one of the scripts in browser with a Chromium that trusts the
// node's CA, and nothing else that is not trusted anyway.
func browse(t *testing.T, n *node, script string, args ...string) {
	t.Helper()
	home := t.TempDir()
	store := filepath.Join(home, ".pki", "nssdb")
	if err := os.MkdirAll(store, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"-N", "--empty-password"},
		{"-A", "-t", "C,,", "-n", "culvert", "-i", n.ca()},
	} {
		cmd := exec.Command("certutil", append([]string{"-d", "sql:" + store}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
	}

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	picture := filepath.Join(os.TempDir(), "culvert-e2e-"+script+".png")
	cmd := exec.CommandContext(ctx, "node", append([]string{filepath.Join("browser", script)}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+home, "PICTURE="+picture)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it ends its browser first
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	t.Logf("%s:\n%s", script, out)
	if err != nil {
		t.Fatalf("%s: %v; a screenshot may be in %s", script, errors.Join(err, context.Cause(ctx)), picture)
	}
}

// startWiki runs DokuWiki from Debian's package in nginx and php-fpm, with one
// account and all its data in a temporary directory, and returns its address.
func startWiki(t *testing.T, user, password string) string {
	t.Helper()
	fpm, _ := filepath.Glob("/usr/sbin/php-fpm[78].*")
	if len(fpm) == 0 {
		t.Fatal("no php-fpm; e2e/setup.sh installs it")
	}
	dir := t.TempDir()
	write := func(name, format string, args ...any) string {
		file := filepath.Join(dir, name)
		if err := errors.Join(
			os.MkdirAll(filepath.Dir(file), 0o755),
			os.WriteFile(file, fmt.Appendf(nil, format, args...), 0o644),
		); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, name := range []string{"attic", "cache", "index", "locks", "log", "media", "media_attic", "media_meta", "meta", "pages", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, "data", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write("conf/local.php", `<?php
		$conf['title'] = 'A wiki in a culvert';
		$conf['savedir'] = '%s/data';
		$conf['useacl'] = 1;
		$conf['superuser'] = '@admin';
		$conf['updatecheck'] = 0;
	`, dir)
	write("conf/acl.auth.php", "# <?php exit()?>\n*\t@ALL\t1\n*\t@user\t8\n")
	write("conf/users.auth.php", "# <?php exit()?>\n%s:%x:Ada:ada@example.com:admin,user\n", user, md5.Sum([]byte(password)))
	prepend := write("prepend.php", "<?php define('DOKU_CONF', '%s/conf/');\n", dir)
	socket := filepath.Join(dir, "php.sock")
	conf := write("fpm.conf", `
		[global]
		error_log = /dev/stderr
		daemonize = no
		[wiki]
		listen = %s
		pm = static
		pm.max_children = 4
		catch_workers_output = yes
		php_admin_value[auto_prepend_file] = %s
		php_admin_value[error_log] = /dev/stderr
	`, socket, prepend)
	args := []string{"--nodaemonize", "--fpm-config", conf}
	if os.Geteuid() == 0 {
		args = append(args, "--allow-to-run-as-root")
	}
	start(t, "php-fpm", exec.Command(fpm[0], args...)).awaitListener(socket)

	addr := freeAddr(t)
	startNginx(t, addr, fmt.Sprintf(`
		server {
			listen %s;
			root /usr/share/dokuwiki;
			index doku.php;
			location ~ \.php$ {
				include /etc/nginx/fastcgi_params;
				fastcgi_param HTTP_HOST $http_host; # Debian's file leaves the port out
				fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
				fastcgi_pass unix:%s;
			}
		}`, addr, socket))
	return addr
}
