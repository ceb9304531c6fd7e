#!/usr/bin/env bash
# Build h2spec, the conformance suite of HTTP/2 servers, once; print where it is. Exit status 3: there is no Go here to build it with.
set -euo pipefail
VERSION=v2.2.1+incompatible
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/epp/h2spec-$VERSION"
if [ ! -x "$CACHE/h2spec" ]; then
  GO=$(command -v go || true)
  [ -n "$GO" ] || { [ -x /usr/local/go/bin/go ] && GO=/usr/local/go/bin/go; } || { echo "h2spec: no Go compiler" >&2; exit 3; }
  GOBIN="$CACHE" "$GO" install "github.com/summerwind/h2spec/cmd/h2spec@$VERSION" >&2
fi
echo "$CACHE/h2spec"
