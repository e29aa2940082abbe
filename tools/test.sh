#!/bin/sh
# test.sh runs all tests, and ends with a line that counts them: first
# everything with the race detector, then e2e and e2e/chaos, each alone, because
# they measure.
set -eu
cd "$(dirname "$0")/.."

case ${1-} in
'')
	CULVERT_FIGURES=$(mktemp) # where e2e writes what it measured
	export CULVERT_FIGURES
	trap 'rm -f "$CULVERT_FIGURES"' EXIT
	go tool -modfile=tools/go.mod gotestsum --format pkgname \
		--post-run-command 'tools/test.sh count' --raw-command -- tools/test.sh go
	;;
go) # as gotestsum wants it: one stream of JSON
	status=0
	# shellcheck disable=SC2046 # one word per package
	go test -json -race $(go list ./... | grep -v /e2e) || status=1
	# Attacks are made of more goroutines than the race detector bears, and memory
	# cannot be counted under it.
	go test -json ./internal/h1 ./internal/edge || status=1
	go test -json -count=1 -p 1 ./e2e ./e2e/chaos || status=1
	exit $status
	;;
count) # gotestsum tells the numbers
	cat "$CULVERT_FIGURES"
	passed=$((TESTS_TOTAL - TESTS_FAILED - TESTS_SKIPPED))
	if [ "$TESTS_FAILED" = 0 ]; then
		TESTS_FAILED=$TESTS_ERRORS # what does not build is an error, and mostly a failure as well
	fi
	echo "$passed passed, $TESTS_FAILED failed, $TESTS_SKIPPED skipped"
	;;
esac
