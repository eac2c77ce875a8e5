#!/usr/bin/env bash
# postgres.sh DIR PORT     start PostgreSQL on 127.0.0.1:PORT with an empty database `prefect` of the user `prefect`
# postgres.sh --stop DIR   stop it and remove its data
#
# PostgreSQL refuses to run as root, and an unprivileged user cannot enter a directory of root's: as root, the data lie
# in a directory of their own below TMPDIR, which belongs to `nobody`; DIR names it.
set -euo pipefail

for folder in "$(dirname "$(command -v initdb || echo /)")" /usr/lib/postgresql/*/bin; do
  [ -x "$folder/initdb" ] && BIN=$folder
done
[ -n "${BIN:-}" ] || { echo "needs initdb and pg_ctl (Debian and Ubuntu: the package postgresql)" >&2; exit 2; }
BIN=$(dirname "$(readlink -f "$BIN/initdb")")
as_user() { # in a directory that the user may enter
  if [ "$(id -u)" = 0 ]; then
    (cd / && setpriv --reuid=nobody --regid=nogroup --clear-groups env HOME=/nonexistent "$@")
  else
    (cd / && "$@")
  fi
}
stop() {
  local data
  [ -e "$1/postgres.data" ] || return 0
  data=$(cat "$1/postgres.data")
  if [ -e "$data/db/postmaster.pid" ]; then as_user "$BIN/pg_ctl" -D "$data/db" -m immediate -w -t 60 stop >/dev/null; fi
  rm -rf "$data" "$1/postgres.data"
}
if [ "${1:-}" = --stop ]; then stop "${2:?usage: postgres.sh --stop DIR}"; exit 0; fi

D=$(mkdir -p "${1:?usage: postgres.sh DIR PORT}" && readlink -f "$1")
PORT=${2:?usage: postgres.sh DIR PORT}
stop "$D"
DATA=$(mktemp -d "${TMPDIR:-/tmp}/ecif-postgres.XXXXXX")
echo "$DATA" >"$D/postgres.data"
[ "$(id -u)" = 0 ] && chown nobody:nogroup "$DATA"
fail() { echo "$1" >&2; tail -n 15 "$DATA"/*.log >&2; stop "$D"; exit 1; }
as_user "$BIN/initdb" -D "$DATA/db" -A trust -U prefect -E UTF8 --locale=C >"$DATA/initdb.log" 2>&1 || fail "initdb failed"
# No safety against a crash of the machine, which tests do not need; 200 connections: a server takes some thirty.
cat >>"$DATA/db/postgresql.conf" <<C
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
port = $PORT
max_connections = 200
fsync = off
full_page_writes = off
C
as_user "$BIN/pg_ctl" -D "$DATA/db" -l "$DATA/postgres.log" -w -t 60 start >/dev/null 2>&1 || fail "PostgreSQL did not start"
as_user "$BIN/createdb" -h 127.0.0.1 -p "$PORT" -U prefect prefect || fail "the database could not be made"
