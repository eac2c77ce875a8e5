"""Score: one streaming pass over a shard gives a row for each of its samples.

Every sample goes through the towers once, with its derivative along w (`embedding`); batches of the loss are formed
from the embedded rows, K times over, and a score is the mean over these segmentations.
"""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import load as load_tensors

from ecif import detectors
from ecif.influence import finite_rows
from ecif.inventory import Shard
from ecif.keys import canary_key
from ecif.progress import Progress, Silent
from ecif.run import Run, versions
from ecif.segmentation import segment
from ecif.settings import recorded
from ecif.shards.decode import OK
from ecif.stages.canaries import Canaries
from ecif.stages.canaries import schema as canary_schema
from ecif.stages.column_rows import Rows, gradients_of
from ecif.stages.column_sources import Sources, load_sources
from ecif.stages.embedding import embed_shard
from ecif.stages.engine import Engine
from ecif.stages.index import pack_index
from ecif.stages.memory import batch_bounded, bounded
from ecif.stages.score_table import schema as schema
from ecif.stages.score_table import to_frame
from ecif.stages.transfer import numbers_on
from ecif.stages.upcoming import Upcoming
from ecif.towers import Parameters


@dataclass(frozen=True, slots=True)
class Direction:
    """What scoring goes along: the directions of the fit, and the digests of the validation images."""

    sources: Sources
    validation_digests: frozenset[bytes]

    @property
    def tensors(self) -> Parameters:
        """w = H^-1 grad L_val by parameter name."""
        return self.sources.directions["influence"]


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """What scoring one shard came to.

    Attributes:
        statuses: samples by status. overlap: samples whose image is in the validation set, too.
        seconds: of this call. skipped: the scores existed.
    """

    shard: str
    samples: int
    statuses: dict[str, int]
    overlap: int
    seconds: float
    skipped: bool


def load_direction(run: Run, engine: Engine) -> Direction:
    """Read the direction of the fit and hold it against the model.

    Raises:
        UsageError: there is no finished fit. ModelError: it was made for another model.
    """
    with bounded(engine.towers.device, "the directions of all columns", "use fewer --columns, or --trainable heads"):
        sources = load_sources(run, engine)
    meta = run.layout.score_meta(run.score_key)
    if not run.storage.exists(meta):
        about = {"settings": recorded(run.settings), "fit_key": run.fit_key, "versions": versions()}
        run.storage.publish_json(meta, about, replace=True)
    digests = load_tensors(run.storage.read_bytes(run.layout.validation(run.fit_key)))["digests"].numpy()
    return Direction(sources, frozenset(row.tobytes() for row in digests))


def done(run: Run) -> set[str]:
    """Names of the shards that have scores: one listing."""
    root = run.storage.check(run.layout.scores_of(run.score_key)) + "/"
    return {info.url.removeprefix(root).removesuffix(".parquet") for info in run.storage.list(root, ".parquet")}


def score_shard(
    run: Run,
    engine: Engine,
    shard: Shard,
    direction: Direction,
    progress: Progress = Silent(),
    upcoming: Upcoming | None = None,
) -> ScoreSummary:
    """Write the score file of one shard, unless it exists.

    Args:
        upcoming: of the shards that are scored, so that the next one is on its way while this one is finished.

    Raises:
        BadTarError: the shard is no tar or is cut short; nothing is written. StorageError: it cannot be read.
    """
    started = time.monotonic()
    url = run.layout.scores(run.score_key, shard.name)
    if run.storage.exists(url):
        data = run.storage.read_bytes(url)
        frame, facts = pl.read_parquet(data, columns=["status"]), pl.read_parquet_metadata(data)
        return _summary(shard, frame, int(facts["ecif_overlap"]), started, skipped=True)
    frame, overlap, index, canaries = score_frame(run, engine, shard, direction, progress, upcoming)
    # The scores come last: their presence says that the shard is done.
    if index is not None:
        run.storage.publish_first(run.layout.index(run.score_key, shard.name), index)
    read = {"ecif_input": json.dumps([shard.size, shard.etag])}
    if canaries is not None:
        key = canary_key(run.score_key, run.settings.canaries)
        run.storage.publish_first(run.layout.canaries(key, shard.name), _parquet(canaries, read))
    # Another run may score the same shard on another device: the table that is there first stands.
    run.storage.publish_first(url, _parquet(frame, {"ecif_overlap": str(overlap), **read}))
    return _summary(shard, frame, overlap, started, skipped=False)


def _parquet(frame: pl.DataFrame, facts: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", metadata=facts)
    return buffer.getvalue()


def _summary(shard: Shard, frame: pl.DataFrame, overlap: int, started: float, *, skipped: bool) -> ScoreSummary:
    statuses = dict(sorted(Counter(frame["status"]).items()))
    return ScoreSummary(shard.name, len(frame), statuses, overlap, time.monotonic() - started, skipped)


def score_frame(
    run: Run,
    engine: Engine,
    shard: Shard,
    direction: Direction,
    progress: Progress,
    upcoming: Upcoming | None = None,
) -> tuple[pl.DataFrame, int, bytes | None, pl.DataFrame | None]:
    """Rows of all samples of a shard, in the order of the tar; overlap with the validation set; index; canaries."""
    sources, share = direction.sources, run.settings.canaries
    rows_of_shard = f"the embeddings of all pairs of {shard.name} along {len(sources.directions)} directions"
    with bounded(engine.towers.device, rows_of_shard, "use smaller shards, or fewer --columns"):
        found = embed_shard(
            run,
            engine,
            shard,
            list(sources.directions.values()),
            progress,
            embedders=sources.embedders,
            keep_heads=sources.projection is not None,
            upcoming=upcoming,
        )
    n = len(found.pairs)
    statuses, index = [OK] * n, None
    canaries = pl.DataFrame(schema=canary_schema(sources.wanted)) if share else None
    columns: Mapping[str, np.ndarray] = {}
    places = np.zeros((3, n), np.uint32)
    if found.embedded is not None:
        with batch_bounded(engine.towers.device, run.settings), ExitStack() as open_files:
            gradients = None
            if sources.projection is not None:
                gradients = open_files.enter_context(gradients_of(run, engine, shard, found, sources.projection))
            captions = torch.tensor(found.captions, device=engine.towers.device)
            rows = Rows(run.settings, sources, found.embedded, found.others, captions, gradients)
            planted = Canaries.plant(shard.name, engine, found, rows, share) if share else None
            columns, places, statuses = score_rows(rows, [pair.key for pair in found.pairs], planted)
            if planted is not None:
                canaries = planted.frame(shard.name, [pair.index for pair in found.pairs], statuses)
        if sources.wanted.index:
            scored = np.array([row for row, status in enumerate(statuses) if status == OK], np.int64)
            index = pack_index(rows.gradients, scored, np.array([found.pairs[row].index for row in scored], np.int64))
    elif sources.wanted.index:
        index = pack_index({}, np.zeros(0, np.int64), np.zeros(0, np.int64))
    overlap = sum(digest in direction.validation_digests for digest in found.digests)
    frame = to_frame(shard, found.pairs, found.refused, statuses, columns, places, sources.wanted)
    return frame, overlap, index, canaries


def score_rows(
    rows: Rows, keys: list[str], canaries: Canaries | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    """Scores of all embedded rows of a shard, averaged over the segmentations in float64.

    Args:
        canaries: of the same rows; scored on the way, batch by batch.

    Returns:
        scores by column, (n,) float64, NaN where there is none; `influence_se` is the standard error of the mean
        over the segmentations, NaN for one; batch, position and batch size in the first segmentation, (3, n);
        statuses.
    """
    settings, wanted = rows.settings, rows.sources.wanted
    computes = {name: detectors.load(name) for name in wanted.batch}
    n = len(keys)
    good = np.flatnonzero(finite_rows(rows.embedded).cpu().numpy())
    statuses = ["non_finite"] * n
    device = rows.embedded.u_BD.device
    # Added up where they are computed: nothing waits for the device between batches.
    sums = {name: torch.full((n,), np.nan, dtype=torch.float64, device=device) for name in computes}
    influences_KN = torch.full((settings.segmentations, n), np.nan, dtype=torch.float64, device=device)
    places = np.zeros((3, n), np.uint32)
    good_keys = [keys[row] for row in good]
    for k in range(settings.segmentations):
        segmentation = segment(good_keys, settings.batch_size, settings.seed, k)
        if k == 0:
            places[:, good] = segmentation.places(len(good))
        for batch in segmentation.batches:
            picked = good[batch]
            if len(picked) < settings.smallest_batch:
                for row in picked:
                    statuses[row] = "small_batch"
                continue
            places_B = numbers_on(device, picked)
            view = rows.batch(picked, places_B)
            values = {name: compute(view).double() for name, compute in computes.items()}
            if canaries is not None:
                canaries.add(k, picked, places_B, view)
            for name, part_B in values.items():
                sums[name][places_B] = part_B if k == 0 else sums[name][places_B] + part_B
            influences_KN[k, places_B] = values["positive_influence"] + values["negative_influence"]
            if k == 0:
                for row in picked:
                    statuses[row] = OK
    scores = {name: total.cpu().numpy() / settings.segmentations for name, total in sums.items()}
    scores["influence"] = scores["positive_influence"] + scores["negative_influence"]
    if settings.segmentations > 1:
        scores["influence_se"] = influences_KN.cpu().numpy().std(0, ddof=1) / settings.segmentations**0.5
    required = np.stack([scores[name] for name in detectors.NAMES])
    for row in np.flatnonzero(~np.isfinite(np.float32(required)).all(0)):
        if statuses[row] == OK:
            statuses[row] = "non_finite"
    _add_whole_shard(rows, scores, np.array([row for row in range(n) if statuses[row] == OK], np.int64))
    return scores, places, statuses


def _add_whole_shard(rows: Rows, scores: dict[str, np.ndarray], scored: np.ndarray) -> None:
    """The columns that look at all scored pairs of the shard at once."""
    wanted = rows.sources.wanted
    n = len(scores["influence"])
    if not len(scored):
        scores |= {name: np.full(n, np.nan) for name in (*wanted.shard, *wanted.relative)}
        return
    views: dict[str, Any] = {}
    if wanted.shard:
        views |= dict.fromkeys(wanted.shard, rows.shard(scored))
    if wanted.relative:
        lengths = rows.relative(scored, scores["positive_influence"], scores["negative_influence"])
        views |= dict.fromkeys(wanted.relative, lengths)
    for name, view in views.items():
        column = np.full(n, np.nan)
        column[scored] = detectors.load(name)(view).double().cpu().numpy()
        scores[name] = column
