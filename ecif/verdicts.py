"""What happens to each sample, and why: the policy's cut, the rule for unscored samples, and the lists, in one place.

A verdict follows from a row of the score table, the decision and its lists; entries by URL or image digest need the
sample's members as well. Every stage that writes or proves asks here. The denylist goes before the allowlist, that
before the overrides of a review, and all of them before the policy and the rule for unscored samples; the exact number
that a policy drops is counted without lists.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif.errors import InputError
from ecif.interop import aliases
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.lists import BY_CONTENT, KINDS, NO_LISTS, Listed, Lists
from ecif.manifest import FileMark
from ecif.policy.decision import Decision
from ecif.policy.tables import joined
from ecif.selection import IDENTITY, dropped_mask, ranks
from ecif.shards import decode
from ecif.shards.decode import OK
from ecif.shards.sidecars import Row
from ecif.shards.tar import Limits
from ecif.storage import Storage

KEEP, DROP, QUARANTINE = "keep", "drop", "quarantine"
MERGED = "unscored:duplicate_key"
DENIED = "denied:"
"""Begins the reason of a sample that the denylist names; the kind of the entry follows."""
DUPLICATE = "duplicate"
"""The reason of a sample that has a better equal."""
OVERRIDE = "override"
"""The reason of a sample that a review sent away."""


def read_scores(
    shard: Shard, decision: Decision, layout: Layout, storage: Storage, mark: FileMark | None = None
) -> tuple[pl.DataFrame, FileMark]:
    """The score table of a shard with the columns that a decision looks at, rows in the order of the tar.

    Args:
        mark: what the file has to be, where a manifest says so.

    Returns:
        The table, and size and SHA-256 of its file.

    Raises:
        InputError: it is no score table, that of another shard, or another file than `mark` says.
        MissingFileError: there is none.
    """
    url = layout.scores(decision.score_key, shard.name)
    columns = list(dict.fromkeys((*IDENTITY, *decision.rule.columns)))
    data = storage.read_bytes(url)
    found = FileMark(len(data), hashlib.sha256(data).hexdigest())
    if mark is not None and mark != found:
        raise InputError("is not the score table that this shard was written with: other size or SHA-256", url=url)
    try:
        table = pl.read_parquet(io.BytesIO(data), columns=columns)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"not a table with the columns {', '.join(columns)}: {error}", url=url) from error
    if table["index"].to_list() != list(range(table.height)) or (table["shard"] != shard.name).any():
        raise InputError(f"these are not the scores of shard {shard.name}; score it again into a new --out", url=url)
    return joined(table, shard.parquet, decision.rule, storage), found


def judge(scores: pl.DataFrame, decision: Decision, lists: Lists = NO_LISTS) -> pl.DataFrame:
    """What happens to each sample, and why, as far as the score table tells.

    Args:
        scores: n rows, as `read_scores` gives them.
        lists: those of the decision. Where `lists.by_content`, `by_content` has the last word on each sample.

    Returns:
        n rows: the columns of `LEDGER` without `sha256`; `action` may be `keep`, then `reason` is null.
    """
    policy = dropped_mask(scores, decision)
    ok = pl.col("status") == OK
    unscored = ~ok & (decision.unscored != KEEP)
    reason = pl.when(policy).then(pl.lit("policy")).when(unscored).then("unscored:" + pl.col("status"))
    action = (
        pl.when(policy).then(pl.lit(decision.dropped)).when(~ok).then(pl.lit(decision.unscored)).otherwise(pl.lit(KEEP))
    )
    verdicts = scores.select(
        "key",
        "uid",
        "index",
        reason=reason,
        action=action,
        detector=pl.lit(decision.rule.title),
        score=pl.when(ok).then(decision.rule.values(scores)),
        rank=ranks(scores, decision),
    )
    if (places := lists.duplicates.get(scores["shard"][0]) if scores.height else None) is not None:
        same = pl.Series(np.isin(scores["index"].to_numpy(), places)) & (verdicts["action"] == KEEP)
        verdicts = verdicts.with_columns(
            reason=pl.when(same).then(pl.lit(DUPLICATE)).otherwise(pl.col("reason")),
            action=pl.when(same).then(pl.lit(decision.dropped)).otherwise(pl.col("action")),
        )
    if not any((lists.deny, lists.allow, lists.drop, lists.keep)):
        return _without_merged(verdicts)
    listed = pl.Series("denied", named(lists.deny, scores), dtype=pl.String)
    stay, go, again = (
        pl.Series(named(given, scores) != "", dtype=pl.Boolean) for given in (lists.allow, lists.drop, lists.keep)
    )
    spared = stay | (again & ~go)
    verdicts = verdicts.with_columns(
        reason=pl.when(listed != "")
        .then(DENIED + listed)
        .when(stay)
        .then(None)
        .when(go)
        .then(pl.lit(OVERRIDE))
        .when(~spared)
        .then(pl.col("reason")),
        action=pl.when(listed != "")
        .then(pl.lit(DROP))
        .when(stay)
        .then(pl.lit(KEEP))
        .when(go)
        .then(pl.lit(decision.dropped))
        .when(spared)
        .then(pl.lit(KEEP))
        .otherwise(pl.col("action")),
    )
    return _without_merged(verdicts)


def _without_merged(verdicts: pl.DataFrame) -> pl.DataFrame:
    """Set repeated keys aside that readers would take for one sample, because all that stood between them goes."""
    kept = verdicts.filter(pl.col("action") == KEEP)
    merged = kept.filter(pl.col("key") == pl.col("key").shift(1))["index"].implode()
    return verdicts.with_columns(
        reason=pl.when(pl.col("index").is_in(merged)).then(pl.lit(MERGED)).otherwise(pl.col("reason")),
        action=pl.when(pl.col("index").is_in(merged)).then(pl.lit(QUARANTINE)).otherwise(pl.col("action")),
    )


def named(listed: Listed, scores: pl.DataFrame) -> npt.NDArray[np.str_]:
    """For each row the kind of the first entry that names it; empty where none does."""
    found = np.full(scores.height, "", dtype="U6")
    for kind in reversed([kind for kind in KINDS if kind in listed.marks and kind not in BY_CONTENT]):
        if kind == "sample":
            texts = [f"{shard}/{key}" for shard, key in scores.select("shard", "key").iter_rows()]
        else:
            texts = scores[kind].to_list()
        found[listed.has(kind, texts)] = kind
    return found


@dataclass(frozen=True, slots=True)
class Content:
    """What a sample's members say about where its image is from.

    Attributes:
        url: of the `.json` member; empty when it names none.
        sha256: of the `.json` member and of the images' bytes, in hex.
    """

    url: str
    sha256: tuple[str, ...]


def content_of(members: Mapping[str, memoryview], limits: Limits = Limits()) -> Content:
    """Look into the members of a sample.

    Args:
        members: payload by lower-case extension.
        limits: a larger or deeper `.json` member is not looked into.
    """
    record = decode.record(members.get("json"), limits)
    url, said = aliases.value("url", record), aliases.value("sha256", record)
    digests = [said] if isinstance(said, str) else []
    digests += [hashlib.sha256(members[name]).hexdigest() for name in decode.IMAGE_EXTENSIONS if name in members]
    return Content(url if isinstance(url, str) else "", tuple(digests))


def by_content(action: str, reason: str | None, content: Content, lists: Lists) -> tuple[str, str | None]:
    """The verdict on one sample, its members considered.

    Args:
        action, reason: what `judge` says of it.
    """
    if reason is not None and reason.startswith(DENIED):
        return action, reason
    if kind := _matches(content, lists.deny):
        return DROP, DENIED + kind
    return (KEEP, None) if _matches(content, lists.allow) else (action, reason)


def _matches(content: Content, listed: Listed) -> str:
    if content.url and listed.has("url", [content.url]).any():
        return "url"
    return "sha256" if listed.has("sha256", content.sha256).any() else ""


def spared(scores: pl.DataFrame, decision: Decision, verdicts: pl.DataFrame) -> int:
    """How many samples stay that would have gone without lists."""
    without = judge(scores, decision)["action"]
    return int(((without != KEEP) & (verdicts["action"] == KEEP)).sum())


def rows(verdicts: pl.DataFrame) -> list[Row]:
    """What the sidecars need to know of the samples."""
    columns = verdicts.select("key", "uid", pl.col("action") != KEEP)
    return [Row(key, uid, removed) for key, uid, removed in columns.iter_rows()]
