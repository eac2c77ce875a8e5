"""The policy as a user gives it: what goes, by what, and what people have decided themselves."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from ecif import detectors
from ecif.fields import Group
from ecif.policy.grammar import columns, parse

CUTS = ("drop", "drop_count", "keep", "keep_count", "threshold", "target_precision")
"""Settings that say how many pairs go; at most one is given."""


class PolicySettings(Group):
    """What to drop (docs/policies.md). Without a policy nothing is dropped."""

    detector: str = Field(
        detectors.AUTO,
        description="score column that decides; auto: p_misaligned, or clip_score where too few canaries taught it",
    )
    rank_by: str = Field(
        "", description="rank by this expression over columns instead of --detector; the lowest values go first"
    )
    drop: Decimal | None = Field(None, description="drop exactly this fraction of the scored pairs, worst first")
    drop_count: int | None = Field(None, ge=0, description="drop exactly this many pairs, worst first")
    keep: Decimal | None = Field(None, description="keep exactly this fraction of the scored pairs, the best ones")
    keep_count: int | None = Field(None, ge=0, description="keep exactly this many scored pairs, the best ones")
    threshold: float | None = Field(None, description="drop the pairs whose score is worse than this value")
    target_precision: Decimal | None = Field(
        None, description="drop as many pairs as possible, so that by the canaries this share of them is wrong"
    )
    where: str = Field(
        "", description="drop only pairs for which this expression over columns is true; alone: all of them"
    )
    by: str = Field(
        "", description="the fraction or number holds in each group: a column of the tables beside the shards, or shard"
    )
    dedup: str = Field(
        "", description="of pairs with the same value in this column only the best stays: a digest of the image"
    )
    control: int | None = Field(
        None, ge=0, description="drop as many pairs as the policy would, but at random, with this seed"
    )
    dropped: Literal["drop", "quarantine"] = Field(
        "drop", description="pairs that the policy drops: only a row in the ledger, or moved to quarantine shards, too"
    )
    unscored: Literal["keep", "drop", "quarantine"] = Field("keep", description="pairs that could not be scored")
    denylist: str = Field("", description="file of keys, uids, URLs or sha256 sums that go whatever their score")
    allowlist: str = Field("", description="file of the same form: pairs that stay whatever their score")
    overrides: str = Field(
        "", description="file of a review: pairs to drop or keep whatever the policy says (CSV, JSON)"
    )

    @field_validator("drop", "keep")
    @classmethod
    def _fraction(cls, value: Decimal | None) -> Decimal | None:
        if value is not None and not (value.is_finite() and 0 <= value <= 1):
            raise ValueError(f"a fraction lies in [0, 1], not {value}")
        # 0.1 and 0.10 are one decision, and get one key.
        return value if value is None else Decimal(format(value.normalize(), "f"))

    @field_validator("target_precision")
    @classmethod
    def _precision(cls, value: Decimal | None) -> Decimal | None:
        if value is not None and not (value.is_finite() and 0 < value < 1):
            raise ValueError(f"a precision lies between 0 and 1, as 0.9 does, not {value}")
        return value if value is None else Decimal(format(value.normalize(), "f"))

    @field_validator("threshold")
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        if value is not None and value != value:
            raise ValueError("a threshold is a number, not NaN")
        return value

    @field_validator("where", "rank_by", "by", "dedup")
    @classmethod
    def _trimmed(cls, value: str) -> str:
        return value.strip()

    @model_validator(mode="after")
    def _one_policy(self) -> Self:
        given = [name for name in CUTS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one policy, not {' and '.join('--' + g.replace('_', '-') for g in given)}")
        if self.control is not None and not given and not self.where:
            raise ValueError("--control drops as many pairs at random as a policy would: give --drop or another one")
        if self.rank_by and not given and not self.dedup:
            raise ValueError("--rank-by ranks pairs for a cut: give --drop, --keep, --threshold or a number, too")
        if self.target_precision is not None and (self.rank_by or self.where):
            other = "--rank-by" if self.rank_by else "--where"
            raise ValueError(f"--target-precision is known of cuts through a score over all pairs: not with {other}")
        if self.by and not given and not self.where:
            raise ValueError("--by divides a policy among groups: give --drop, --keep or another one, too")
        return self

    @property
    def columns_used(self) -> frozenset[str]:
        """Columns that decide: of the score tables, or of those beside the shards."""
        if self.rank_by:
            ranked = columns(parse(self.rank_by, "--rank-by"))
        else:
            ranked = frozenset(() if self.detector == detectors.AUTO else (self.detector,))
        return ranked | (columns(parse(self.where, "--where")) if self.where else frozenset())

    @property
    def cut(self) -> str | None:
        """Which of `CUTS` is given."""
        return next((name for name in CUTS if getattr(self, name) is not None), None)

    @property
    def has_policy(self) -> bool:
        """Whether anything is to be decided at all."""
        return self.cut is not None or bool(self.where or self.dedup or self.denylist or self.overrides)
