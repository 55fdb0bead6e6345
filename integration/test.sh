#!/usr/bin/env bash
# Runs every test of the project, or what of them can run here. In CI (CI=true) nothing may be left out.
set -euo pipefail
cd "$(dirname "$0")/.."

begin=$SECONDS
step() { printf '\n== %3ds  %s\n' $((SECONDS - begin)) "$*"; }

lint() {
  step "lint (the first time builds the linter, some minutes)"
  local out
  out=$(gofmt -l cmd exporter sink integration deploy)
  if [ -n "$out" ]; then
    printf 'not gofmt-ed:\n%s\n' "$out" >&2
    return 1
  fi
  local linter
  linter=$(go -C integration/tools tool -n golangci-lint)
  "$linter" run ./...
}

if [ "${1:-}" = lint ]; then
  lint
  exit
fi

left_out=""
if [ "$(uname -s)" != Linux ]; then
  left_out="not Linux: the MinIO and the real-cluster tests were left out; run make test on Debian 12 as root"
elif [ "$(id -u)" != 0 ]; then
  left_out="not root: the MinIO and the real-cluster tests were left out; run sudo make test"
elif ! command -v apt-get >/dev/null && ! docker info >/dev/null 2>&1; then
  left_out="no Docker and no apt-get to install it: the MinIO and the real-cluster tests were left out; install Docker, runc and the CNI plugins"
fi
if [ -n "$left_out" ] && [ "${CI:-}" = true ]; then
  echo "$left_out" >&2
  exit 1
fi

step "vet"
go vet ./...
lint
step "quick tests, with the race detector"
if ! command -v zstd >/dev/null && [ -z "$left_out" ]; then
  apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q zstd >/dev/null
fi
CI= KUBELOGEXPORTER_INTEGRATION= go test -race ./...
step "what an exporter needs of memory"
KUBELOGEXPORTER_MEMORY=1 go test -count=1 -run '^TestMemory' ./exporter
step "how fast redaction and selection are"
KUBELOGEXPORTER_SPEED=1 go test -p 1 -count=1 -run '^TestSpeed' ./exporter/redact ./exporter/selection
if [ -z "$left_out" ]; then
  step "MinIO, versitygw and a real Kubernetes node (the first time builds them from source, a quarter of an hour)"
  KUBELOGEXPORTER_INTEGRATION=1 go test -p 1 -parallel 16 -count=1 -timeout 60m ./integration/...
  step "the demo, up and down"
  go run ./integration/cmd/demo up
  go run ./integration/cmd/demo down
fi
step "done"
if [ -n "$left_out" ]; then
  echo "$left_out"
fi
