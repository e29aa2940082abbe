#!/bin/sh
# setup.sh installs what the tests need beyond Go: Debian packages, when they
# are missing, and the npm packages of e2e/browser. It may be run at any time;
# with everything in place it changes nothing.
#
# Packages are installed by apt-get, which needs root. Some of them (nginx,
# php-fpm) bring a service that Debian may start; the tests do not use it, they
# start their own on ports of their own.
set -eu
cd "$(dirname "$0")"

# need PACKAGE WHAT...: remember PACKAGE unless one of WHAT (a command or a
# file) is there already, wherever it came from.
missing=
need() {
	package=$1
	shift
	for what in "$@"; do
		if command -v "$what" >/dev/null || [ -e "$what" ]; then
			return
		fi
	done
	missing="$missing $package"
}

PATH=$PATH:/usr/sbin:/sbin
need gcc gcc                                     # the race detector wants a C compiler,
need libc6-dev /usr/include/stdlib.h             # and its headers
need spin spin                                   # visits all states of docs/models, and wants both
need util-linux unshare                          # gives h2spec an /etc/hosts of its own
need iproute2 ss                                 # with ip, makes the networks that e2e/chaos breaks,
need nftables nft                                # and breaks them, too
need curl curl                                   # what newcomers are told to try with
need nginx-light nginx                           # the front end that owns 443, and the wiki's web server
need php-fpm /usr/sbin/php-fpm[78].*             # runs the wiki
need dokuwiki /usr/share/dokuwiki/doku.php       # an application nobody here wrote
need chromium chromium                           # the visitor that people use
need fonts-dejavu-core /usr/share/fonts/truetype # something for it to draw with
need libnss3-tools certutil                      # tells it whom to trust
need nodejs node                                 # drives it, and runs the Vite server
need npm npm

if [ -n "$missing" ]; then
	if ! command -v apt-get >/dev/null; then
		echo "setup: please install, in the way of this system:$missing" >&2
		exit 1
	fi
	if [ "$(id -u)" != 0 ]; then
		echo "setup: these Debian packages are missing, and installing them needs root:$missing" >&2
		echo "hint: run 'sudo $0' once, then 'make test' as yourself" >&2
		exit 1
	fi
	echo "setup: installing$missing" >&2
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# shellcheck disable=SC2086 # one word per package
	apt-get install -qq -y --no-install-recommends $missing >/dev/null
fi

# npm ci starts from nothing each time, so leave it out when it has nothing to do.
cd browser
if ! cmp -s package-lock.json node_modules/.culvert-lock; then
	echo "setup: installing the npm packages of e2e/browser" >&2
	npm ci --no-audit --no-fund --loglevel=error
	cp package-lock.json node_modules/.culvert-lock
fi
