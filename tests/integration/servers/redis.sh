#!/usr/bin/env bash
# redis.sh      print a command that runs redis-server: the installed one, or one from the packages of Debian or Ubuntu,
#               which are downloaded and unpacked into a cache ($ECIF_TEST_CACHE, else ~/.cache/ecif-tests)
set -euo pipefail

if command -v redis-server; then exit 0; fi
ROOT=${ECIF_TEST_CACHE:-$HOME/.cache/ecif-tests}/redis
LIBRARIES=$ROOT/usr/lib/$(uname -m)-linux-gnu
if [ ! -x "$ROOT/redis-server" ]; then
  mkdir -p "$(dirname "$ROOT")"
  FRESH=$(mktemp -d "$ROOT.XXXXXX")
  mkdir -p "$FRESH/debs/archives/partial" "$FRESH/tree"
  download() {
    apt-get -qq -o Dir::Cache="$FRESH/debs" -o Dir::Cache::archives=archives -o Debug::NoLocking=1 \
      -o APT::Sandbox::User="$(id -un)" install -y --reinstall --no-install-recommends --download-only redis-server
  }
  download >/dev/null 2>&1 || { apt-get -qq update && download >/dev/null; } || {
    rm -rf "$FRESH"
    echo "the package redis-server cannot be downloaded; run apt-get update as root, or install it" >&2
    exit 2
  }
  for package in "$FRESH"/debs/archives/*.deb; do dpkg-deb -x "$package" "$FRESH/tree"; done
  program=$(cd "$FRESH/tree" && find . -path '*/bin/redis-server' | head -n 1)
  printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s/%s "$@"\n' "$LIBRARIES" "$ROOT" "${program#./}" >"$FRESH/tree/redis-server"
  chmod +x "$FRESH/tree/redis-server"
  mv -T "$FRESH/tree" "$ROOT" 2>/dev/null || [ -x "$ROOT/redis-server" ]
  rm -rf "$FRESH"
fi
echo "$ROOT/redis-server"
