"""The flow `clean` over a simulated corpus with a real Prefect server: what is left when nothing is computed or copied.

Each run is a process of its own, with an engine of its own: overhead in seconds by stage, peak memory above that of
the imports, task runs, rows and bytes in the database, requests to S3. Overhead is what a stage took less what the
stand-ins took, which publish a table and a manifest for every shard. After the run that does everything comes one that
finds nothing new: what every later run pays for the corpus that is there.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict
from unittest.mock import patch
from uuid import uuid4

from bench.scale import corpus, planning, standins
from ecif.progress import Silent
from ecif.storage.remote import filesystem
from ecif.storage.s3 import S3Store

TABLES = ("flow_run", "task_run", "task_run_state", "events", "event_resources", "log", "artifact")


class Driven(TypedDict):
    """What one run came to; `overhead` and `standins` are seconds by stage, `requests` numbers by S3 call."""

    run: str
    shards: int
    wall: float
    cpu: float
    peak: float
    overhead: dict[str, float]
    standins: dict[str, float]
    requests: dict[str, int]
    rows: dict[str, int]
    database: int


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the S3 requests of this process by call, repeated ones again."""
    found: Counter[str] = Counter()
    once = S3Store.once

    async def counting(self: S3Store, method: str, **parameters: Any) -> Any:
        found[method] += 1
        return await once(self, method, **parameters)

    with patch.object(S3Store, "once", counting):
        yield found


def child(shards: int, root: str, out: str, drop: str | None, seconds: float) -> None:
    """One run, in this process; prints what is known here."""
    # What the run needs is imported before its memory is measured.
    from flows.clean import run_clean
    from flows.stages import Stages

    changes: dict[str, Any] = {"drop": drop, "group_size": planning.GROUP, "max_groups": 1}
    settings = corpus.settings(root, out, **changes)
    before = planning.peak()
    count, counting = Stages.outcome, standins.Spent()

    def counted_outcome(*arguments: Any) -> Any:
        with counting.on("outcome"):
            return count(*arguments)

    with (
        standins.in_place(seconds) as spent,
        counted() as requests,
        patch.object(Stages, "outcome", counted_outcome),
    ):
        wall, cpu = time.perf_counter(), time.process_time()
        outcome = run_clean([f"{root}/raw"], settings, Silent())
        took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    assert outcome.scored == shards, outcome
    overhead = {stage: taken - spent.seconds.get(stage, 0.0) for stage, taken in outcome.seconds.items()}
    overhead |= counting.seconds
    # Another inventory while the engine starts, the engine itself, artifacts.
    overhead["engine"] = took["wall"] - sum(outcome.seconds.values()) - sum(counting.seconds.values())
    found = {"overhead": overhead, "standins": spent.seconds, "requests": dict(requests)}
    print(json.dumps({"shards": shards, **took, "peak": planning.peak() - before, **found}))


def drive(
    work: Path, shards: int, *, drop: str | None, seconds: float = 0.0, s3: str = "", database: str = ""
) -> list[Driven]:
    """The first run over a corpus, and another one.

    Args:
        work: where the corpus is laid out and Prefect keeps its files.
        drop: the policy; None ends the run after scoring.
        seconds: that scoring a shard takes.
        s3: endpoint of a server on which corpus and output lie; keys come from the environment.
        database: of Prefect, if it is not to be SQLite; what it holds is counted before and after.
    """
    name = f"scale-drive-{uuid4().hex[:8]}"
    home = work / name
    home.mkdir(parents=True)
    environment = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": ""}
    if database:
        environment["PREFECT_API_DATABASE_CONNECTION_URL"] = database
    if s3:
        options = {"endpoint_url": s3}
        fs, root = filesystem("s3://", options), f"s3://{name}"
        fs.mkdir(name)
        environment["AWS_ENDPOINT_URL"] = s3
        corpus.on_s3(f"{root}/in", shards, options)
        source, out = f"{root}/in", f"{root}/out"
    else:
        corpus.on_disk(work / f"scale-{shards}", shards)
        source, out = str(work / f"scale-{shards}"), str(home / "out")
    arguments = json.dumps([shards, source, out, drop, seconds])
    command = [sys.executable, "-m", "bench.scale", "drive-child", arguments]
    found: list[Driven] = []
    try:
        for run in ("first", "again"):
            before = counts(home, database)
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
            after = counts(home, database)
            found.append(json.loads(output.splitlines()[-1]) | {"run": run})
            found[-1]["rows"] = {table: after[table] - before.get(table, 0) for table in TABLES}
            found[-1]["database"] = after["bytes"] - before.get("bytes", 0)
    finally:
        if s3:
            fs.rm(f"s3://{name}", recursive=True)
        shutil.rmtree(home)
    return found


def counts(home: Path, database: str) -> dict[str, int]:
    """Rows by table, and bytes, of Prefect's database; nothing where there is none yet."""
    if database:
        return asyncio.run(_in_postgres(database))
    file = home / "prefect.db"
    if not file.exists():
        return {}
    with sqlite3.connect(file) as connection:
        found = {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}
    return found | {"bytes": sum(part.stat().st_size for part in home.glob("prefect.db*"))}


async def _in_postgres(database: str) -> dict[str, int]:
    import asyncpg  # type: ignore[import-untyped]

    connection = await asyncpg.connect(database.replace("+asyncpg", ""))
    try:
        if await connection.fetchval("SELECT to_regclass('task_run')") is None:
            return {}
        found = {table: await connection.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}
        return found | {"bytes": await connection.fetchval("SELECT pg_database_size(current_database())")}
    finally:
        await connection.close()


def show(found: list[Driven]) -> None:
    """Print the tables."""
    stages = list(dict.fromkeys(stage for one in found for stage in one["overhead"]))
    print(f"| shards | run | wall s | {' | '.join(stages)} | overhead ms a shard | peak MB |")
    print("|---:|---|" + "---:|" * (len(stages) + 3))
    for one in found:
        overhead = [one["overhead"].get(stage, 0.0) for stage in stages]
        # The engine starts and stops once, however many shards there are, and a server is not started at all.
        each = 1000 * (sum(overhead) - one["overhead"]["engine"]) / one["shards"]
        cells = [f"{one['shards']:,}", one["run"], f"{one['wall']:.0f}", *(f"{s:.1f}" for s in overhead), f"{each:.1f}"]
        print("|", " | ".join([*cells, f"{one['peak']:.0f}"]), "|")
    print(f"\n| shards | run | {' | '.join(TABLES)} | database MB |")
    print("|---:|---|" + "---:|" * (len(TABLES) + 1))
    for one in found:
        rows = [f"{one['rows'][table]:,}" for table in TABLES]
        print("|", " | ".join([f"{one['shards']:,}", one["run"], *rows, f"{one['database'] / 1e6:.1f}"]), "|")
    if calls := sorted({call for one in found for call in one["requests"]}):
        print(f"\n| shards | run | {' | '.join(calls)} | S3 requests a shard |")
        print("|---:|---|" + "---:|" * (len(calls) + 1))
        for one in found:
            numbers = [one["requests"].get(call, 0) for call in calls]
            cells = [f"{one['shards']:,}", one["run"], *(f"{n:,}" for n in numbers)]
            print("|", " | ".join(cells), end=" | ")
            print(f"{sum(numbers) / one['shards']:.1f} |")
