"""Inventoried and scored shards for the tests of the stages that write and check, with scores made up."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import polars as pl

from ecif import inventory
from ecif.inventory import Inventory, Shard
from ecif.layout import Layout
from ecif.policy.settings import PolicySettings
from ecif.selection import Decision, choose
from ecif.shards.decode import Pair, to_pair
from ecif.shards.samples import Sample, group
from ecif.shards.tar import read_members
from ecif.sources import expand
from ecif.storage import Storage

SCORE_KEY, FIT_KEY, DECISION_KEY = "5" * 12, "f" * 12, "d" * 12
_TERMS = ("clip_score", "neg_clip_loss", "positive_influence", "negative_influence", "influence")


@dataclass(frozen=True)
class Output:
    """An output with an inventory and scores."""

    layout: Layout
    storage: Storage
    inventory: Inventory

    @property
    def shard(self) -> Shard:
        """The only shard."""
        (shard,) = self.inventory.shards
        return shard

    def decide(self, policy: PolicySettings, key: str = DECISION_KEY) -> Decision:
        """Choose and freeze."""
        scores = {shard.name: self.layout.scores(SCORE_KEY, shard.name) for shard in self.inventory.shards}
        decision = choose(self.storage, scores, policy, key=key, score_key=SCORE_KEY, fit_key=FIT_KEY)
        self.storage.publish_json(self.layout.decision(key), decision.to_json())
        return decision

    def bytes_of(self, url: str) -> bytes:
        """A file of the output."""
        return self.storage.read_bytes(url)


def policy(drop: str = "0.5", unscored: str = "keep") -> PolicySettings:
    """Drop a fraction by influence."""
    return PolicySettings(detector="influence", drop=Decimal(drop), unscored=unscored)


def scores_of(
    data: bytes, shard: str, values: Sequence[float] | None = None, statuses: Sequence[str] | None = None
) -> pl.DataFrame:
    """A score table for a tar; without `values` the first samples are the worst."""
    items = [item for item in group(read_members(io.BytesIO(data), shard)) if isinstance(item, Sample)]
    found = [to_pair(sample, shard, "txt") for sample in items]
    n = len(found)
    status = list(statuses) if statuses else ["ok" if isinstance(f, Pair) else f.status for f in found]
    score = [float(i) for i in range(n)] if values is None else list(values)
    scored = [value if state == "ok" else None for value, state in zip(score, status, strict=True)]
    return pl.DataFrame(
        {
            "uid": pl.Series([f.uid for f in found], dtype=pl.String),
            "key": pl.Series([f.key for f in found], dtype=pl.String),
            "shard": pl.Series([shard] * n, dtype=pl.String),
            "index": pl.Series(range(n), dtype=pl.UInt32),
            "batch": pl.Series([0] * n, dtype=pl.UInt32),
            "position": pl.Series(range(n), dtype=pl.UInt32),
            "batch_n": pl.Series([n] * n, dtype=pl.UInt32),
            "status": pl.Series(status, dtype=pl.String),
            **{name: pl.Series(scored, dtype=pl.Float32) for name in _TERMS},
        }
    )


def parquet(table: pl.DataFrame) -> bytes:
    """A table as a file."""
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def shelve(
    folder: Path,
    tars: dict[str, bytes],
    *,
    sidecars: bool = True,
    scores: dict[str, pl.DataFrame] | None = None,
    out: str | None = None,
) -> Output:
    """Put tars with the sidecars of img2dataset under `folder/in`; inventory and score them in `out`."""
    storage = Storage()
    source, layout = folder / "in", Layout(out or str(folder / "out"))
    for name, data in tars.items():
        tar = source / f"{name}.tar"
        tar.parent.mkdir(parents=True, exist_ok=True)
        tar.write_bytes(data)
        if sidecars:
            keys = scores_of(data, name)["key"].to_list()
            states = ["success"] * len(keys) + ["failed_to_download"]
            urls = [f"u/{i}" for i in range(len(states))]
            table = pl.DataFrame({"url": urls, "key": [*keys, "lost"], "status": states})
            tar.with_suffix(".parquet").write_bytes(parquet(table))
            stats = {"count": len(states), "successes": len(keys), "failed_to_download": 1, "duration": 1.5,
                     "status_dict": {"success": len(keys), "HTTP Error 404": 1}}  # fmt: skip
            tar.with_name(f"{tar.stem}_stats.json").write_text(json.dumps(stats, indent=4))
    found = inventory.take(expand([str(source)], storage), layout, storage, {})
    for name, data in tars.items():
        table = scores[name] if scores and name in scores else scores_of(data, name)
        storage.publish(layout.scores(SCORE_KEY, name), parquet(table))
    return Output(layout, storage, found)
