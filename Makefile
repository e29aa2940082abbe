# A newcomer needs two of these: make dev, make test.

TARGET = # of make dev: a service of one's own, say 3000; a built-in page without it
CHAOS = # of make chaos: flags, say -chaos.asleep 1m; see e2e/chaos/doc.go
BENCH = # of make bench-mux and bench-http: flags, say -quick; see bench/mux/doc.go and bench/http/doc.go
VULNDB ?= # of make lint: vulnerability data for govulncheck, see tools/lint.sh

.PHONY: build dev test lint check conformance chaos bench-mux bench-http

build: # bin/culvert and bin/culvertd
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/culvert ./cmd/culvertd

dev: build # a node and an agent on this machine; says where to look
	@bin/culvertd dev $(TARGET)

test: # everything, and what it needs installed first
	e2e/setup.sh
	tools/test.sh

lint:
	VULNDB='$(strip $(VULNDB))' tools/lint.sh

check: lint test # the gate: what a change has to pass

conformance: # how well it keeps to what others agreed on, a line each; under a minute
	@tools/conformance.sh

chaos: # everything that can break between agent and node, a line each; a quarter of an hour, as root
	e2e/setup.sh
	@cd e2e/chaos && go test -count=1 -timeout 1h -args -chaos.full $(CHAOS)

bench-mux: # the multiplexer beside others, as Markdown; a quarter of an hour
	@cd bench && go run ./mux $(BENCH)

bench-http: # requests and bulk beside proxies without a tunnel; twenty minutes
	bench/setup.sh
	@cd bench && CGO_ENABLED=0 go run -trimpath ./http $(BENCH)
