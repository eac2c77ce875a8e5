"""Score: one streaming pass over a shard gives a row for each of its samples.

Every sample goes through the towers once, with its derivative along w (`embedding`); batches of the loss are formed
from the embedded rows, K times over, and a score is the mean over these segmentations.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from ecif.detectors import clip_score, neg_clip_loss
from ecif.errors import InputError
from ecif.influence import BatchTerms, Embedded, finite_rows, negative_influence, positive_influence
from ecif.inventory import Shard
from ecif.progress import Progress, Silent
from ecif.run import Run
from ecif.segmentation import segment
from ecif.settings import MethodSettings
from ecif.shards.decode import OK, Pair, Refused
from ecif.stages import fitted
from ecif.stages.embedding import embed_shard
from ecif.stages.engine import Engine

# Averaged over the segmentations, in this order; `influence` is the sum of the two roles' means.
_TERMS = {
    "clip_score": clip_score.compute,
    "neg_clip_loss": neg_clip_loss.compute,
    "positive_influence": positive_influence,
    "negative_influence": negative_influence,
}
SCHEMA = {
    "uid": pl.String,
    "key": pl.String,
    "shard": pl.String,
    "index": pl.UInt32,
    "batch": pl.UInt32,
    "position": pl.UInt32,
    "batch_n": pl.UInt32,
    "status": pl.String,
    **dict.fromkeys((*_TERMS, "influence", "influence_se"), pl.Float32),
}


@dataclass(frozen=True, slots=True)
class Direction:
    """w by parameter name, and the digests of the validation images."""

    tensors: dict[str, Tensor]
    validation_digests: frozenset[bytes]


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
    fitted.load_facts(run, engine)
    digests = load_tensors(run.storage.read_bytes(run.layout.validation(run.fit_key)))["digests"].numpy()
    return Direction(
        fitted.load_by_parameter(run.layout.direction(run.fit_key), run, engine),
        frozenset(row.tobytes() for row in digests),
    )


def done(run: Run) -> set[str]:
    """Names of the shards that have scores: one listing."""
    root = run.storage.check(run.layout.scores_of(run.score_key)) + "/"
    return {info.url.removeprefix(root).removesuffix(".parquet") for info in run.storage.list(root, ".parquet")}


def score_shard(
    run: Run, engine: Engine, shard: Shard, direction: Direction, progress: Progress = Silent()
) -> ScoreSummary:
    """Write the score file of one shard, unless it exists.

    Raises:
        BadTarError: the shard is no tar or is cut short; nothing is written. StorageError: it cannot be read.
    """
    started = time.monotonic()
    url = run.layout.scores(run.score_key, shard.name)
    if run.storage.exists(url):
        data = run.storage.read_bytes(url)
        frame, facts = pl.read_parquet(data, columns=["status"]), pl.read_parquet_metadata(data)
        return _summary(shard, frame, int(facts["ecif_overlap"]), started, skipped=True)
    frame, overlap = score_frame(run, engine, shard, direction, progress)
    with TemporaryDirectory(prefix="ecif-") as folder:
        file = Path(folder, "scores.parquet")
        facts = {"ecif_overlap": str(overlap), "ecif_input": json.dumps([shard.size, shard.etag])}
        frame.write_parquet(file, compression="zstd", metadata=facts)
        run.storage.publish(url, file)
    return _summary(shard, frame, overlap, started, skipped=False)


def _summary(shard: Shard, frame: pl.DataFrame, overlap: int, started: float, *, skipped: bool) -> ScoreSummary:
    statuses = dict(sorted(Counter(frame["status"]).items()))
    return ScoreSummary(shard.name, len(frame), statuses, overlap, time.monotonic() - started, skipped)


def score_frame(
    run: Run, engine: Engine, shard: Shard, direction: Direction, progress: Progress
) -> tuple[pl.DataFrame, int]:
    """Rows of all samples of a shard, in the order of the tar, and the overlap with the validation set."""
    found = embed_shard(run, engine, shard, [direction.tensors], progress)
    statuses = [OK] * len(found.pairs)
    columns = {name: np.full(len(found.pairs), np.nan) for name in (*_TERMS, "influence", "influence_se")}
    places = np.zeros((3, len(found.pairs)), np.uint32)
    if found.embedded is not None:
        scores, places, statuses = score_rows(found.embedded, [pair.key for pair in found.pairs], run.settings)
        columns |= scores
    overlap = sum(digest in direction.validation_digests for digest in found.digests)
    return _frame(shard, found.pairs, found.refused, statuses, columns, places), overlap


def score_rows(
    embedded: Embedded, keys: list[str], settings: MethodSettings
) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    """Scores of all embedded rows of a shard, averaged over the segmentations in float64.

    Returns:
        scores by column, (n,) float64, NaN where there is none; `influence_se` is the standard error of the mean
        over the segmentations, NaN for one; batch, position and batch size in the first segmentation, (3, n);
        statuses.
    """
    n = len(keys)
    good = np.flatnonzero(finite_rows(embedded).cpu().numpy())
    statuses = ["non_finite"] * n
    sums = {name: np.full(n, np.nan) for name in _TERMS}
    influences = np.full((settings.segmentations, n), np.nan)
    places = np.zeros((3, n), np.uint32)
    good_keys = [keys[row] for row in good]
    for k in range(settings.segmentations):
        segmentation = segment(good_keys, settings.batch_size, settings.seed, k)
        if k == 0:
            places[:, good] = segmentation.places(len(good))
        for batch in segmentation.batches:
            rows = good[batch]
            if len(rows) < settings.smallest_batch:
                for row in rows:
                    statuses[row] = "small_batch"
                continue
            terms = BatchTerms.of(embedded.take(torch.from_numpy(rows)), settings.negative_role)
            for name, compute in _TERMS.items():
                values = compute(terms).double().cpu().numpy()
                sums[name][rows] = values if k == 0 else sums[name][rows] + values
                if name in ("positive_influence", "negative_influence"):
                    influences[k, rows] = values if name == "positive_influence" else influences[k, rows] + values
            if k == 0:
                for row in rows:
                    statuses[row] = OK
    scores = {name: total / settings.segmentations for name, total in sums.items()}
    scores["influence"] = scores["positive_influence"] + scores["negative_influence"]
    bad = ~np.isfinite(np.float32(np.stack(list(scores.values())))).all(0)
    if settings.segmentations > 1:
        scores["influence_se"] = influences.std(0, ddof=1) / settings.segmentations**0.5
    for row in np.flatnonzero(bad):
        if statuses[row] == OK:
            statuses[row] = "non_finite"
    return scores, places, statuses


def _frame(
    shard: Shard,
    rows: list[Pair],
    refused: list[Refused],
    statuses: list[str],
    columns: Mapping[str, np.ndarray],
    places: np.ndarray,
) -> pl.DataFrame:
    scored = [status == OK for status in statuses]
    data: dict[str, list[object]] = {name: [] for name in SCHEMA}
    for row, pair in enumerate(rows):
        ok = scored[row]
        values = (pair.uid, pair.key, shard.name, pair.index, *(places[:, row].tolist() if ok else (None,) * 3))
        scores = (
            float(columns[name][row]) if ok and columns[name][row] == columns[name][row] else None
            for name in (*_TERMS, "influence", "influence_se")
        )
        for name, value in zip(SCHEMA, (*values, statuses[row], *scores), strict=True):
            data[name].append(value)
    empty = (None,) * (len(SCHEMA) - 8)
    for sample in refused:
        values = (sample.uid, sample.key, shard.name, sample.index, None, None, None, sample.status, *empty)
        for name, value in zip(SCHEMA, values, strict=True):
            data[name].append(value)
    frame = pl.DataFrame(data, schema=SCHEMA).sort("index")
    if not frame["index"].equals(pl.Series("index", range(len(frame)), pl.UInt32)):
        raise InputError("the samples of the tar and the rows of its scores differ", url=shard.url)
    return frame
