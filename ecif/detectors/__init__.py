"""Score columns that can decide what is dropped, each with its sign, its source, and what it needs.

This module holds the facts and needs no torch. The arithmetic is one file per detector beside it, named like the
column, with one function:

    level "batch"   compute(view: BatchView) -> Tensor (B,)    on every batch; averaged over the segmentations
    level "shard"   compute(view: ShardView) -> Tensor (N,)    once per shard, on all of its pairs at once
    level "relative"   compute(view: RelativeView) -> Tensor (N,)    the same, from lengths of gradients

One detector, `LEARNED`, is no column and has no file: it is a sum of columns whose weights a calibration has frozen
(`ecif/calibration/`).

`views` has what they see. What a detector needs beyond the embeddings is named here, so that whoever fills the views
computes only what the wanted columns ask for; `COSTS` says what each need costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from ecif.errors import UsageError
from ecif.nearest import did_you_mean

Level = Literal["batch", "shard", "relative", "learned"]
Need = Literal[
    "direction:influence",
    "direction:gradient",
    "direction:ekfac",
    "direction:trak",
    "stepped",
    "gradients:positive",
    "gradients:removal",
    "curvature",
    "validation",
    "checkpoints",
    "lengths:inverse",
    "lengths:root",
    "lengths:raw",
]
COSTS: dict[Need, str] = {
    "direction:influence": "w = H^-1 grad L_val of the fit, and the derivatives of the embeddings along it: one JVP, "
    "1 forward pass for heads, 3 for all parameters; D numbers more per embedding",
    "direction:gradient": "the derivatives along grad L_val: another tangent of the same JVP, so without the primal",
    "direction:ekfac": "a fit with EK-FAC curvature, whose solve of grad L_val is the direction; then as gradient",
    "direction:trak": "per-sample projected gradients of the fit pairs with the table of embeddings detached, and "
    "one solve (`trak.direction`); then as gradient",
    "stepped": "a second forward pass of every pair, at the weights after one step down the validation loss",
    "gradients:positive": "projected per-sample gradients of Pos, K numbers per pair: matrix products for heads, "
    "otherwise a JVP per projection direction or a VJP per pair",
    "gradients:removal": "the same of the removal of the pair, both roles",
    "curvature": "the factor of the fit, in memory; one solve per pair, K x rank",
    "lengths:inverse": "|H^-1 d| of each pair's gradients d: for heads from projected gradients; otherwise from random "
    "probes, another tangent of the JVP for each",
    "lengths:root": "the same with H^(-1/2)",
    "lengths:raw": "the same without H, always from probes: lengths in the whole parameter space",
    "validation": "H^-1 of the projected gradient of every single validation pair, V x K numbers, made once; a product "
    "with them per pair",
    "checkpoints": "a forward pass of every pair for each further model of a training run",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a user of a score has to know.

    Attributes:
        name: on the command line; also the column, and the module with the arithmetic.
        higher_is_worse: which end is dropped first.
        title: one line for tables and the report. reference: where the score was published.
        level: where it is computed. needs: beyond the embeddings; see `COSTS`.
    """

    name: str
    higher_is_worse: bool
    title: str
    reference: str
    level: Level = "batch"
    needs: frozenset[Need] = frozenset()

    @property
    def column(self) -> str:
        """The column of the score files."""
        return self.name

    @property
    def rests_on_gradients(self) -> bool:
        """Whether it asks how the pair moves the parameters, not only where its embeddings lie."""
        return bool(self.needs - {"checkpoints"})


def _facts(name: str, worse: str, title: str, reference: str, *needs: Need, level: Level = "batch") -> Facts:
    return Facts(name, worse == "high", title, f"arXiv {reference}", level, frozenset(needs))


# In the order of the columns; these are in every score file.
_ALWAYS = (
    _facts("clip_score", "low", "cosine similarity of image and caption", "2104.08718"),
    _facts("neg_clip_loss", "low", "similarity normalised by the pair's competitors", "2405.19547"),
    _facts(
        "positive_influence",
        "low",
        "change of the validation loss by losing the pair as a positive",
        "2411.11667",
        "direction:influence",
    ),
    _facts(
        "negative_influence",
        "low",
        "change of the validation loss by losing it as a negative",
        "2411.11667",
        "direction:influence",
    ),
    _facts(
        "influence",
        "low",
        "predicted change of the validation loss when the pair is removed",
        "2411.11667",
        "direction:influence",
    ),
)
# These on demand.
_OPTIONAL = (
    _facts("clip_logit", "low", "probability of the caption among those of the batch", "2310.10463"),
    _facts("aum", "low", "margin over the next best caption, mean over a training run", "2001.10528", "checkpoints"),
    _facts("average_similarity", "low", "cosine similarity, mean over a training run", "2009.10795", "checkpoints"),
    _facts("lemon", "high", "distance of the pair and of its neighbours' other halves", "2407.18941", level="shard"),
    _facts("deep_knn", "low", "agreement of the caption with those of similar images", "2004.12289", level="shard"),
    _facts(
        "tracin", "low", "alignment of the gradients of Pos and validation loss", "2002.08484", "direction:gradient"
    ),
    _facts("if_ekfac", "low", "pointwise influence with EK-FAC curvature", "2308.03296", "direction:ekfac"),
    _facts("trak", "low", "pointwise influence with the kernel of projected gradients", "2303.14186", "direction:trak"),
    _facts("vif", "low", "influence of the exact finite difference of the loss", "2412.01335", "direction:influence"),
    _facts("forward_inf", "low", "fall of Pos by one step down the validation loss", "2402.08922", "stepped"),
    _facts(
        "harm",
        "high",
        "fall of single validation losses without the pair as a positive, rises left out",
        "2411.11667",
        "gradients:positive",
        "validation",
    ),
    _facts("self_influence", "high", "influence of the pair on itself", "1703.04730", "gradients:removal", "curvature"),
    _facts("gradient_l1", "high", "L1 norm of the projected gradient of Pos", "2405.03869", "gradients:positive"),
    _facts("gradient_l2", "high", "L2 norm of the projected gradient of Pos", "2405.03869", "gradients:positive"),
    _facts(
        "outlier_gradient",
        "high",
        "isolation of the projected gradient of Pos",
        "2405.03869",
        "gradients:positive",
        level="shard",
    ),
)
_RELATIVE = (
    _facts(
        "theta_relative",
        "low",
        "influence per length of the parameters' move",
        "2003.11630",
        "direction:influence",
        "lengths:inverse",
        level="relative",
    ),
    _facts(
        "l_relative",
        "low",
        "influence per root of the pair's influence on itself",
        "2003.11630",
        "direction:influence",
        "lengths:root",
        level="relative",
    ),
    _facts(
        "relative_influence",
        "low",
        "share of the validation gradient that the pair can move, with the influence's sign",
        "2411.11667",
        "direction:influence",
        "lengths:inverse",
        level="relative",
    ),
    _facts(
        "gradient_norm",
        "high",
        "length of the gradient of removing the pair, in all parameters",
        "2405.03869",
        "lengths:raw",
        level="relative",
    ),
)
_LEARNED = Facts(
    "p_misaligned", True, "sum of columns, weighted by what finds canaries", "Elkan and Noto, KDD 2008", "learned"
)
_BY_NAME = {facts.name: facts for facts in (*_ALWAYS, *_OPTIONAL, *_RELATIVE, _LEARNED)}
NAMES = tuple(facts.name for facts in _ALWAYS)
OPTIONAL = tuple(facts.name for facts in (*_OPTIONAL, *_RELATIVE))
COLUMNS = (*NAMES, *OPTIONAL)
LEARNED = _LEARNED.name
PLAIN = "clip_score"
"""Decides where nothing was learned: every corpus has it, and no other single column is surely better on all."""
AUTO = "auto"
"""Names no detector: the policy leaves it open (`stages.deciding`)."""


def facts(name: str) -> Facts:
    """The facts of one detector.

    Raises:
        UsageError: there is no such detector.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        hint = did_you_mean(name, _BY_NAME)
        known = ", ".join((AUTO, *_BY_NAME))
        raise UsageError(f"--detector: there is no {name!r}; choose one of {known}.{hint}") from None


def load(name: str) -> Callable[[Any], Any]:
    """The `compute` of one detector, imported now (and torch with it): a view of its level -> its scores.

    Raises:
        UsageError: there is no such detector, or it is no column.
    """
    if name == LEARNED:
        raise UsageError(f"{name} is no column: it follows from others and a calibration")
    compute: Callable[[Any], Any] = import_module(f"ecif.detectors.{facts(name).name}").compute
    return compute
