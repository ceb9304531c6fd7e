#!/usr/bin/env bash
# Bring h2load, the load generator of nghttp2, once; print where it is. It is the machine's own, or comes out of Debian's packages
# without being installed, with the libraries it needs beside it. Exit status 3: it cannot be had here.
set -euo pipefail
command -v h2load && exit
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/epp/h2load"
if [ ! -x "$CACHE/h2load" ]; then
  for tool in apt-get apt-cache dpkg-deb; do
    command -v $tool > /dev/null || { echo "h2load: not installed, and no $tool to bring it" >&2; exit 3; }
  done
  mkdir -p "$CACHE"
  NEW=$(mktemp -d "$CACHE/new.XXXX")
  trap 'rm -rf "$NEW"' EXIT
  cd "$NEW"
  [ -n "$(apt-cache show nghttp2-client 2> /dev/null)" ] || apt-get --quiet update >&2 || true
  LIBRARIES=$(apt-cache depends nghttp2-client | sed -nE 's/^ +Depends: ([a-z0-9.+-]+)$/\1/p' | grep -v '^libc6$')
  # shellcheck disable=SC2086 # a name a word
  apt-get --quiet --option=APT::Sandbox::User=root download nghttp2-client $LIBRARIES >&2 ||
    { echo "h2load: its packages cannot be downloaded" >&2; exit 3; }
  for package in *.deb; do dpkg-deb --extract "$package" root; done
  DIRECTORIES=$(find root -name 'lib*.so.*' -not -path '*/share/*' -printf "$CACHE/%h\n" | sort -u | paste -sd:)
  rm -rf "$CACHE/root"
  mv root "$CACHE/root"
  printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' "$DIRECTORIES" "$CACHE/root/usr/bin/h2load" > h2load
  chmod +x h2load
  ./h2load --version >&2
  mv h2load "$CACHE/h2load"
fi
echo "$CACHE/h2load"
