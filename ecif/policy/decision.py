"""The decision: a small frozen file that says what every later stage drops, and how it is read back.

Fields that a policy does not use are left out of the file, so that a decision of an earlier version stays the same
bytes: an output is bound to them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from ecif.calibration.learned import Model
from ecif.errors import InputError
from ecif.policy.rule import Rule
from ecif.scores import Identity


@dataclass(frozen=True, slots=True)
class GroupCut:
    """The cut of one group.

    Attributes:
        group: its value as text; None: pairs in which the column is unknown.
        threshold, tie: as those of `Decision`.
        n, n_dropped: candidates in it, and those to drop, when the cut was made.
    """

    group: str | None
    threshold: float | None
    tie: Identity | None
    n: int
    n_dropped: int


@dataclass(frozen=True, slots=True)
class Decision:
    """A frozen cut.

    Attributes:
        key: names the decision; a hash of the score key and the policy.
        score_key, fit_key: the scores it was made from, and their fit.
        detector, higher_is_worse: the deciding score and its sense.
        policy: the policy as given, such as {"drop": "0.1"}.
        unscored: what happens to pairs without a score: keep, drop or quarantine.
        threshold: pairs worse than this score go; None: none goes.
        tie: of the pairs that score exactly `threshold`, those up to this one (uid, key, shard, index) go; None: none.
        n_rows, n_ok, n_dropped: pairs, scored pairs and pairs to drop when the cut was made.
        shards: the number of shards it was made from.
        dropped: what happens to pairs that the policy drops: drop or quarantine.
        denylist, allowlist, override_drop, override_keep: SHA-256 of the frozen lists (`layout.list_of`); empty where
            there is none.
        duplicates: SHA-256 of the frozen table of pairs that have a better equal (`layout.duplicates`); empty likewise.
        rank_by, where, by, control: what goes into `rule`, which says whether a pair is a candidate and how bad it is.
        every: all candidates go, and there is no cut.
        groups: the cuts by group; a pair of another group stays. Then there is no `threshold` beside them.
        model: of the learned detector, where that decides.
        candidates: how many of the scored pairs were candidates; None: all.
        calibration: key of what canaries said of the scores when the cut was made; empty where there were none.
    """

    key: str
    score_key: str
    fit_key: str
    detector: str
    higher_is_worse: bool
    policy: dict[str, Any]
    unscored: str
    threshold: float | None
    tie: Identity | None
    n_rows: int
    n_ok: int
    n_dropped: int
    shards: int
    dropped: str = "drop"
    denylist: str = ""
    allowlist: str = ""
    override_drop: str = ""
    override_keep: str = ""
    duplicates: str = ""
    rank_by: str = ""
    where: str = ""
    by: str = ""
    control: int | None = None
    every: bool = False
    groups: tuple[GroupCut, ...] = ()
    candidates: int | None = None
    model: dict[str, Any] | None = None
    calibration: str = ""

    @property
    def rule(self) -> Rule:
        """What a row says by this decision."""
        model = None if self.model is None else Model.from_json(self.model)
        return Rule(self.detector, self.higher_is_worse, self.rank_by, self.where, self.by, self.control, model)

    @property
    def cut(self) -> str:
        """What goes, in a few words."""
        if self.groups:
            cut = f"by {self.rule.title} in each of {len(self.groups):,} groups of {self.by}"
        elif self.every:
            cut = "all of those"
        else:
            cut = "nothing" if self.threshold is None else f"{self.rule.title} beyond {self.threshold:.6g}"
        return cut + (f", where {self.where}" if self.where else "")

    def headline(self) -> str:
        """The decision in one line, for people."""
        of = "" if self.candidates is None else f"{self.candidates:,} candidates among "
        return (
            f"decision {self.key}: drop {self.n_dropped:,} of {of}{self.n_ok:,} scored pairs ({self.cut}), "
            f"{self.n_rows:,} pairs in {self.shards:,} shards"
        )

    @property
    def line(self) -> float | None:
        """The threshold as a value of the column `detector`; None where it is none, or one for each group."""
        return None if self.rank_by or self.control is not None or self.model is not None else self.threshold

    def to_json(self) -> dict[str, Any]:
        """The decision as it is written to a file."""
        value = {name: item for name, item in asdict(self).items() if name not in _LATER or item != _LATER[name]}
        if "groups" in value:
            value["groups"] = [cut | {"tie": _listed(cut["tie"])} for cut in value["groups"]]
        return value | {"tie": _listed(self.tie)}

    @classmethod
    def from_json(cls, value: Any, url: str) -> Decision:
        """Read what `to_json` gave.

        Raises:
            InputError: the value, which came from `url`, is not a decision.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(value, dict) or not names - _LATER.keys() <= set(value) <= names:
            raise InputError("not a decision of this version; run plan again with a new --out", url=url)
        cuts = value.get("groups", [])
        if not isinstance(cuts, list) or not all(
            isinstance(cut, dict) and set(cut) == {field.name for field in fields(GroupCut)} for cut in cuts
        ):
            raise InputError("the groups of a decision are a list of cuts; run plan again with a new --out", url=url)
        if value.get("model") is not None:
            try:
                Model.from_json(value["model"])
            except ValueError as error:
                raise InputError(f"{error}; run plan again with a new --out", url=url) from error
        groups = tuple(GroupCut(**(cut | _cut(cut, url))) for cut in cuts)
        return cls(**(value | _cut(value, url) | {"groups": groups}))


# Fields that came after the first version, and what they are where a file does not have them.
_LATER: dict[str, Any] = {
    "override_drop": "", "override_keep": "", "duplicates": "", "rank_by": "", "where": "", "by": "", "control": None,
    "every": False, "groups": (), "candidates": None, "model": None, "calibration": "",
}  # fmt: skip


def _listed(tie: Identity | None) -> list[Any] | None:
    return None if tie is None else list(tie)


def _cut(value: dict[str, Any], url: str) -> dict[str, Any]:
    """Threshold and tie of a decision or a group."""
    tie = value["tie"]
    if tie is not None:
        if not (isinstance(tie, list) and [type(part) for part in tie] == [str, str, str, int]):
            raise InputError(f"the tie is a list of uid, key, shard and index, not {tie!r}", url=url)
        tie = (tie[0], tie[1], tie[2], tie[3])
    threshold = value["threshold"]
    if threshold is not None and (type(threshold) not in (int, float) or not math.isfinite(threshold)):
        raise InputError(f"the threshold is a finite number or null, not {threshold!r}", url=url)
    return {"tie": tie, "threshold": None if threshold is None else float(threshold)}
