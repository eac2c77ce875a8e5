"""Scores and decisions as columns of the tables beside the shards, for corpora whose tars shall stay as they are.

What stands beside a tar is one row per attempted download; the same rows come out, in their order and with all their
columns, and behind them what ECIF says of each sample. The tars are neither copied nor changed, and not even read
unless a list names samples by URL or image. That is why the ledger of such an output has no digests of samples, and
why nothing is proved about tars here: `expected` makes a table again, so that what stands can be compared with it.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import polars as pl

from ecif import ALGO_VERSION, ledger, lists, manifest
from ecif.errors import ConflictError, InputError
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.lists import Lists
from ecif.manifest import FileMark, Manifest
from ecif.policy.decision import Decision
from ecif.policy.tables import joined
from ecif.shards import sidecars
from ecif.shards.decode import OK
from ecif.shards.samples import Sample, group
from ecif.shards.sidecars import Row
from ecif.shards.tar import Limits, read_members
from ecif.stages.scored import only_score_key, score_meta
from ecif.storage import Storage
from ecif.verdicts import DENIED, DROP, KEEP, QUARANTINE, by_content, content_of, judge, spared

PREFIX = "ecif_"
"""Begins the names of all columns that are added."""

# Of the score table, what the row says already or what means nothing beside other shards.
_NOT_ADDED = ("uid", "key", "shard", "index", "batch", "position", "batch_n")


@dataclass(frozen=True, slots=True)
class Expected:
    """What a shard has to be: its table and its ledger as files, and the counts of its manifest.

    Attributes:
        parquet: the input's table and the added columns. ledger: None where nothing is decided.
        scores: mark of the score table that was followed.
        actions: samples by action. statuses: samples by status.
        denied: samples that went because a list names them. spared: samples that stay because a list does.
    """

    parquet: bytes
    ledger: bytes | None
    scores: FileMark
    actions: dict[str, int]
    statuses: dict[str, int]
    denied: int = 0
    spared: int = 0


def publish_shard(
    shard: Shard, decision: Decision | None, layout: Layout, storage: Storage, limits: Limits = Limits()
) -> Manifest:
    """Write the table of one shard with scores and decision, unless its manifest exists.

    Args:
        decision: None: scores only; the output then holds one set of scores.
        limits: what of a tar is read where a list names samples by content.

    Raises:
        InputError: the tar changed since the inventory, its scores are missing or not its own, or its table is not of
            this tar. ConflictError: the output holds another decision, or another file under a name.
        StorageError: something cannot be read or written.
    """
    key = "" if decision is None else decision.key
    finished = manifest.read(layout, storage, shard.name)
    if finished is not None:
        if finished.decision_key != key:
            of = f"decision {finished.decision_key}" if finished.decision_key else "no decision"
            raise ConflictError(f"this shard was written with {of}; use a new --out", url=layout.manifest(shard.name))
        return finished
    score_key = only_score_key(layout, storage) if decision is None else decision.score_key
    made = expected(shard, decision, score_key, layout, storage, limits)
    contents = {"parquet": (layout.parquet(shard.name), made.parquet)}
    if made.ledger is not None:
        contents["ledger"] = layout.ledger(shard.name), made.ledger
    marks = {"scores": made.scores}
    for kind, (url, data) in contents.items():
        published = storage.publish(url, data)
        marks[kind] = FileMark(published.size, published.sha256)
    samples = sum(made.statuses.values())
    done = Manifest(
        shard=shard.name,
        input=shard.info,
        samples=samples,
        kept=made.actions[KEEP],
        dropped=made.actions[DROP],
        quarantined=made.actions[QUARANTINE],
        unscored=samples - made.statuses.get(OK, 0),
        statuses=made.statuses,
        files=marks,
        fit_key=decision.fit_key if decision else score_meta(layout, storage, score_key)["fit_key"],
        score_key=score_key,
        decision_key=key,
        algo_version=ALGO_VERSION,
        denied=made.denied,
        spared=made.spared,
    )
    manifest.write(done, layout, storage)
    return done


def expected(
    shard: Shard,
    decision: Decision | None,
    score_key: str,
    layout: Layout,
    storage: Storage,
    limits: Limits = Limits(),
) -> Expected:
    """What `publish_shard` writes, made from the input, the scores and the decision.

    Args:
        score_key: that of the decision, where there is one.

    Raises:
        InputError: as `publish_shard`.
    """
    now = storage.info(shard.url)
    if (now.size, now.etag) != (shard.size, shard.etag):
        problem = f"has changed since the inventory ({now.size} bytes now, {shard.size} then)"
        raise InputError(f"{problem}; clean it into a new --out", url=shard.url)
    scores, mark = _scores(shard, score_key, layout, storage)
    added = scores.drop(_NOT_ADDED, strict=False)
    actions = {KEEP: scores.height, DROP: 0, QUARANTINE: 0}
    gone, denied, of_allowlist = None, 0, 0
    if decision is not None:
        chosen = lists.read(decision, layout, storage)
        looked_at = joined(scores, shard.parquet, decision.rule, storage)
        verdicts = judge(looked_at, decision, chosen)
        if chosen.by_content:
            verdicts = _looked_into(verdicts, chosen, shard, storage, limits)
        added = added.with_columns(verdicts["action"], verdicts["reason"])
        actions |= dict(verdicts["action"].value_counts().iter_rows()) | {KEEP: (verdicts["action"] == KEEP).sum()}
        rows = verdicts.filter(pl.col("action") != KEEP)
        gone = ledger.write(rows.with_columns(sha256=pl.lit(None, pl.String)))
        denied = int(rows["reason"].str.starts_with(DENIED).sum())
        of_allowlist = spared(looked_at, decision, verdicts)
    table = _joined(shard, scores, added.rename(lambda name: PREFIX + name), storage)
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    statuses = dict(sorted(scores["status"].value_counts().iter_rows()))
    return Expected(buffer.getvalue(), gone, mark, actions, statuses, denied, of_allowlist)


def _scores(shard: Shard, score_key: str, layout: Layout, storage: Storage) -> tuple[pl.DataFrame, FileMark]:
    """The whole score table of a shard, rows in the order of the tar, and its mark."""
    url = layout.scores(score_key, shard.name)
    data = storage.read_bytes(url)
    try:
        table = pl.read_parquet(io.BytesIO(data))
        own = table["index"].to_list() == list(range(table.height)) and (table["shard"] == shard.name).all()
    except pl.exceptions.PolarsError as error:
        raise InputError(f"is no score table: {error}", url=url) from error
    if not own:
        raise InputError(f"these are not the scores of shard {shard.name}; score it again into a new --out", url=url)
    return table, FileMark(len(data), hashlib.sha256(data).hexdigest())


def _looked_into(verdicts: pl.DataFrame, chosen: Lists, shard: Shard, storage: Storage, limits: Limits) -> pl.DataFrame:
    """The verdicts after a look at the members of the samples, which takes one read of the tar."""
    keys, actions, reasons = (verdicts[name].to_list() for name in ("key", "action", "reason"))
    found: list[str] = []
    with storage.open(shard.url, expect=shard.info) as stream:
        for item in group(read_members(stream, shard.url, limits), limits, shard.url):
            if isinstance(item, Sample):
                found.append(item.key)
                if item.index < len(keys):
                    members = {extension: member.data for extension, member in item.extensions().items()}
                    action, reason = actions[item.index], reasons[item.index]
                    content = content_of(members, limits)
                    actions[item.index], reasons[item.index] = by_content(action, reason, content, chosen)
    if found != keys:
        raise InputError("its samples are not those of its score table; score it again into a new --out", url=shard.url)
    return verdicts.with_columns(action=pl.Series(actions, dtype=pl.String), reason=pl.Series(reasons, dtype=pl.String))


def _joined(shard: Shard, scores: pl.DataFrame, added: pl.DataFrame, storage: Storage) -> pl.DataFrame:
    """The table beside the tar, and the added columns in the rows of their samples; without one, uid and key."""
    if shard.parquet is None:
        return pl.concat([scores.select("uid", "key"), added], how="horizontal")
    beside = sidecars.read_parquet(storage.read_bytes(shard.parquet), shard.parquet)
    if taken := sorted(set(beside.columns) & set(added.columns)):
        problem = f"has the column {', '.join(taken)} already; remove or rename it, this table cannot hold both"
        raise InputError(problem, url=shard.parquet)
    rows = [Row(key, uid) for key, uid in scores.select("key", "uid").iter_rows()]
    of_row: dict[int, int] = {}
    for sample, row in enumerate(sidecars.row_of(beside, rows, shard.parquet)):
        of_row.setdefault(row, sample)  # a repeated key shares the row of the first sample, which is the valid one
    places = pl.Series("place", [of_row.get(row) for row in range(beside.height)], dtype=pl.UInt32)
    return pl.concat([beside, added.select(pl.all().gather(places))], how="horizontal")
