#!/usr/bin/env bash
# ceph.sh DIR PORT      start a Ceph RADOS Gateway on 127.0.0.1:PORT with its data, logs and pids under DIR
# ceph.sh --stop DIR    stop it; the data stay
#
# One monitor, one BlueStore OSD in a sparse file, one gateway; no containers, no services. The Debian or Ubuntu
# packages are downloaded and unpacked into a cache ($ECIF_TEST_CACHE, else ~/.cache/ecif-tests), nothing is installed.
# Two users: pipeline / pipeline-secret, and reader / reader-secret, who owns nothing of the first.
set -euo pipefail

ours() { # pid, directory: is it a daemon that was started from there, and not another process that got its number?
  [ -r "/proc/$1/environ" ] && tr '\0' '\n' <"/proc/$1/environ" 2>/dev/null | grep -qxF "CEPH_CONF=$2/ceph.conf"
}
stop() {
  local name pid
  for name in rgw osd mon; do
    [ -e "$1/run/$name.pid" ] || continue
    pid=$(cat "$1/run/$name.pid")
    if ours "$pid" "$1"; then
      kill "$pid" 2>/dev/null || true
      for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
      kill -9 "$pid" 2>/dev/null || true
    fi
    rm -f "$1/run/$name.pid"
  done
}
if [ "${1:-}" = --stop ]; then stop "$(readlink -f "${2:?usage: ceph.sh --stop DIR}")"; exit 0; fi

D=$(mkdir -p "${1:?usage: ceph.sh DIR PORT}" && readlink -f "$1")
PORT=${2:?usage: ceph.sh DIR PORT}
MONITOR=${CEPH_MONITOR_PORT:-$((PORT + 1))}
ROOT=${ECIF_TEST_CACHE:-$HOME/.cache/ecif-tests}/ceph
for needed in apt-get dpkg-deb curl; do
  command -v "$needed" >/dev/null || {
    echo "needs $needed (Ceph is taken from the packages of Debian or Ubuntu); or set ECIF_TEST_CEPH to a server" >&2; exit 2; }
done
for port in "$PORT" "$MONITOR"; do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "port $port is taken" >&2; exit 1; fi
done

# --- programs: downloaded once, unpacked beside and moved into place, so that a broken attempt leaves nothing ------
if [ ! -x "$ROOT/usr/bin/radosgw" ]; then
  mkdir -p "$(dirname "$ROOT")"
  FRESH=$(mktemp -d "$ROOT.XXXXXX")
  mkdir -p "$FRESH/debs/archives/partial" "$FRESH/root"
  download() {
    apt-get -qq -o Dir::Cache="$FRESH/debs" -o Dir::Cache::archives=archives -o Debug::NoLocking=1 \
      -o APT::Sandbox::User="$(id -un)" install -y --reinstall --no-install-recommends --download-only \
      radosgw ceph-mon ceph-osd ceph-common
  }
  download >/dev/null 2>&1 || { apt-get -qq update && download >/dev/null; } || {
    rm -rf "$FRESH"
    echo "the packages radosgw ceph-mon ceph-osd ceph-common cannot be downloaded; run apt-get update as root," \
      "or set ECIF_TEST_CEPH to a running server" >&2
    exit 2
  }
  for package in "$FRESH"/debs/archives/*.deb; do dpkg-deb -x "$package" "$FRESH/root"; done
  mv -T "$FRESH/root" "$ROOT" 2>/dev/null || [ -x "$ROOT/usr/bin/radosgw" ]
  rm -rf "$FRESH"
fi
LIBRARIES=$ROOT/usr/lib/$(uname -m)-linux-gnu
export LD_LIBRARY_PATH=$LIBRARIES:$LIBRARIES/ceph:$ROOT/lib/$(uname -m)-linux-gnu PATH=$ROOT/usr/bin:$PATH
export PYTHONPATH=$ROOT/usr/lib/python3/dist-packages PYTHONDONTWRITEBYTECODE=1 CEPH_CONF=$D/ceph.conf
ceph() { timeout 15 /usr/bin/python3 "$ROOT/usr/bin/ceph" "$@"; }

# --- configuration ------------------------------------------------------------------------------------------------
stop "$D"
mkdir -p "$D"/{mon,osd,run,log,rgw}
[ -e "$D/fsid" ] || cat /proc/sys/kernel/random/uuid >"$D/fsid"
cat >"$D/ceph.conf" <<C
[global]
fsid = $(cat "$D/fsid")
mon host = [v1:127.0.0.1:$MONITOR]
ms bind msgr2 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
keyring = $D/none.keyring
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd crush chooseleaf type = 0
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
mon max pg per osd = 1000
mon data avail crit = 0
mon data = $D/mon
osd data = $D/osd
run dir = $D/run
log file = $D/log/\$name.log
admin socket = $D/run/\$name.asok
osd class dir = $LIBRARIES/rados-classes
erasure code dir = $LIBRARIES/ceph/erasure-code
plugin dir = $LIBRARIES/ceph
osd objectstore = bluestore
bluestore block size = $((20 * 1073741824))
bluestore block create = true
osd memory target = 1073741824
osd crush update on start = false
osd class update on start = false
rgw thread pool size = 64
rgw data = $D/rgw
# Deleted objects keep their space until they are collected, by default for two hours: tests would fill the disk.
rgw gc obj min wait = 10
rgw gc processor period = 20
rgw gc processor max time = 20
debug rgw = 0/0
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:$PORT
C

start() { local name=$1; shift; setsid nohup "$@" >>"$D/log/$name.out" 2>&1 </dev/null & echo $! >"$D/run/$name.pid"; }
fail() { echo "$1; the last lines of the logs:" >&2; tail -n 8 "$D"/log/*.out >&2; stop "$D"; exit 1; }
wait_for() { # message, half seconds, command
  local message=$1 tries=$2; shift 2
  for _ in $(seq "$tries"); do "$@" && return 0; sleep 0.5; done
  fail "$message"
}
quorum() { ceph quorum_status >/dev/null 2>&1; }
osd_up() { ceph osd stat 2>/dev/null | grep -q '1 up'; }
answers() { [ "$(curl -s -m 3 -o /dev/null -w '%{http_code}' "http://127.0.0.1:$PORT/")" = 200 ]; }
user() { timeout 60 radosgw-admin -n client.rgw user create --uid="$1" --display-name="$1" --access-key="$1" \
  --secret-key="$1-secret" >/dev/null 2>&1 || fail "user $1 could not be made"; }

# --- monitor, storage, gateway, users -----------------------------------------------------------------------------
if [ ! -e "$D/mon/store.db" ]; then
  monmaptool --create --clobber --fsid "$(cat "$D/fsid")" --addv a "[v1:127.0.0.1:$MONITOR]" "$D/monmap" >/dev/null
  ceph-mon -i a --mkfs --fsid "$(cat "$D/fsid")" --monmap "$D/monmap" >>"$D/log/mon.out" 2>&1
fi
start mon ceph-mon -i a -f
wait_for "the monitor did not form a quorum" 60 quorum
if [ ! -e "$D/osd/.made" ]; then
  UUID=$(cat /proc/sys/kernel/random/uuid)
  ceph osd new "$UUID" >/dev/null 2>&1
  ceph-osd -i 0 --mkfs --osd-uuid "$UUID" >>"$D/log/osd.out" 2>&1
  ceph osd crush add osd.0 1.0 root=default host=h >/dev/null 2>&1
  touch "$D/osd/.made"
fi
start osd ceph-osd -i 0 -f
wait_for "the OSD did not come up" 120 osd_up
start rgw radosgw -n client.rgw -f
wait_for "the gateway did not answer" 240 answers
if [ ! -e "$D/users.made" ]; then
  user pipeline
  user reader
  touch "$D/users.made"
fi
