#!/usr/bin/env bash
# Build the conformance suite of the Gateway API Inference Extension, of tests/conformance/suite, once for each state of its sources:
# some minutes the first time. Print where the program is. Exit status 3: there is no Go here.
set -euo pipefail
cd "$(dirname "$0")/../tests/conformance/suite"
TARGET="${XDG_CACHE_HOME:-$HOME/.cache}/epp/conformance_suite-$(cat go.mod go.sum suite_test.go | sha256sum | cut -c1-16)"
if [ ! -x "$TARGET" ]; then
  GO=$(command -v go || true)
  [ -n "$GO" ] || { [ -x /usr/local/go/bin/go ] && GO=/usr/local/go/bin/go; } || { echo "conformance_suite: no Go compiler" >&2; exit 3; }
  mkdir -p "$(dirname "$TARGET")"
  NEW=$(mktemp -d "$TARGET.XXXX")
  trap 'rm -rf "$NEW"' EXIT
  nice -n 5 "$GO" test -c -ldflags="-s -w" -o "$NEW/suite" . >&2
  mv "$NEW/suite" "$TARGET"
fi
echo "$TARGET"
