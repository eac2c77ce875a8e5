"""Write the cleaned shard: the survivors byte for byte, the sidecars, a ledger of what is gone, then the manifest.

One pass over the input tar. The new tar grows in a local temporary file, because no object store can take a part
of a file back; that costs the shard's size on disk and leaves memory at one sample. Everything written follows from
the tar, its scores and the decision alone, so a second run, another machine or a writer that was killed half-way
ends in the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from ecif import ALGO_VERSION, manifest
from ecif.detectors import facts
from ecif.errors import ConflictError, InputError, StorageError
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.manifest import FileMark, Manifest
from ecif.selection import Decision, dropped_mask, ranks
from ecif.shards import sidecars
from ecif.shards.decode import OK
from ecif.shards.samples import Sample, group
from ecif.shards.sidecars import Row
from ecif.shards.tar import Limits, TarWriter, read_members
from ecif.storage import FileInfo, Storage

KEEP, DROP, QUARANTINE = "keep", "drop", "quarantine"
LEDGER = {
    "key": pl.String,
    "uid": pl.String,
    "index": pl.UInt32,
    "reason": pl.String,  # "policy", or "unscored:<status>"
    "action": pl.String,
    "detector": pl.String,
    "score": pl.Float32,
    "rank": pl.UInt32,  # 1 = worst of the shard's scored samples
    "sha256": pl.String,  # of the sample's raw members, as they stood in the tar
}


def apply_shard(shard: Shard, decision: Decision, layout: Layout, storage: Storage, scratch: Path) -> Manifest:
    """Write one shard as the decision says, unless its manifest exists.

    A shard without survivors gets a ledger and a manifest but no tar and no sidecars. Members that belong to no
    sample are copied where they stand.

    Args:
        scratch: a local directory with room for the shard.

    Raises:
        InputError: the tar changed since the inventory, its scores are missing or are not its own, or a sidecar does
            not fit. BadTarError: the tar is damaged. ConflictError: the output holds another decision.
        StorageError: something cannot be read or written.
    """
    finished = manifest.read(layout, storage, shard.name)
    if finished is not None:
        if finished.decision_key != decision.key:
            problem = f"this shard was written by decision {finished.decision_key}, not {decision.key}; use a new --out"
            raise ConflictError(problem, url=layout.manifest(shard.name))
        return finished
    check_unchanged(shard, storage)
    scores = read_scores(shard, decision, layout, storage)
    verdicts = judge(scores, decision)
    with TemporaryDirectory(dir=scratch, prefix="apply-") as folder:
        copied = _copy(shard, verdicts, storage, Path(folder))
        parts = _sidecars(shard, verdicts, storage) if copied.counts[KEEP] else {}
        ledger = _ledger(verdicts, copied.hashes)
        marks = _publish(shard.name, copied, parts, ledger, layout, storage)
    statuses = dict(sorted(scores["status"].value_counts().iter_rows()))
    done = Manifest(
        shard=shard.name,
        input=FileInfo(shard.url, shard.size, shard.etag),
        samples=scores.height,
        kept=copied.counts[KEEP],
        dropped=copied.counts[DROP],
        quarantined=copied.counts[QUARANTINE],
        unscored=scores.height - statuses.get(OK, 0),
        statuses=statuses,
        files=marks,
        fit_key=decision.fit_key,
        score_key=decision.score_key,
        decision_key=decision.key,
        algo_version=ALGO_VERSION,
    )
    manifest.write(done, layout, storage)
    return done


def check_unchanged(shard: Shard, storage: Storage) -> None:
    """Make sure that a tar is still the one of the inventory.

    Raises:
        InputError: its size or tag differ.
    """
    now = storage.info(shard.url)
    if (now.size, now.etag) != (shard.size, shard.etag):
        problem = f"has changed since the inventory ({now.size} bytes now, {shard.size} then)"
        raise InputError(f"{problem}; clean it into a new --out", url=shard.url)


def read_scores(shard: Shard, decision: Decision, layout: Layout, storage: Storage) -> pl.DataFrame:
    """The score table of a shard with the columns that a decision needs, rows in the order of the tar.

    Raises:
        InputError: it is no score table, or that of another shard. MissingFileError: there is none.
    """
    url = layout.scores(decision.score_key, shard.name)
    columns = ["uid", "key", "shard", "index", "status", facts(decision.detector).column]
    try:
        table = pl.read_parquet(io.BytesIO(storage.read_bytes(url)), columns=columns)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"not a table with the columns {', '.join(columns)}: {error}", url=url) from error
    if table["index"].to_list() != list(range(table.height)) or (table["shard"] != shard.name).any():
        raise InputError(f"these are not the scores of shard {shard.name}; score it again into a new --out", url=url)
    return table


def judge(scores: pl.DataFrame, decision: Decision) -> pl.DataFrame:
    """What happens to each sample, and why.

    Args:
        scores: n rows, as `read_scores` gives them.

    Returns:
        n rows: the columns of `LEDGER` without `sha256`; `action` may be `keep`, then `reason` is null.
    """
    policy = dropped_mask(scores, decision)
    ok = pl.col("status") == OK
    unscored = ~ok & (decision.unscored != KEEP)
    score = pl.col(facts(decision.detector).column).cast(pl.Float32)
    return scores.select(
        "key",
        "uid",
        "index",
        reason=pl.when(policy).then(pl.lit("policy")).when(unscored).then("unscored:" + pl.col("status")),
        action=pl.when(policy).then(pl.lit(DROP)).when(~ok).then(pl.lit(decision.unscored)).otherwise(pl.lit(KEEP)),
        detector=pl.lit(decision.detector),
        score=pl.when(ok).then(score),
        rank=ranks(scores, decision),
    )


def rows(verdicts: pl.DataFrame) -> list[Row]:
    """What the sidecars need to know of the samples."""
    columns = verdicts.select("key", "uid", pl.col("action") != KEEP)
    return [Row(key, uid, removed) for key, uid, removed in columns.iter_rows()]


@dataclass(slots=True)
class _Copied:
    tar: Path
    quarantine: Path
    marks: dict[str, FileMark] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: {KEEP: 0, DROP: 0, QUARANTINE: 0})
    hashes: list[str] = field(default_factory=list)  # of the samples that go, in order


def _copy(shard: Shard, verdicts: pl.DataFrame, storage: Storage, folder: Path) -> _Copied:
    keys, actions = verdicts["key"].to_list(), verdicts["action"].to_list()
    limits = Limits()
    copied = _Copied(folder / "tar", folder / "quarantine")
    with storage.open(shard.url) as source, copied.tar.open("wb") as out, copied.quarantine.open("wb") as aside:
        kept, quarantined = TarWriter(out), TarWriter(aside)
        samples = 0
        for item in group(read_members(source, shard.url, limits), limits, shard.url):
            if not isinstance(item, Sample):
                kept.write(item.raw)
                continue
            _check_row(item, keys, shard)
            samples += 1
            action = actions[item.index]
            copied.counts[action] += 1
            if action != KEEP:
                copied.hashes.append(item.sha256())
            if action == QUARANTINE:
                for member in item.members:
                    quarantined.write(member.raw)
            for member in item.in_order if action == KEEP else item.between:
                kept.write(member.raw)
        if samples != len(keys):
            raise _not_its_scores(shard, f"it holds {samples} samples, its score table {len(keys)}")
        copied.marks = {"tar": FileMark(*kept.close()), "quarantine": FileMark(*quarantined.close())}
    return copied


def _check_row(sample: Sample, keys: Sequence[str], shard: Shard) -> None:
    if sample.index >= len(keys):
        raise _not_its_scores(shard, f"it holds more samples than the {len(keys)} of its score table")
    if sample.key != keys[sample.index]:
        problem = f"sample {sample.index} is {sample.key!r} here and {keys[sample.index]!r} in its score table"
        raise _not_its_scores(shard, problem)


def _not_its_scores(shard: Shard, problem: str) -> InputError:
    return InputError(f"{problem}: they do not belong together; score it again into a new --out", url=shard.url)


def _sidecars(shard: Shard, verdicts: pl.DataFrame, storage: Storage) -> dict[str, bytes]:
    """New contents of the sidecars that exist, by kind."""
    samples = rows(verdicts)
    parts: dict[str, bytes] = {}
    height = None
    if shard.parquet is not None:
        parts["parquet"] = sidecars.rewrite_parquet(storage.read_bytes(shard.parquet), samples, shard.parquet)
        height = sidecars.read_parquet(parts["parquet"], shard.parquet).height
    if shard.stats is not None:
        parts["stats"] = sidecars.rewrite_stats(storage.read_bytes(shard.stats), samples, height, shard.stats)
    return parts


def _ledger(verdicts: pl.DataFrame, hashes: Sequence[str]) -> bytes:
    gone = verdicts.filter(pl.col("action") != KEEP)
    table = gone.with_columns(pl.Series("sha256", hashes, dtype=pl.String)).select(
        pl.col(name).cast(kind) for name, kind in LEDGER.items()
    )
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def _publish(
    name: str, copied: _Copied, parts: dict[str, bytes], ledger: bytes, layout: Layout, storage: Storage
) -> dict[str, FileMark]:
    """Publish everything but the manifest, and say what was published."""
    contents: dict[str, tuple[str, bytes | Path]] = {}
    if copied.counts[KEEP]:
        contents["tar"] = layout.tar(name), copied.tar
    if copied.counts[QUARANTINE]:
        contents["quarantine"] = layout.quarantine(name), copied.quarantine
    if "parquet" in parts:
        contents["parquet"] = layout.parquet(name), parts["parquet"]
    if "stats" in parts:
        contents["stats"] = layout.stats(name), parts["stats"]
    contents["ledger"] = layout.ledger(name), ledger
    marks = {}
    for kind, (url, data) in contents.items():
        published = storage.publish(url, data)
        marks[kind] = FileMark(published.size, published.sha256)
        if marks[kind] != copied.marks.get(kind, marks[kind]):
            raise StorageError("the temporary file does not hold what was written to it; check the disk", url=url)
    return marks
