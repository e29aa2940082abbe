#!/usr/bin/env bash
# http.sh measures requests for a 1 KB file behind nginx: through the tunnel,
# and through the same nginx's own proxy_pass with no tunnel, in turn, on this
# machine's loopback. Visitors speak TLS 1.3 to both. It prints one line for
# each run; compare medians and ratios, never single figures.
#
#   bench/http.sh [ROUNDS] [CONNECTIONS] [SECONDS]
#
# Needs root (wrk does not know that *.localhost is this machine, and gets an
# /etc/hosts of its own), wrk, nginx and bin/ from make build.
set -euo pipefail
[ -z "${DEBUG-}" ] || set -x
cd "$(dirname "$0")/.."
rounds=${1:-5} connections=${2:-64} seconds=${3:-8}
dir=$(mktemp -d)
pids=()
trap 'for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done; wait; rm -rf "$dir"' EXIT
PATH=$PATH:/usr/sbin

bin/culvertd serve --domain tunnel.localhost --listen 127.0.0.1:18443 --http '' --data "$dir/data" 2>"$dir/node.log" &
pids+=($!)
until token=$(bin/culvertd token create --owner bench --data "$dir/data" 2>/dev/null); do sleep 0.1; done

# The certificate of the tunnel serves nginx as well: same keys, same work.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=bench.tunnel.localhost \
	-keyout "$dir/key.pem" -out "$dir/cert.pem" 2>/dev/null
mkdir "$dir/www"
head -c 1024 /dev/zero | tr '\0' x >"$dir/www/1k"
cat >"$dir/nginx.conf" <<CONF
worker_processes 2;
error_log $dir/nginx.log;
pid $dir/nginx.pid;
daemon off;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path $dir; proxy_temp_path $dir; fastcgi_temp_path $dir; uwsgi_temp_path $dir; scgi_temp_path $dir;
	keepalive_requests 1000000000;
	upstream service { server 127.0.0.1:18080; keepalive 1024; keepalive_requests 1000000000; }
	server { listen 127.0.0.1:18080; root $dir/www; }
	server {
		listen 127.0.0.1:18444 ssl;
		ssl_certificate $dir/cert.pem;
		ssl_certificate_key $dir/key.pem;
		ssl_protocols TLSv1.3;
		location / { proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection ''; }
	}
}
CONF
nginx -c "$dir/nginx.conf" 2>>"$dir/nginx.log" &
pids+=($!)
CULVERT_TOKEN=$token bin/culvert http 18080 --name bench --server tunnel.localhost:18443 --ca "$dir/data/ca/root.pem" >"$dir/url" 2>"$dir/agent.log" &
pids+=($!)
until [ -s "$dir/url" ]; do sleep 0.1; done

echo "127.0.0.1 bench.tunnel.localhost" >"$dir/hosts"
run() { # NAME URL
	unshare -m sh -c 'mount --bind "$0" /etc/hosts && exec "$@"' "$dir/hosts" \
		wrk -t1 "-c$connections" "-d${seconds}s" --latency "$2" |
		awk -v name="$1" '/50%/ {p50 = $2} /99%/ {p99 = $2} /Requests\/sec/ {rate = $2} /Non-2xx|Socket errors/ {bad = " " $0}
			END {printf "%-7s %9.0f requests/s   p50 %-9s p99 %s%s\n", name, rate, p50, p99, bad}'
}
for ((i = 0; i < rounds; i++)); do
	run tunnel https://bench.tunnel.localhost:18443/1k
	run nginx https://bench.tunnel.localhost:18444/1k
done
