# Needs Go and make. `make help` lists the targets.

GO       ?= go
FUZZTIME ?= 20s
BENCH    ?= .
TOOL      = $(GO) tool -modfile=internal/tools/go.mod

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## run four nodes in one process that call each other
	$(GO) run ./cmd/gridctl demo

.PHONY: test
test: ## run the tests
	$(GO) test ./...

.PHONY: race
race: ## run the tests under the race detector (needs a C compiler on Linux)
	$(GO) test -race ./...

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME each
	@set -e; found=; \
	for pkg in $$($(GO) list ./...); do \
		listed=$$($(GO) test -list '^Fuzz' $$pkg); \
		for target in $$(printf '%s\n' "$$listed" | grep '^Fuzz' || true); do \
			found=yes; \
			echo "--- $$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 50x $$pkg; \
		done; \
	done; \
	test -n "$$found" || { echo "no fuzz target found"; exit 1; }

.PHONY: bench
bench: ## run the benchmarks whose names match BENCH
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./...

.PHONY: generate
generate: ## write the generated files again
	$(GO) generate ./...

.PHONY: lint
lint: ## check format, vet and staticcheck
	@unformatted=$$("$$($(GO) env GOROOT)/bin/gofmt" -l .) && test -z "$$unformatted" || \
		{ echo "not formatted with gofmt:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(TOOL) staticcheck ./...

.PHONY: ci
ci: ## run all checks that a change has to pass
	.ci/run
