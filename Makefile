# Every target does its work in every module of the repository: in each folder
# with a go.mod. Needed: Go, git, make, and a C compiler for go test -race.

GOLANGCI_LINT := v2.15.0
GOVULNCHECK   := v1.9.0

# The time limit of a package's tests; which benchmarks to run, and how often;
# the time that each fuzz target gets; which files mutants are made of, and how
# many are tried at once; with which of the random servers to begin, and how many.
TIMEOUT  ?= 30m
BENCH    ?= .
COUNT    ?= 1
FUZZTIME ?= 60s
SOAK     ?= 5m
FIRST    ?= 5001
SEEDS    ?= 300
MUTATE   ?= gate.go line.go order.go rank.go tenant.go hurry.go limiter.go turn.go pass.go heed.go retry.go breaker.go
MUTANTS  ?= 1

MODULES := $(sort $(patsubst %/go.mod,%,$(shell find . -name go.mod -not -path '*/.*/*' -not -path '*/testdata/*')))
LINT    := $(CURDIR)/.bin/golangci-lint-$(GOLANGCI_LINT)

SHELL         := bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := help
# Each module is built as those who import it get it.
export GOWORK := off

# $(call each,command) runs a command in every module, and fails if it failed in one.
each = @failed=; for dir in $(MODULES); do echo "== $$dir: $(1)"; (cd "$$dir" && $(1)) || failed+=" $$dir"; done; \
	if [ -n "$$failed" ]; then echo "failed in:$$failed"; exit 1; fi

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-9s%s\n", $$1, $$2}' Makefile

.PHONY: test
test: ## Run all that CI tests: gofmt, go mod tidy, go vet, go test -race, simulations
	@echo '#include <stdlib.h>' | $$(go env CC) -E -xc - >/dev/null 2>&1 || \
		{ echo "go test -race needs a C compiler. On Debian: apt-get install gcc libc6-dev"; exit 1; }
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "not formatted, make fmt does it:"; echo "$$files"; exit 1; fi
	$(call each,go mod tidy -diff)
	$(call each,go vet ./...)
	$(call each,go test -race -shuffle=on -timeout=$(TIMEOUT) ./...)
	go test -run='^TestSim' -count=1 .

.PHONY: sim
sim: ## Print how near RateLimit and Breaker come to what a server allows
	@go test -run='^TestSim' -count=1 -v . | sed -n 's/^ *|/|/p; /^--- FAIL/p; /^ok/p; /^FAIL/p'

.PHONY: noharm
noharm: ## Print what the zero value loses beside a bare client and a plain retry loop
	@cd bench && go test -count=1 -v ./noharm | sed -n 's/^ *|/|/p; /^ *--- FAIL/p; /^ok/p; /^FAIL/p'

.PHONY: grid
grid: ## Try random servers and callers, beside an oracle and others: make grid FIRST=5001 SEEDS=300
	@cd bench && go test -count=1 -v -timeout=$(TIMEOUT) -run='^TestGrid$$' ./grid -first=$(FIRST) -seeds=$(SEEDS) \
		-clients='zero value,Retry alone,bare,go-retryablehttp,failsafe-go,cubic' | grep -v '^ *\(=== \|--- PASS\)'

.PHONY: servers
servers: ## Measure the zero value against nginx and haproxy, which are installed where they are missing, on Debian
	@missing=; for p in nginx haproxy; do PATH="$$PATH:/usr/sbin" command -v $$p >/dev/null || missing+=" $$p"; done; \
		if [ -n "$$missing" ]; then apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $$missing; fi
	@cd bench && STURDY_SERVERS=required go test -count=1 -v -timeout=$(TIMEOUT) -parallel=3 ./servers -for=30s -others=5s -callers=1,16,64 -all | \
		sed -n 's/^ *|/|/p; /^ *--- FAIL/p; /^ok/p; /^FAIL/p'

.PHONY: soak
soak: ## Hammer random stacks at length, under the race detector: make soak SOAK=1h
	STURDY_SOAK=$(SOAK) go test -race -run='^TestHammer$$' -count=1 -v -timeout=0 . | grep -v '^ *\(=== \|--- PASS\)'

.PHONY: lint
lint: $(LINT) ## Run golangci-lint as .golangci.yml says
	$(call each,$(LINT) run ./...)

.PHONY: fmt
fmt: $(LINT) ## Format all Go files
	$(LINT) fmt

$(LINT):
	GOBIN=$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT)
	mv $(@D)/golangci-lint $@

.PHONY: vuln
vuln: ## Look for known vulnerabilities; reads a database on the internet
	$(call each,go run golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK) ./...)

.PHONY: bench
bench: ## Run the benchmarks: make bench BENCH=Retry COUNT=10
	$(call each,go test -run='^$$' -bench='$(BENCH)' -benchmem -count=$(COUNT) ./...)

.PHONY: fuzz
fuzz: ## Run every fuzz target for a while: make fuzz FUZZTIME=10m
	$(call each,$(CURDIR)/hack/fuzz $(FUZZTIME))

.PHONY: cover
cover: ## Tell how much of the code the tests reach; cover.out holds the details
	$(call each,go test -coverpkg=./... -coverprofile=cover.out ./... && go tool cover -func=cover.out | tail -n 1)

.PHONY: mutants
mutants: ## Tell which small mistakes no test finds: make mutants MUTATE=gate.go
	cd hack/mutate && go run . -dir ../.. -list survivors.txt -j $(MUTANTS) $(MUTATE)
