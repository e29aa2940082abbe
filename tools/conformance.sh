#!/bin/sh
# conformance.sh says in a line each how well both programs, as they are, keep
# to what others agreed on: framing, HTTP/2, meaning, targets, WebSocket, gRPC,
# events. It fails when any check does. make test does the same checks.
# For one of them alone, and all it has to say: tools/conformance.sh TestH2Spec
set -eu
cd "$(dirname "$0")/.."

tests=${1:-Test(Framing(Corpus|Verdicts)|H2Spec|HTTPSemantics|Targets|WebSocket(Matrix|HTTP2)|GRPC|EventsAreSoon|BothWaysAtOnce)}
CULVERT_FIGURES=$(mktemp)
said=$(mktemp)
export CULVERT_FIGURES
trap 'rm -f "$CULVERT_FIGURES" "$said"' EXIT

status=0
go test -count=1 -timeout 5m -run "^$tests\$" ./e2e >"$said" 2>&1 || status=$?
if [ $# = 1 ]; then
	cat "$said"
elif [ $status != 0 ]; then
	grep -E '^ *--- FAIL|^panic:|^FAIL.*\[' "$said" || tail -n 30 "$said"
fi
sed 's/^e2e: //' "$CULVERT_FIGURES" | sort
exit $status
