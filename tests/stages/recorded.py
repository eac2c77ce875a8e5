"""Shards that are recorded but not packed yet, made up without tars: score table, ledger and manifest."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import polars as pl

from ecif import ALGO_VERSION, ledger, manifest
from ecif.layout import Layout
from ecif.manifest import FileMark, Manifest
from ecif.storage import FileInfo, Storage
from tests.stages.outputs import DECISION_KEY, FIT_KEY, SCORE_KEY, parquet


def record(
    layout: Layout,
    storage: Storage,
    shard: str,
    keys: Sequence[str],
    gone: Collection[int] = (),
    decision_key: str = DECISION_KEY,
    kinds: Collection[str] = ("ledger", "scores"),
) -> Manifest:
    """Record a shard with these keys, of which the samples at `gone` were dropped."""
    n = len(keys)
    scores = pl.DataFrame(
        {"index": pl.Series(range(n), dtype=pl.UInt32), "key": keys, "uid": [f"uid of {shard}/{key}" for key in keys]},
        schema_overrides={"key": pl.String, "uid": pl.String},
    )
    rows = scores.filter(pl.col("index").is_in(sorted(gone))).with_columns(
        reason=pl.lit("policy"), action=pl.lit("drop"), detector=pl.lit("influence"), score=pl.lit(0.0),
        rank=pl.lit(1), sha256=pl.lit("0" * 64),
    )  # fmt: skip
    files = {}
    for kind, url, data in (
        ("scores", layout.scores(SCORE_KEY, shard), parquet(scores)),
        ("ledger", layout.ledger(shard), ledger.write(rows)),
        ("tar", layout.tar(shard), b"a tar"),
    ):
        if kind in kinds:
            published = storage.publish(url, data)
            files[kind] = FileMark(published.size, published.sha256)
    done = Manifest(
        shard=shard,
        input=FileInfo(f"/in/{shard}.tar", 1, "etag"),
        samples=n,
        kept=n - len(gone),
        dropped=len(gone),
        quarantined=0,
        unscored=0,
        statuses={"ok": n},
        files=files,
        fit_key=FIT_KEY,
        score_key=SCORE_KEY,
        decision_key=decision_key,
        algo_version=ALGO_VERSION,
    )
    manifest.write(done, layout, storage)
    return done
