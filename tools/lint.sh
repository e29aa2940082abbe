#!/bin/sh
# lint.sh: gofmt, go vet, staticcheck, govulncheck. No other linters: taste is
# for review. It runs all of them and fails when any found something.
#
# govulncheck wants the Go vulnerability database. VULNDB says where it is: a
# URL, a directory, or a .tgz that holds one. Without it, that part is skipped.
set -u
cd "$(dirname "$0")/.." || exit 1
status=0
tools=$PWD/tools/go.mod
tool() { go tool -modfile="$tools" "$@"; }
say() { echo "lint: $*" >&2; }

unformatted=$(gofmt -l .) || status=1
if [ -n "$unformatted" ]; then
	say "gofmt would change:"
	echo "$unformatted" >&2
	status=1
fi

# Benchmarks, tools and what speaks gRPC are modules of their own, whose needs
# are not the product's.
here=$PWD
for module in . bench tools e2e/grpc; do
	cd "$here/$module" || exit 1
	go vet ./... || { say "go vet found something in $module"; status=1; }
	tool staticcheck ./... || { say "staticcheck found something in $module"; status=1; }
done
cd "$here" || exit 1

db=${VULNDB-}
case $db in
*.tgz)
	unpacked=$(mktemp -d)
	trap 'rm -rf "$unpacked"' EXIT
	tar -xzf "$db" -C "$unpacked" || exit 1
	db=$(dirname "$(find "$unpacked" -name index -type d | head -n 1)")
	;;
esac
if [ -d "$db" ]; then
	db=file://$(cd "$db" && pwd)
fi
if [ -n "$db" ]; then
	tool govulncheck -db "$db" ./... || { say "govulncheck found something"; status=1; }
else
	say "*** govulncheck SKIPPED: no vulnerability data; name it with make lint VULNDB=..."
fi
exit $status
