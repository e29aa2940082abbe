package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// conf is what the service and nginx as a contestant run with. It is what an
// expert would write; where that is open, what was measured to be faster here:
//
//   - upstream connections are kept, all that the largest load needs, and for
//     good, as are those of visitors;
//   - a small file is read and sent in one piece, a large one by sendfile;
//   - proxied answers are buffered as they are by default, in memory only: no
//     disk is waited for. Beside that, /wide has buffers of 2 MB, which help
//     bulk a great deal;
//   - uploads are passed on as they come, in pieces of 256 KB;
//   - no reuseport: with it, connections fall on two workers more unevenly than
//     whoever is free takes them;
//   - the service is told what Culvert and the ReverseProxy tell theirs: whom
//     they asked for, and who asks.
const conf = `
daemon off; pid {dir}/nginx.pid; error_log stderr; {user}
worker_processes auto; worker_rlimit_nofile 16384;
events { worker_connections 8192; }
http {
	access_log off;
	default_type application/octet-stream;
	client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
	uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
	keepalive_timeout 1h;
	keepalive_requests 1000000000;
	open_file_cache max=16;

	server {
		listen {service} backlog=4096;
		root {dir}/www;
		location = /bulk { sendfile on; sendfile_max_chunk 2m; }
		location = /wide { sendfile on; sendfile_max_chunk 2m; }
	}

	upstream service { server {service}; keepalive 1024; keepalive_timeout 1h; keepalive_requests 1000000000; }
	upstream counter { server {counter}; keepalive 1024; keepalive_timeout 1h; keepalive_requests 1000000000; }
	server {
		listen {plain} backlog=4096;
		listen {tls} ssl http2 backlog=4096;
		ssl_certificate {dir}/cert.pem;
		ssl_certificate_key {dir}/key.pem;
		ssl_protocols TLSv1.3;
		ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
		ssl_session_cache shared:tls:10m;

		proxy_http_version 1.1;
		proxy_set_header Connection "";
		proxy_set_header Host $http_host;
		proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
		proxy_set_header X-Forwarded-Host $http_host;
		proxy_set_header X-Forwarded-Proto $scheme;
		proxy_max_temp_file_size 0;
		client_max_body_size 0;
		client_body_buffer_size 256k;
		location / { proxy_pass http://service; }
		location = /wide {
			proxy_pass http://service;
			proxy_buffers 8 256k; proxy_buffer_size 16k; proxy_busy_buffers_size 512k;
		}
		location = /upload { proxy_pass http://counter; proxy_request_buffering off; }
	}
}`

// writeConf writes nginx's configuration, and the files that it serves.
func (s *site) writeConf(plain, tls string) (file string, err error) {
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // its usual user cannot look into our directory
	}
	text := strings.NewReplacer("{dir}", s.dir, "{user}", user, "{service}", s.service, "{counter}", s.counter,
		"{plain}", plain, "{tls}", tls).Replace(conf)
	file = filepath.Join(s.dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return "", err
	}
	www := filepath.Join(s.dir, "www")
	if err := os.Mkdir(www, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(www, "1k"), []byte(page), 0o644); err != nil {
		return "", err
	}
	for _, name := range []string{"bulk", "wide"} {
		f, err := os.Create(filepath.Join(www, name))
		if err != nil {
			return "", err
		}
		err = f.Truncate(s.bulk) // a hole, so that no disk is waited for
		if err := f.Close(); err != nil {
			return "", err
		}
		if err != nil {
			return "", fmt.Errorf("make a file of %d bytes: %w", s.bulk, err)
		}
	}
	return file, nil
}

// page is the file of 1 KB.
var page = strings.Repeat("culvert\n", 1024/8)
