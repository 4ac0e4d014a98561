# make demo runs four nodes in one process; make test passes the tests.
# Both need Go and make only.

TOOLS    := -modfile=internal/tools/go.mod
FUZZTIME ?= 20s

.PHONY: demo test race fuzz bench generate lint ci

demo:
	go run ./cmd/gridctl demo

test:
	go test ./...

race:
	go test -race ./...

bench:
	go test -run '^$$' -bench . .

# Each fuzz target runs for FUZZTIME.
fuzz:
	@set -e; for pkg in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "fuzz $$pkg $$target"; \
			go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 50x $$pkg; \
		done; \
	done

generate:
	go generate ./...

lint:
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	go vet ./...
	go tool $(TOOLS) staticcheck ./...

ci:
	bash .ci/run
