#!/usr/bin/env bash
# swift.sh DIR PORT     start OpenStack Swift with its S3 API on 127.0.0.1:PORT; data, logs and pids lie under DIR
# swift.sh --stop DIR   stop it; the data stay
#
# One replica, one device, proxy, account, container and object server, on PORT to PORT+3. Swift is installed by pip
# into a virtual environment in a cache ($ECIF_TEST_CACHE, else ~/.cache/ecif-tests).
# Two users: test:pipeline / pipeline-secret, and test:reader / reader-secret, who may do nothing.
set -euo pipefail

stop() {
  local file pid
  for file in "$1"/run/*.pid; do
    [ -e "$file" ] || continue
    pid=$(cat "$file")
    # Only a process whose command line names this directory: numbers are given again.
    if [ -r "/proc/$pid/cmdline" ] && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF -- "$1"; then
      kill "$pid" 2>/dev/null || true
      for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
      kill -9 "$pid" 2>/dev/null || true
    fi
    rm -f "$file"
  done
}
if [ "${1:-}" = --stop ]; then stop "$(readlink -f "${2:?usage: swift.sh --stop DIR}")"; exit 0; fi

D=$(mkdir -p "${1:?usage: swift.sh DIR PORT}" && readlink -f "$1")
PORT=${2:?usage: swift.sh DIR PORT}
CACHE=${ECIF_TEST_CACHE:-$HOME/.cache/ecif-tests}
VENV=$CACHE/swift
PYTHON=${PYTHON:-python3}
ME=$(id -un)
command -v curl >/dev/null || { echo "needs curl; or set ECIF_TEST_SWIFT to a running server" >&2; exit 2; }
for port in "$PORT" $((PORT + 1)) $((PORT + 2)) $((PORT + 3)); do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "port $port is taken" >&2; exit 1; fi
done
mkdir -p "$D"/{etc,run,log,cache,node/d1} "$CACHE"
stop "$D"

if [ ! -e "$VENV/.complete" ]; then
  "$PYTHON" -m venv --clear "$VENV" && "$VENV/bin/pip" install -q 'swift==2.38.3' || {
    echo "Swift cannot be installed by pip into $VENV (on Debian and Ubuntu this needs python3-venv);" \
      "or set ECIF_TEST_SWIFT to a running server" >&2
    exit 2
  }
  touch "$VENV/.complete"
fi

# Swift keeps what it knows of an object in extended attributes.
"$VENV/bin/python" - "$D/node/d1" <<'P' || { echo "$D lies on a file system without user xattrs; set TMPDIR to one on ext4 or xfs" >&2; exit 2; }
import os, sys
file = os.path.join(sys.argv[1], ".attributes")
open(file, "w").close()
os.setxattr(file, "user.test", b"x" * 2000)
os.unlink(file)
P

cd "$D/etc"
offset=1
for ring in account container object; do
  if [ ! -e $ring.ring.gz ]; then
    "$VENV/bin/swift-ring-builder" $ring.builder create 6 1 1 >/dev/null
    "$VENV/bin/swift-ring-builder" $ring.builder add --region 1 --zone 1 --ip 127.0.0.1 --port $((PORT + offset)) \
      --device d1 --weight 1 >/dev/null
    "$VENV/bin/swift-ring-builder" $ring.builder rebalance >/dev/null
  fi
  offset=$((offset + 1))
done

cat >swift.conf <<C
[swift-hash]
swift_hash_path_suffix = ecif-tests
[storage-policy:0]
name = default
default = yes
[swift-constraints]
max_file_size = 5368709122
C
offset=1
for ring in account container object; do
  cat >$ring-server.conf <<C
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $((PORT + offset))
workers = $([ $ring = object ] && echo 2 || echo 1)
user = $ME
swift_dir = $D/etc
devices = $D/node
mount_check = false
disable_fallocate = true
recon_cache_path = $D/cache
log_name = $ring
log_level = WARNING
log_address = /nonexistent
conn_timeout = 10
node_timeout = 60
# A listing must show a finished PUT: wait for the container rather than tell it later.
container_update_timeout = 30
[pipeline:main]
pipeline = $ring-server
[app:$ring-server]
use = egg:swift#$ring
allow_versions = true
C
  offset=$((offset + 1))
done
cat >proxy-server.conf <<C
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $PORT
workers = 2
user = $ME
swift_dir = $D/etc
log_name = proxy
log_level = WARNING
log_address = /nonexistent
conn_timeout = 10
node_timeout = 60
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck bulk s3api tempauth copy slo dlo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 10
node_timeout = 60
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
max_upload_part_num = 10000
s3_acl = false
[filter:tempauth]
use = egg:swift#tempauth
user_test_pipeline = pipeline-secret .admin
user_test_reader = reader-secret
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
max_manifest_segments = 10000
max_manifest_size = 8388608
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
C

start() { local name=$1; shift; setsid nohup "$@" >>"$D/log/$name.log" 2>&1 </dev/null & echo $! >"$D/run/$name.pid"; }
for ring in account container object; do start $ring "$VENV/bin/swift-$ring-server" "$D/etc/$ring-server.conf"; done
start proxy "$VENV/bin/swift-proxy-server" "$D/etc/proxy-server.conf"
for _ in $(seq 300); do
  if curl -fsS -m 2 "http://127.0.0.1:$PORT/healthcheck" 2>/dev/null | grep -q OK; then exit 0; fi
  sleep 0.2
done
echo "Swift did not answer; the last lines of its logs:" >&2
tail -n 15 "$D"/log/*.log >&2
stop "$D"
exit 1
