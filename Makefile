# Needs Go and make. `make help` lists the targets.

GO       ?= go
FUZZTIME ?= 10s
SEEDS    ?= 2000
DURATION ?= 1m
TOOL      = $(GO) tool -modfile=$(CURDIR)/internal/tools/go.mod
GOLANGCI  = $(GO) tool -modfile=$(CURDIR)/internal/tools/lint/go.mod golangci-lint

# The library, and the tool and the modules under contrib, which are kept in the same state.
MODULES = . $(patsubst %/go.mod,%,$(wildcard cmd/*/go.mod contrib/*/go.mod))
# $(call each,command) runs a command in each of them.
each = @set -e; for mod in $(MODULES); do echo "--- $$mod: $(1)"; (cd $$mod && $(1)); done

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## run four nodes in one process that call each other
	$(GO) run -C cmd/gridctl . demo

.PHONY: test
test: ## run the tests
	$(call each,$(GO) test ./...)

.PHONY: race
race: ## run the tests under the race detector (needs a C compiler on Linux)
	$(call each,$(GO) test -race -timeout 20m ./...)

.PHONY: sim
sim: ## run the simulation with SEEDS seeds, or with SEED=n alone
	GODEBUG=tracebacklabels=1 $(GO) test -count=1 -timeout 30m -run '^TestSimulation$$' ./internal/sim \
		$(if $(SEED),-v -sim.seed=$(SEED),-sim.seeds=$(SEEDS))

.PHONY: soak
soak: ## put random load on real sockets and cut them, for DURATION (1m), under the race detector where it can be built
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && race= && \
		if [ "$$($(GO) env CGO_ENABLED)" = 1 ]; then race=-race; else echo 'without the race detector: no C compiler'; fi && \
		$(GO) build -C cmd/gridctl $$race -o "$$tmp/gridctl" . && "$$tmp/gridctl" soak -duration $(DURATION) $(SOAKFLAGS)

.PHONY: test-netns
test-netns: ## make the network between nodes in network namespaces fail (needs Linux, root and iproute2)
	cd test/netns && $(GO) test -count=1 -timeout 5m -parallel 4

.PHONY: test-proxies
test-proxies: ## shut nodes down behind haproxy, nginx, caddy and Apache (installs them with apt-get, as root)
	cd test/proxies && $(GO) test -count=1 -timeout 5m -v .

.PHONY: test-wireshark
test-wireshark: ## compare the dissector for Wireshark with the messages of testdata (installs tshark with apt-get, as root)
	cd test/wireshark && $(GO) test -count=1 -timeout 5m -v .

.PHONY: test-discovery
test-discovery: ## let nodes find each other with dnsmasq and etcd, which fail (installs them with apt-get, as root)
	cd test/discovery && $(GO) test -count=1 -timeout 5m -v .
	cd contrib/gridetcd && $(GO) test -count=1 -timeout 5m -v .
	cd cmd/gridctl && $(GO) test -count=1 -timeout 5m -v -run Etcd .

.PHONY: test-scale
test-scale: ## let a grid of processes grow and shrink under load, with dnsmasq and by gossip (network namespaces need Linux and root)
	cd test/scale && $(GO) test -count=1 -timeout 5m -v .

.PHONY: test-metrics
test-metrics: ## let the alerts of gridprom fire in a Prometheus that scrapes nodes (fetches it with apt-get, as root)
	cd test/metrics && $(GO) test -count=1 -timeout 10m -v .

.PHONY: test-compat
test-compat: ## let nodes of this state of the library work with those of earlier ones (needs their commits)
	cd test/compat && $(GO) test -count=1 -timeout 5m -v .

.PHONY: test-deploy
test-deploy: ## read the files of deploy as the programs do that they are for, and start the nodes they describe
	cd test/deploy && $(GO) test -count=1 -timeout 5m -v .

.PHONY: mutants
mutants: ## plant each bug of testdata/mutants, also of the modules under contrib, and see whether it is caught
	.ci/mutants

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME each (10s)
	FUZZTIME=$(FUZZTIME) .ci/fuzz

.PHONY: bench
bench: ## compare with other libraries for hours, and write docs/benchmarks.md (BENCHFLAGS=-short: only try it out)
	cd bench && $(GO) run ./cmd/gridbench $(BENCHFLAGS)

.PHONY: generate
generate: ## write the generated files again
	$(call each,$(GO) generate ./...)

.PHONY: cycles
cycles: ## check that the files of the library need only layers below their own (CYCLESFLAGS='-cuts 10 -dots -refs': in detail)
	cd internal/tools && $(GO) run ./cycles -C $(CURDIR) -layers $(CURDIR)/docs/design.md -check 8 $(CYCLESFLAGS) .

.PHONY: lint
lint: ## check format, vet and staticcheck
	@unformatted=$$("$$($(GO) env GOROOT)/bin/gofmt" -l .) && test -z "$$unformatted" || \
		{ echo "not formatted with gofmt:"; echo "$$unformatted"; exit 1; }
	$(call each,$(GO) vet ./...)
	$(call each,$(TOOL) staticcheck ./...)

# The modules below that of the library.
LINTED = $(patsubst %/go.mod,%,$(wildcard */go.mod */*/go.mod))

.PHONY: golangci
golangci: ## run golangci-lint in all modules (builds it at first, which takes minutes)
	@$(GOLANGCI) run --allow-parallel-runners ./...
	@set -e; for mod in $(LINTED); do echo "--- $$mod"; (cd $$mod && $(GOLANGCI) run --allow-parallel-runners ./...); done

.PHONY: fmt
fmt: ## format all Go files as gofumpt does
	$(GOLANGCI) fmt

.PHONY: vuln
vuln: ## look for known vulnerabilities (needs the database on vuln.go.dev)
	.ci/vulncheck

.PHONY: release
release: ## make the commit and the tags of VERSION (v0.2.0) in this repository, and push nothing
	$(GO) run -C internal/tools ./release $(VERSION)

.PHONY: release-check
release-check: ## try whether a version could be released, and got by users
	$(GO) run -C internal/tools ./release -check v0.999.$$(date +%s)

.PHONY: ci
ci: ## run all checks that a change has to pass
	.ci/run
