"""What the Python API returns: the words of a command's JSON as fields, its text as the representation.

A result holds small numbers, names and places, never data: tables are read with `ecif.load_scores`.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """What a command came to.

    Attributes:
        text: the summary that the command line prints.
        facts: everything that the command prints with `--json`.
    """

    text: str
    facts: Mapping[str, Any] = field(compare=False)

    @classmethod
    def of(cls, text: str, facts: Mapping[str, Any]) -> Self:
        """Take the fields of this class out of the facts."""
        own = [one.name for one in fields(cls) if one.name not in ("text", "facts")]
        return cls(text, facts, **{name: facts[name] for name in own})

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.text}"

    def _repr_html_(self) -> str:
        """In a notebook: the text, and the facts that are single values."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(_shown(value))}</td></tr>"
            for name, value in self.facts.items()
            if value is None or isinstance(value, (str, int, float))
        )
        return f"<pre>{html.escape(self.text)}</pre><table>{rows}</table>"


@dataclass(frozen=True, slots=True, repr=False)
class Fitted(Result):
    """What `fit` came to.

    Attributes:
        direction: URL of the direction along which influence is measured.
        failed: shards that were set aside, with reasons; while there are any, there is no direction yet.
    """

    fit_key: str
    direction: str
    failed: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, repr=False)
class Scored(Result):
    """What `score` came to.

    Attributes:
        scores: directory of the score tables. shards: that have one. samples: that this call scored.
        overlap: samples among these whose image is in the validation set, too.
        failed: shards that were set aside, with reasons.
    """

    score_key: str
    scores: str
    shards: int
    samples: int
    overlap: int
    failed: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, repr=False)
class Planned(Result):
    """A decision: the frozen cut.

    Attributes:
        key: of the decision. decision: URL of its file. score_key: the scores that it rests on.
        n_rows, n_ok, n_dropped: samples, those with a score, those that go. shards: that it was made from.
    """

    key: str
    decision: str
    score_key: str
    n_rows: int
    n_ok: int
    n_dropped: int
    shards: int


@dataclass(frozen=True, slots=True, repr=False)
class Applied(Result):
    """What `apply` came to.

    Attributes:
        out: the output. written: shards by this call. written_before: by earlier ones. without_scores: shards left out.
        kept, dropped, quarantined: samples in the shards that this call wrote.
        failed: shards that were set aside, with reasons.
    """

    out: str
    decision_key: str
    written: int
    written_before: int
    without_scores: int
    kept: int
    dropped: int
    quarantined: int
    failed: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, repr=False)
class Reported(Result):
    """What `report` made.

    Attributes:
        report: URL of the page. decision_key: None when nothing has been decided.
    """

    report: str
    score_key: str
    decision_key: str | None


@dataclass(frozen=True, slots=True, repr=False)
class Cleaned(Result):
    """What `clean` came to: the results of its stages; None for those that were not reached or not asked for."""

    fit: Fitted
    score: Scored | None = None
    plan: Planned | None = None
    apply: Applied | None = None
    report: Reported | None = None

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Shards that were set aside, with reasons."""
        return [item for stage in (self.fit, self.score, self.apply) if stage is not None for item in stage.failed]


@dataclass(frozen=True, slots=True, repr=False)
class Rehearsed(Result):
    """What a command would do (`dry_run=True`).

    Attributes:
        would: one entry per stage: what it would read, compute and write.
    """

    would: list[dict[str, Any]]


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
