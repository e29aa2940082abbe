#!/bin/sh
# setup.sh installs what bench/http needs beyond Go, when it is missing: Debian
# packages, by apt-get, which needs root. It may be run at any time; with
# everything in place it changes nothing. Debian may start an nginx of its own;
# the benchmark does not use it.
set -eu

# need PACKAGE COMMAND: remember PACKAGE unless COMMAND is there already.
missing=
need() { command -v "$2" >/dev/null || missing="$missing $1"; }

PATH=$PATH:/usr/sbin:/sbin
need nginx-light nginx     # the service, and a proxy without a tunnel
need wrk wrk               # visitors with HTTP/1.1
need nghttp2-client h2load # and with HTTP/2

[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null; then
	echo "setup: please install, in the way of this system:$missing" >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "setup: these Debian packages are missing, and installing them needs root:$missing" >&2
	echo "hint: run 'sudo bench/setup.sh' once, then 'make bench-http' as yourself" >&2
	exit 1
fi
echo "setup: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # one word per package
apt-get install -qq -y --no-install-recommends $missing >/dev/null
