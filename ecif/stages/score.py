"""Score: one streaming pass over a shard gives a row for each of its samples.

Every sample goes through the towers once, with its derivative along w. What stays in memory of a sample is its
embeddings and their derivatives, 4 D numbers; batches of the loss are formed from these rows, K times over.
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
from ecif.errors import InputError, ModelError, UsageError
from ecif.influence import BatchTerms, Embedded, finite_rows, negative_influence, positive_influence
from ecif.inventory import Shard
from ecif.progress import Progress, Silent
from ecif.run import Run
from ecif.segmentation import segment
from ecif.settings import MethodSettings
from ecif.shards.decode import OK, Pair, Refused
from ecif.stages.engine import Engine
from ecif.stages.reading import read_pairs
from ecif.stages.spool import image_digest

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
    **dict.fromkeys((*_TERMS, "influence"), pl.Float32),
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
    meta_url = run.layout.fit_meta(run.fit_key)
    if not run.storage.exists(meta_url):
        raise UsageError(f"there is no finished fit for these settings in {run.layout.root}; run `ecif fit` first")
    meta = run.storage.read_json(meta_url)
    if meta["model"] != engine.towers.loaded.fingerprint:
        raise ModelError(f"{meta_url}: the direction was fitted for other weights; use a new --out")
    tensors = load_tensors(run.storage.read_bytes(run.layout.direction(run.fit_key)))
    shapes = {name: p.shape for name, p in engine.towers.parameters.items()}
    if {name: part.shape for name, part in tensors.items()} != shapes:
        raise ModelError(f"{meta_url}: the direction was fitted for other parameters; use a new --out")
    digests = load_tensors(run.storage.read_bytes(run.layout.validation(run.fit_key)))["digests"].numpy()
    towers = engine.towers
    return Direction(
        # In the order of the parameters: a safetensors file is read in an order of its own, and jvp compares it.
        {name: tensors[name].to(towers.device, towers.dtype) for name in towers.parameters},
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
    rows: list[Pair] = []
    refused: list[Refused] = []
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    overlap = reported = 0
    samples = read_pairs(shard.url, shard.name, run.storage, run.settings.caption, engine.limits)
    for chunk in engine.chunks(samples, refused):
        overlap += sum(image_digest(pair.image) in direction.validation_digests for pair in chunk.pairs)
        texts = [pair.caption for pair in chunk.pairs]
        image, text = engine.towers.image_stem(chunk.images), engine.towers.text_stem(texts)
        parts.append(engine.towers.push_forward(direction.tensors, image, text))
        rows += [Pair(pair.uid, pair.key, pair.index, b"", "") for pair in chunk.pairs]
        progress.advance(len(rows) + len(refused) - reported)
        reported = len(rows) + len(refused)
    progress.advance(len(rows) + len(refused) - reported)
    statuses = [OK] * len(rows)
    columns = {name: np.full(len(rows), np.nan) for name in (*_TERMS, "influence")}
    places = np.zeros((3, len(rows)), np.uint32)
    if rows:
        u_ND, v_ND, du_ND, dv_ND = (torch.cat(column) for column in zip(*parts, strict=True))
        dscale = engine.towers.dscale(direction.tensors)
        embedded = Embedded(u_ND, v_ND, du_ND, dv_ND, engine.towers.scale, dscale)
        parts.clear()
        scores, places, statuses = score_rows(embedded, [pair.key for pair in rows], run.settings)
        columns |= scores
    return _frame(shard, rows, refused, statuses, columns, places), overlap


def score_rows(
    embedded: Embedded, keys: list[str], settings: MethodSettings
) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    """Scores of all embedded rows of a shard, averaged over the segmentations in float64.

    Returns:
        scores by column, (n,) float64, NaN where there is none; batch, position and batch size in the first
        segmentation, (3, n); statuses.
    """
    n = len(keys)
    good = np.flatnonzero(finite_rows(embedded).cpu().numpy())
    statuses = ["non_finite"] * n
    sums = {name: np.full(n, np.nan) for name in _TERMS}
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
            if k == 0:
                for row in rows:
                    statuses[row] = OK
    scores = {name: total / settings.segmentations for name, total in sums.items()}
    scores["influence"] = scores["positive_influence"] + scores["negative_influence"]
    for row in np.flatnonzero(~np.isfinite(np.float32(np.stack(list(scores.values())))).all(0)):
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
        scores = (float(columns[name][row]) if ok else None for name in (*_TERMS, "influence"))
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
