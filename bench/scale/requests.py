"""Requests to an S3 server by step of a run, with nothing to compute and without Prefect.

What the tasks do is called directly, on the group that a worker would get; so this counts what a run asks of the
storage apart from the tars, which nobody reads here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from uuid import uuid4

from bench.scale import corpus, standins
from bench.scale.driving import counted
from ecif import manifest, rollup
from ecif.interop.loaders import write_index
from ecif.progress import Silent
from ecif.report import compose
from ecif.report.gather import gather
from ecif.run import open_run
from ecif.settings import Settings
from ecif.stages import score
from ecif.stages.plan import mark_applied, plan
from ecif.storage.remote import filesystem
from flows.counts import counts
from tasks import ambient
from tasks.groups import Group, Job
from tasks.stages import score_group, write_group


def count(endpoint: str, shards: int) -> dict[str, Counter[str]]:
    """Requests by call, by step, of a first run over so many shards in one group, and of a run that finds nothing new.

    Args:
        endpoint: of the server; a bucket is made for it, and removed again.
    """
    bucket, options = f"ecif-scale-{uuid4().hex[:8]}", {"endpoint_url": endpoint}
    fs, root = filesystem("s3://", options), f"s3://{bucket}"
    fs.mkdir(bucket)
    try:
        corpus.on_s3(f"{root}/in", shards, options)
        settings = corpus.settings(f"{root}/in", f"{root}/out", drop="0.1", storage_options=options)
        return _steps(settings, [f"{root}/in/raw"])
    finally:
        fs.rm(root, recursive=True)


def _steps(settings: Settings, sources: list[str]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        with counted() as requests:
            yield
        found[name] = requests

    with standins.in_place(), ambient.during(ambient.Ambient(Silent(), ambient.private(settings))):
        with step("inventory"):
            run = open_run(sources, settings)
        layout, storage, key = run.layout, run.storage, run.score_key
        job, group = Job.of(run), Group("all", run.inventory.shards)
        with step("score, by workers"):
            score_group.fn(job, group)
        with step("plan"):
            decision = plan(layout, storage, settings, key)
            mark_applied(layout, storage, decision, settings)
        with step("write, by workers"):
            write_group.fn(replace(job, decision_key=decision.key), group)
        with step("index"):
            rollup.refresh(layout, storage)
            write_index(layout, storage)
        with step("report"):
            numbers = gather(layout, storage, run.inventory, decision, key, {}, Silent())
            compose(layout, storage, run.inventory, decision, numbers)
        with step("what is done"):
            assert len(score.done(run)) == len(manifest.done(layout, storage)) == len(run.inventory.shards)
        with step("outcome"):
            written = rollup.load(layout, storage)
            assert sum(item.kept or 0 for item in counts(run.inventory.shards, numbers.tables, written))
        with step("report, nothing new"):
            gather(layout, storage, run.inventory, decision, key, {}, Silent())
        with step("inventory, nothing new"):
            open_run(sources, settings)
    return found


def show(found: dict[str, Counter[str]], shards: int) -> None:
    """Print the table."""
    calls = sorted({call for requests in found.values() for call in requests})
    print(f"| {shards:,} shards | {' | '.join(calls)} | a shard |")
    print("|---|" + "---:|" * (len(calls) + 1))
    for name, requests in found.items():
        cells = [f"{requests[call]:,}" for call in calls]
        print(f"| {name} | {' | '.join(cells)} | {requests.total() / shards:.2f} |")
