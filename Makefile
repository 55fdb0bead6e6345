# Everything here works on a fresh Debian 12 machine with Go and root. "make" lists the targets.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
GOFLAGS_STATIC = CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)"

.PHONY: help build image test quick lint memory bench demo demo-down

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the program into dist/
	$(GOFLAGS_STATIC) -o dist/kubelogexporter ./cmd/kubelogexporter

image: build ## build the container image kubelogexporter:dev from Dockerfile
	docker build --target prebuilt -t kubelogexporter:dev .

quick: ## the quick tests only
	go test ./...

test: ## install what is missing and run everything: lint, quick tests with -race, MinIO, a real Kubernetes node
	@bash integration/test.sh

lint: ## check style and layers (the linter is built from integration/tools)
	@bash integration/test.sh lint

memory: ## the memory of 1,000 streams, a log of 5 GB, 150,000 pods, 200 kills under load, the speed of an upload; takes minutes
	@KUBELOGEXPORTER_MEMORY=full go test -count=1 -v -timeout 30m -run '^Test(Memory|Killed)' ./exporter
	@go test -run '^$$' -bench '^BenchmarkUpload$$' -benchtime 20x ./exporter

bench: ## what is kept of dying pods' logs, and at what cost, beside kubectl and stern; writes BENCHMARKS.md
	@go run ./integration/cmd/bench

demo: ## a real cluster, a real bucket, dying pods, and what was archived of them
	@go run ./integration/cmd/demo up

demo-down: ## remove the demo's node, server, namespaces and data; what was built or installed stays
	@go run ./integration/cmd/demo down
