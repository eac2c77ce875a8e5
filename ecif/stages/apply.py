"""Write the cleaned shard: the survivors byte for byte, the sidecars, a ledger of what is gone, then the manifest.

One pass over the input tar, whose members flow into the new tar as they are read: a shard takes neither disk nor more
memory than a few parts of an upload. What happens to a sample is known at its first member, because the score table
says it; only entries of a list that name URLs or image digests need a sample's members together, and then one sample is
held. Everything written follows from the tar, its scores and the decision alone, so a second run, another machine or a
writer that was killed half-way ends in the same bytes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import polars as pl

from ecif import ALGO_VERSION, ledger, lists, manifest
from ecif.errors import ConflictError
from ecif.inventory import Shard
from ecif.layout import Layout
from ecif.manifest import FileMark, Manifest
from ecif.selection import Decision
from ecif.shards import sidecars
from ecif.shards.decode import OK
from ecif.shards.tar import Limits
from ecif.stages.parting import Parting
from ecif.storage import Storage
from ecif.verdicts import DENIED, DROP, KEEP, QUARANTINE, judge, read_scores, rows, spared


def apply_shard(
    shard: Shard,
    decision: Decision,
    layout: Layout,
    storage: Storage,
    limits: Limits = Limits(),
    *,
    tar: bool = True,
) -> Manifest:
    """Write one shard as the decision says, unless its manifest exists.

    A shard without survivors gets a ledger and a manifest but no tar and no sidecars. Members that belong to no
    sample are copied where they stand.

    Args:
        limits: what may be held in memory where a list has to look into the samples.
        tar: False writes neither tar nor sidecars: the survivors are packed afterwards (`pack`). What would keep them
            from being packed is an error here.

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
    scores, scores_mark = read_scores(shard, decision, layout, storage)
    chosen = lists.read(decision, layout, storage)
    judged = judge(scores, decision, chosen)
    with ExitStack() as stack:
        parting = Parting(shard, judged, chosen, limits, layout, storage, stack, tar=tar)
        parting.run()
        verdicts = parting.verdicts()
        gone = verdicts.filter(pl.col("action") != KEEP).with_columns(sha256=pl.Series(parting.hashes, dtype=pl.String))
        small = {layout.ledger(shard.name): ("ledger", ledger.write(gone))}
        # Made even where they are not written: a table of another tar has to fail before a map counts on the shard.
        beside = _sidecars(shard, verdicts, layout, storage) if parting.counts[KEEP] else {}
        small |= beside if tar else {}
        # The small files travel while the tar is completed; only the manifest has to wait for all.
        with ThreadPoolExecutor(len(small)) as pool:
            waiting = {kind: pool.submit(_mark, storage, url, data) for url, (kind, data) in small.items()}
            marks = parting.finish() | {kind: published.result() for kind, published in waiting.items()}
    statuses = dict(sorted(scores["status"].value_counts().iter_rows()))
    done = Manifest(
        shard=shard.name,
        input=shard.info,
        samples=scores.height,
        kept=parting.counts[KEEP],
        dropped=parting.counts[DROP],
        quarantined=parting.counts[QUARANTINE],
        unscored=scores.height - statuses.get(OK, 0),
        statuses=statuses,
        files=marks | {"scores": scores_mark},
        fit_key=decision.fit_key,
        score_key=decision.score_key,
        decision_key=decision.key,
        algo_version=ALGO_VERSION,
        denied=int(verdicts["reason"].str.starts_with(DENIED).sum()),
        spared=spared(scores, decision, verdicts),
    )
    manifest.write(done, layout, storage)
    return done


def _mark(storage: Storage, url: str, data: bytes) -> FileMark:
    published = storage.publish(url, data)
    return FileMark(published.size, published.sha256)


def _sidecars(shard: Shard, verdicts: pl.DataFrame, layout: Layout, storage: Storage) -> dict[str, tuple[str, bytes]]:
    """URL, kind and new content of the sidecars that exist."""
    samples = rows(verdicts) if shard.parquet is not None or shard.stats is not None else []
    parts: dict[str, tuple[str, bytes]] = {}
    height = None
    if shard.parquet is not None:
        data = sidecars.rewrite_parquet(storage.read_bytes(shard.parquet), samples, shard.parquet)
        height = sidecars.read_parquet(data, shard.parquet).height
        parts[layout.parquet(shard.name)] = "parquet", data
    if shard.stats is not None:
        data = sidecars.rewrite_stats(storage.read_bytes(shard.stats), samples, height, shard.stats)
        parts[layout.stats(shard.name)] = "stats", data
    return parts
