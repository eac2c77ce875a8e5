"""The settings of the influence computation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ecif import detectors
from ecif.fields import Group
from ecif.nearest import did_you_mean


class MethodSettings(Group):
    """The influence computation (docs/method.md)."""

    validation: tuple[str, ...] = Field((), description="tars of trusted pairs: what 'better' is measured on")
    objective: str = Field("contrastive", description="validation loss: contrastive, or prompts:FILE (zero-shot)")
    batch_size: int = Field(256, ge=2, description="contrastive batch B: samples that compete in one softmax")
    equal_captions: Literal["compete", "mask"] = Field(
        "mask", description="pairs of equal captions: negatives of each other, or out of each other's softmax"
    )
    min_batch: int | None = Field(None, ge=2, description="smaller batches are not scored [default: B/4]")
    segmentations: int = Field(8, ge=1, description="K: ways to cut a shard into batches, averaged")
    validation_segmentations: int = Field(
        8, ge=1, description="S: ways to cut the validation pairs into contrastive batches, averaged"
    )
    seed: int = Field(0, ge=0, description="seed of every random choice")
    fit_pairs: int = Field(20_000, ge=1, description="the curvature is fitted on this many pairs, or 1 % if more")
    curvature: Literal["ggn", "fisher", "ekfac", "pointwise", "identity"] = Field(
        "ggn", description="curvature matrix of the fit; pointwise is the Fisher matrix without the batch's coupling"
    )
    blocks: Literal["joint", "layer"] = Field(
        "joint", description="one matrix for all parameters, or one for each (ekfac is diagonal)"
    )
    sketches: int | None = Field(
        None, ge=1, description="ggn and ekfac: random sketches per batch [default: 64 for heads, otherwise 16]"
    )
    logra_rank: int = Field(32, ge=1, description="rows and columns kept of each weight's gradient (LoGra)")
    projected_size: int = Field(
        2048, ge=1, description="numbers in the projected gradient at most; lowers --logra-rank"
    )
    logra_init: Literal["random", "pca"] = Field(
        "pca", description="rows of the projections: random, or leading eigenvectors of the gradients' sides"
    )
    basis_pairs: int = Field(2_000, ge=2, description="pairs from which these eigenvectors are taken (pca, ekfac)")
    extend: str = Field(
        "", description="an earlier output: its curvature is taken over, and only new shards are fitted"
    )
    complement: Literal["drop", "keep"] = Field(
        "drop", description="the part of the validation gradient outside the projection: drop, or keep over delta"
    )
    factor_rank: int = Field(1024, ge=1, description="eigenvectors kept of the projected curvature")
    damping: str = Field("10x", description="delta: an absolute value, or a multiple of the mean eigenvalue ('0.1x')")
    negative_role: Literal["exact", "first-order"] = Field(
        "exact", description="a removed pair as a negative of others: exactly, or to first order (ECIF paper)"
    )
    derivative: Literal["exact", "difference"] = Field(
        "exact",
        description="the embeddings' derivative: exact, or a central difference, faster with more than the heads",
    )

    columns: tuple[str, ...] = Field((), description="further score columns (docs/detectors.md); may be repeated")
    checkpoints: tuple[str, ...] = Field(
        (), description="weights of other moments of the training run, for the columns that compare them"
    )
    column_probes: int = Field(
        16, ge=4, description="random directions for the relative columns, where parameters are more than the heads"
    )
    index: bool = Field(
        False, description="keep the projected gradient of every pair, so that `trace` needs no pass of the model"
    )

    @field_validator("columns")
    @classmethod
    def _columns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in detectors.OPTIONAL:
                known = ", ".join(detectors.OPTIONAL)
                hint = did_you_mean(name, detectors.OPTIONAL)
                raise ValueError(f"there is no column {name!r} to add; choose of {known}.{hint}")
        # Their order and repetition change nothing.
        return tuple(sorted(set(value)))

    @field_validator("objective")
    @classmethod
    def _objective(cls, value: str) -> str:
        if value != "contrastive" and not value.startswith("prompts:"):
            raise ValueError(f"{value!r} is neither 'contrastive' nor 'prompts:FILE'")
        return value

    @field_validator("damping")
    @classmethod
    def _damping(cls, value: str) -> str:
        try:
            number = float(value.removesuffix("x"))
        except ValueError:
            raise ValueError(f"{value!r} is neither a number nor a multiple such as '0.1x'") from None
        if not 0 < number < float("inf"):
            raise ValueError("damping must be positive and finite")
        return value

    @property
    def smallest_batch(self) -> int:
        """Batches below this many samples are not scored."""
        return self.min_batch if self.min_batch is not None else max(2, self.batch_size // 4)
