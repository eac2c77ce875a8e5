"""The calibration of a set of scores: made once from its canaries, then frozen in one JSON file.

Asking again returns the same file, also when shards have been scored since: a decision that was made by it can always
be explained by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ecif import detectors, keys
from ecif.agreement import canonical, settle
from ecif.calibration.curve import Curve
from ecif.calibration.fitting import PENALTIES, learn
from ecif.calibration.gather import Sample, gather
from ecif.calibration.learned import Model, features
from ecif.calibration.measure import Array, Estimate, auprc, auroc
from ecif.calibration.prior import Thinning, share_of_mistakes, thinning
from ecif.errors import InputError, UsageError
from ecif.layout import Layout
from ecif.progress import Progress, Silent
from ecif.storage import Storage

VERSION = 1
ALL = "all"
WITHOUT = "p_misaligned without influence"
_LEAST_SHARE = 1e-6  # a probability that is never above 0 would rank nothing


@dataclass(frozen=True, slots=True)
class Choice:
    """What a calibration may choose: real pairs (and canaries at most) in the sample, and the seed of the draw."""

    pairs: int = 50_000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Measure:
    """How well one score tells canaries of one kind from real pairs."""

    auroc: Estimate
    auprc: Estimate


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the canaries of an output say.

    Attributes:
        key: names it. score_key, canary_key: what it was made from. choice: and how.
        shards, pairs: read, and real pairs drawn from them. canaries: by kind.
        measures: by score, then by kind, "all" first. Scores are the columns, `detectors.LEARNED`, and the learned
            detector without the columns that rest on gradients (`WITHOUT`).
        model: of `detectors.LEARNED`. without: the same without influence.
        weights: of every column that could be chosen: in the model, then in the model of each fold.
        areas: mean AUROC of the kinds, out of fold, by penalty as in `fitting.PENALTIES`.
        shares: of natural mistakes, by the kind that they are taken to be like, "all" first.
        thinning: turns a misalignment into a probability.
        curves: by score.
    """

    key: str
    score_key: str
    canary_key: str
    choice: Choice
    shards: int
    pairs: int
    canaries: Mapping[str, int]
    measures: Mapping[str, Mapping[str, Measure]]
    model: Model
    without: Model
    weights: Mapping[str, tuple[float, ...]]
    areas: tuple[float, ...]
    shares: Mapping[str, Estimate]
    thinning: Thinning
    curves: Mapping[str, Curve]

    @property
    def share(self) -> Estimate:
        """Natural mistakes among all pairs, if they score as the mean of all kinds of canaries."""
        return self.shares[ALL]

    @property
    def scores(self) -> tuple[str, ...]:
        """What was measured: the columns in their order, then the learned detector, then that without influence."""
        order = (*detectors.COLUMNS, detectors.LEARNED, WITHOUT)
        return tuple(name for name in order if name in self.measures)

    @property
    def best_single(self) -> str:
        """The score column that finds canaries best."""
        return max(
            (n for n in self.measures if n in detectors.COLUMNS), key=lambda n: self.measures[n][ALL].auroc.value
        )

    def probability(self, misalignment: Array) -> Array:
        """p_misaligned of pairs, from their misalignment: pi F_canary / F_real, with a smooth ratio."""
        ratio = np.exp(np.clip(self.thinning.a + self.thinning.b * misalignment, -60.0, 60.0))
        return np.asarray(self.thinning.share / (self.thinning.share + ratio))

    def misalignment_at(self, probability: float) -> float:
        """The misalignment at which p_misaligned is this, 0 < probability < 1.

        Raises:
            UsageError: the canaries cannot be told from real pairs, so that all have one probability.
        """
        if self.thinning.b >= 0:
            raise UsageError("p_misaligned is the same for all pairs: the scores do not tell canaries from real pairs")
        ratio = self.thinning.share * (1.0 - probability) / probability
        return (math.log(ratio) - self.thinning.a) / self.thinning.b

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "version": VERSION,
            "key": self.key,
            "score_key": self.score_key,
            "canary_key": self.canary_key,
            "choice": asdict(self.choice),
            "shards": self.shards,
            "pairs": self.pairs,
            "canaries": dict(self.canaries),
            "measures": {
                score: {
                    kind: {"auroc": found.auroc.to_json(), "auprc": found.auprc.to_json()}
                    for kind, found in by_kind.items()
                }
                for score, by_kind in self.measures.items()
            },
            "model": self.model.to_json(),
            "without": self.without.to_json(),
            "weights": {name: list(row) for name, row in self.weights.items()},
            "penalties": [
                {"penalty": penalty, "auroc": area} for penalty, area in zip(PENALTIES, self.areas, strict=True)
            ],
            "shares": {kind: share.to_json() for kind, share in self.shares.items()},
            "thinning": asdict(self.thinning),
            "curves": {score: curve.to_json() for score, curve in self.curves.items()},
        }

    @classmethod
    def from_json(cls, value: Any, url: str) -> Calibration:
        """Read what `to_json` gave.

        Raises:
            InputError: the value, which came from `url`, is not a calibration of this version.
        """
        try:
            if value["version"] != VERSION:
                raise ValueError(f"version {value['version']}")
            measures = {
                score: {
                    kind: Measure(Estimate.from_json(found["auroc"]), Estimate.from_json(found["auprc"]))
                    for kind, found in by_kind.items()
                }
                for score, by_kind in value["measures"].items()
            }
            return cls(
                value["key"],
                value["score_key"],
                value["canary_key"],
                Choice(**value["choice"]),
                value["shards"],
                value["pairs"],
                value["canaries"],
                measures,
                Model.from_json(value["model"]),
                Model.from_json(value["without"]),
                {name: tuple(row) for name, row in value["weights"].items()},
                tuple(item["auroc"] for item in value["penalties"]),
                {kind: Estimate.from_json(share) for kind, share in value["shares"].items()},
                Thinning(**value["thinning"]),
                {score: Curve.from_json(curve) for score, curve in value["curves"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"not a calibration of this version ({error}); run calibrate again", url=url) from error


def calibration_key(score_key: str, canary_key: str, choice: Choice) -> str:
    """Names a calibration; the shards that it saw are not part of it."""
    return keys.digest({"version": VERSION, "scores": score_key, "canaries": canary_key, **asdict(choice)})


def calibrate(
    layout: Layout,
    storage: Storage,
    score_key: str,
    canary_key: str,
    choice: Choice = Choice(),
    progress: Progress = Silent(),
) -> Calibration:
    """Make the calibration of a set of scores, or return it when it has been made.

    Raises:
        UsageError: there are no or too few canaries. InputError: a table or an existing calibration cannot be read.
    """
    key = calibration_key(score_key, canary_key, choice)
    url = layout.calibration(key)
    if not storage.exists(url):
        sample = gather(layout, storage, score_key, canary_key, pairs=choice.pairs, seed=choice.seed, progress=progress)
        made = of_sample(sample, key, score_key, canary_key, choice)
        # Another writer, who saw other shards, may have been first: what is frozen holds.
        settle(url, canonical(made.to_json()), storage)
    return load(layout, storage, key)


def load(layout: Layout, storage: Storage, key: str) -> Calibration:
    """Read a calibration.

    Raises:
        UsageError: there is none of this key. InputError: the file is not one.
    """
    url = layout.calibration(key)
    if not storage.exists(url):
        raise UsageError(f"{layout.root} holds no calibration {key}; run calibrate first")
    return Calibration.from_json(storage.read_json(url), url)


def of_sample(sample: Sample, key: str, score_key: str, canary_key: str, choice: Choice) -> Calibration:
    """Everything that a sample says."""
    found = features(sample.canary, sample.real, sample.kind, sample.folds)
    plain = [name for name in found.columns if not detectors.facts(name).rests_on_gradients]
    with_all, without = learn(found), learn(found.keep(plain))
    badness: dict[str, tuple[Array, Array]] = {}
    for name in sample.real:
        if not np.isfinite(sample.canary[name]).all() or not np.isfinite(sample.real[name]).any():
            continue
        sign = 1.0 if detectors.facts(name).higher_is_worse else -1.0
        badness[name] = sign * sample.canary[name], _finite(sign * sample.real[name])
    badness |= {detectors.LEARNED: (with_all.canary, with_all.real), WITHOUT: (without.canary, without.real)}
    canary, real = badness[detectors.LEARNED]
    shares = {kind: share_of_mistakes(part, real) for kind, part in _by_kind(sample, canary).items()}
    return Calibration(
        key,
        score_key,
        canary_key,
        choice,
        sample.shards,
        len(real),
        {name: int((sample.kind == number).sum()) for number, name in enumerate(sample.kinds)},
        {name: _measures(sample, *both) for name, both in badness.items()},
        with_all.model,
        without.model,
        with_all.weights,
        with_all.areas,
        shares,
        thinning(canary, real, max(shares[ALL].value, _LEAST_SHARE)),
        {name: _curve(sample, name, *both) for name, both in badness.items()},
    )


def _by_kind(sample: Sample, canary: Array) -> dict[str, Array]:
    return {ALL: canary, **sample.of_kind(canary)}


def _measures(sample: Sample, canary: Array, real: Array) -> dict[str, Measure]:
    return {kind: Measure(auroc(part, real), auprc(part, real)) for kind, part in _by_kind(sample, canary).items()}


def _curve(sample: Sample, name: str, canary: Array, real: Array) -> Curve:
    higher = name not in detectors.COLUMNS or detectors.facts(name).higher_is_worse
    sign = 1.0 if higher else -1.0
    by_kind = {kind: sign * part for kind, part in sample.of_kind(canary).items()}
    return Curve.of(by_kind, sign * real, higher_is_worse=higher)


def _finite(values: Array) -> Array:
    return values[np.isfinite(values)]
