"""Shards that keep arriving for an hour: is anything lost or done twice, and what does a shard cost the database?

    python -m bench.soak --work DIR --s3 ENDPOINT --key KEY --secret SECRET [--minutes 60] [--every 60]
                         [--silent 5] [--look 5] [--bucket NAME]

A Prefect server on PostgreSQL, two process workers and the deployments of prefect.yaml are started here; the storage is
yours. The corpus is cleaned once; from then on a shard arrives every so many seconds in a folder of its own, and an
event names the folder. Every fifth arrival is silent, as if its event had been lost: the scheduled `watch` has to find
it. At the end every shard must have a manifest, `ecif verify` must agree with every byte, and none of a shard's files
may have been written twice. The last table says what a shard has cost in rows and bytes of the database, and how long
after its upload it was there.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

from bench.matrix import said, table
from bench.places import Server, add_server
from bench.scenes import MONTHLY, Stage, staged
from tests.integration.field import announce

PATIENCE = 900.0  # seconds after the last arrival in which everything must be there
# What is published for a shard, each once.
PUBLISHED = (r"_ecif/scores/[^/]+/{}\.parquet", r"{}\.tar", r"_ecif/ledger/{}\.parquet", r"_ecif/manifest/{}\.json")


class Arrivals:
    """What has arrived when, and whether it was announced."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.at: dict[str, float] = {}
        self.silent: set[str] = set()

    def next(self, silent: bool) -> str:
        """Upload a shard into a folder of its own, and announce the folder unless it is to be silent."""
        ground = self._stage.ground
        folder = f"{ground.shards:05d}/"
        (name,) = ground.arrive(1, folder)
        self.at[name] = time.time()
        if silent:
            self.silent.add(name)
        else:
            announce(self._stage.orchestra, f"{ground.raw.url}/{folder}")
        return name

    def written(self) -> dict[str, float]:
        """Seconds from upload to manifest, of the shards that have one."""
        stamps = self._stage.ground.times("_ecif/manifest/")
        ends = {name.removeprefix("_ecif/manifest/").removesuffix(".json"): at for name, at in stamps.items()}
        return {name: ends[name] - began for name, began in self.at.items() if name in ends}


def soak(stage: Stage, minutes: float, every: float, silent: int) -> dict[str, Any]:
    """Let shards arrive, wait until all are written, and count.

    Args:
        every: seconds between two arrivals. silent: every so many-th arrival is not announced.

    Returns:
        one row of numbers; `lost` and `twice` are lists of names and must be empty.
    """
    arrivals, ground = Arrivals(stage), stage.ground
    before, memory = stage.database.size(), stage.orchestra.memory()
    ground.proxy.clear()
    began = time.monotonic()
    while (passed := time.monotonic() - began) < 60 * minutes:
        number = len(arrivals.at) + 1
        name = arrivals.next(silent=number % silent == 0)
        said(f"{passed / 60:5.1f} min: {name} arrived, {len(arrivals.written())} of {number} are written")
        time.sleep(max(0.0, number * every - (time.monotonic() - began)))
    arrived = time.monotonic()
    while len(arrivals.written()) < len(arrivals.at) and time.monotonic() - arrived < PATIENCE:
        time.sleep(5)
    quiet(stage)
    after, delays = stage.database.size(), arrivals.written()
    names = "|".join(map(re.escape, arrivals.at))
    writes = ground.writes([form.format(f"(?:{names})") for form in PUBLISHED])
    rows = {table: count - before.get(table, 0) for table, count in after.items() if count > before.get(table, 0)}
    announced = sorted(delay for name, delay in delays.items() if name not in arrivals.silent)
    found = sorted(delay for name, delay in delays.items() if name in arrivals.silent)
    return {
        "minutes": minutes,
        "shards": len(arrivals.at),
        "silent": len(arrivals.silent),
        "lost": sorted(set(arrivals.at) - set(delays)),
        "twice": sorted(name for name, count in writes.items() if count > 1),
        "verified": verified(stage),
        "runs": runs(stage),
        "seconds, announced": spread(announced),
        "seconds, silent": spread(found),
        "server, MB": f"{memory / 1e6:.0f} at the beginning, {stage.orchestra.memory() / 1e6:.0f} at the end",
        "database bytes": rows.pop("bytes", 0),
        "database rows": sum(rows.values()),
        "rows": dict(sorted(rows.items(), key=lambda row: -row[1])),
    }


def quiet(stage: Stage) -> None:
    """Wait until no run is under way."""
    while stage.orchestra.under_way():
        time.sleep(1)


def verified(stage: Stage) -> bool:
    """What `ecif verify` says of the whole output, over the way that the workers take."""
    command = [str(Path(sys.executable).with_name("ecif")), "verify", stage.ground.out.url, "--json"]
    environment = {**stage.orchestra.environment, **stage.ground.environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        said(done.stdout[-2000:] + done.stderr[-2000:])
    return done.returncode == 0 and bool(json.loads(done.stdout)["ok"])


def runs(stage: Stage) -> dict[str, int]:
    """Runs by deployment and state."""
    found: Counter[str] = Counter()
    with stage.orchestra.client() as client:
        names: dict[UUID | None, str] = {found.id: found.name for found in client.read_deployments()}
        while page := client.read_flow_runs(limit=200, offset=found.total()):
            found.update(f"{names.get(run.deployment_id, '?')} {run.state_name}" for run in page)
    return dict(sorted(found.items()))


def spread(values: Sequence[float]) -> str:
    """Median and largest."""
    return f"median {median(values):.0f}, largest {max(values):.0f}" if values else "none"


def main() -> None:
    """Print the tables; exit with 1 if anything was lost or done twice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True)
    add_server(parser, "ecif-soak")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=60, help="seconds between two arrivals")
    parser.add_argument("--silent", type=int, default=5, help="every so many-th arrival is not announced")
    parser.add_argument("--look", type=int, default=5, help="minutes between two runs of `watch`")
    given = parser.parse_args()
    # Whoever ends this ends the servers, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    given.work.mkdir(parents=True, exist_ok=True)
    with staged(
        given.work,
        Server(given.s3, given.key, given.secret),
        given.bucket,
        {**MONTHLY, "watch": f"*/{given.look} * * * *"},
    ) as stage:
        stage.rehearse()
        stage.worker()
        said(f"the corpus is clean after {stage.seconds:.0f} s; arrivals begin")
        found = soak(stage, given.minutes, given.every, given.silent)
    (given.work / "soak.json").write_text(json.dumps(found, indent=1), "utf-8")
    print(table(("", ""), ((name, value) for name, value in found.items() if name != "rows")))
    print(table(("table", "rows", "for each shard"), per_shard(found)))
    sys.exit(bool(found["lost"] or found["twice"] or not found["verified"]))


def per_shard(found: Mapping[str, Any]) -> Iterator[Sequence[object]]:
    """What a shard has cost the database, by table."""
    for name, count in found["rows"].items():
        yield name, count, f"{count / found['shards']:.1f}"
    yield "all", found["database rows"], f"{found['database rows'] / found['shards']:.1f}"
    yield "bytes", found["database bytes"], f"{found['database bytes'] / found['shards']:,.0f}"


if __name__ == "__main__":
    main()
