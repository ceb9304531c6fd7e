#!/usr/bin/env bash
# Build the clients on grpc-go that tests drive, once for each state of their sources; print the directory with them: `client`, of
# tests/transport/grpc_go, and `interop`, grpc-go's own of the interoperability tests. Exit status 3: there is no Go here.
set -euo pipefail
cd "$(dirname "$0")/../tests/transport/grpc_go"
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/epp/grpc_go-$(cat go.mod go.sum main.go | sha256sum | cut -c1-16)"
if [ ! -x "$CACHE/client" ]; then
  GO=$(command -v go || true)
  [ -n "$GO" ] || { [ -x /usr/local/go/bin/go ] && GO=/usr/local/go/bin/go; } || { echo "grpc_go: no Go compiler" >&2; exit 3; }
  mkdir -p "$CACHE"
  NEW=$(mktemp -d "$CACHE/new.XXXX")
  trap 'rm -rf "$NEW"' EXIT
  "$GO" build -o "$NEW/interop" google.golang.org/grpc/interop/client >&2
  "$GO" build -o "$NEW/client" . >&2
  mv "$NEW/interop" "$CACHE/interop"
  mv "$NEW/client" "$CACHE/client" # last, since it is what says that all is there
fi
echo "$CACHE"
