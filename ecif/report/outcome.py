"""The outcome in words: what the top of the page says, and what one has to know to read it right."""

from __future__ import annotations

from dataclasses import dataclass

from ecif.report.numbers import Numbers
from ecif.report.numerals import integer, percent, plural
from ecif.selection import Decision

DONE = {"keep": "kept", "drop": "dropped", "quarantine": "quarantined"}
"""What happened to pairs without a score, by the setting `unscored`."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What the decision does to the pairs of the scored shards; before any decision everything is kept."""

    pairs: int
    ok: int
    cut: int
    unscored: int
    kept: int
    dropped: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Tile:
    """One number at the top of the page."""

    label: str
    value: str
    note: str
    kind: str = ""


def count(decision: Decision | None, numbers: Numbers) -> Counts:
    """Apply the decision to the numbers."""
    unscored = numbers.rows - numbers.ok
    written = numbers.written
    listed = decision is not None and (decision.denylist or decision.allowlist)
    if (listed or "duplicate_key" in numbers.statuses) and written.shards >= numbers.scored > 0:
        # The scores alone do not tell: lists may look into samples, and repeated keys must not become one sample.
        kept, dropped, quarantined = written.kept, written.dropped, written.quarantined
        return Counts(numbers.rows, numbers.ok, numbers.cut, unscored, kept, dropped, quarantined)
    gone = {"keep": 0, "drop": 0, "quarantine": 0}
    if decision is not None:
        gone[decision.dropped] += numbers.cut
        gone[decision.unscored] += unscored
    dropped, quarantined = gone["drop"], gone["quarantine"]
    kept = numbers.rows - dropped - quarantined
    return Counts(numbers.rows, numbers.ok, numbers.cut, unscored, kept, dropped, quarantined)


def headline(decision: Decision | None, numbers: Numbers, counts: Counts) -> str:
    """The outcome in one line."""
    if not counts.pairs:
        return "No pairs were found"
    if decision is None:
        return f"{integer(counts.ok)} of {integer(counts.pairs)} pairs scored, nothing decided yet"
    if not counts.dropped and not counts.quarantined:
        return f"All {integer(counts.kept)} pairs kept"
    done = numbers.written.shards >= numbers.scored
    drop, set_aside, keep = ("dropped", "quarantined", "kept") if done else ("to drop", "to quarantine", "to keep")
    aside = f", {integer(counts.quarantined)} {set_aside}" if counts.quarantined else ""
    return f"{integer(counts.dropped)} of {integer(counts.pairs)} pairs {drop}{aside}, {integer(counts.kept)} {keep}"


def state(decision: Decision | None, numbers: Numbers, counts: Counts) -> list[str]:
    """What one has to know beside the headline, a sentence each."""
    said = []
    if numbers.scored < numbers.shards:
        said.append(
            f"{integer(numbers.shards - numbers.scored)} of {integer(numbers.shards)} shards have no scores; "
            "their pairs are not counted here."
        )
    if decision is None:
        said.append("To decide, run ecif plan with --drop, --drop-count or --threshold, then ecif apply.")
        return said
    if decision.shards < numbers.scored and numbers.ok:
        said.append(
            f"The cut was made from {plural(decision.shards, 'shard')} and holds for the "
            f"{integer(numbers.scored - decision.shards)} that arrived since: it dropped "
            f"{percent(decision.n_dropped, decision.n_ok)} of the scored pairs then, "
            f"{percent(counts.cut, counts.ok)} now."
        )
    written = numbers.written
    if written.shards < numbers.scored:
        said.append(
            f"These are the numbers of the decision. {integer(written.shards)} of {integer(numbers.scored)} scored "
            "shards are written so far; run ecif apply to write the rest."
        )
    elif (written.kept, written.dropped, written.quarantined) != (counts.kept, counts.dropped, counts.quarantined):
        said.append(
            f"The manifests count {integer(written.kept)} kept, {integer(written.dropped)} dropped and "
            f"{integer(written.quarantined)} quarantined, which is not what scores and decision give: run ecif verify."
        )
    return said


def tiles(decision: Decision | None, numbers: Numbers, counts: Counts) -> list[Tile]:
    """The row of numbers under the headline."""
    row = [Tile("Pairs read", integer(counts.pairs), f"in {plural(numbers.scored, 'shard')}")]
    if decision is not None:
        row.append(Tile("Kept", integer(counts.kept), percent(counts.kept, counts.pairs), "kept"))
        note = percent(counts.dropped, counts.pairs)
        if counts.unscored and counts.ok:
            note += f", {percent(counts.cut, counts.ok)} of the scored"
        row.append(Tile("Dropped", integer(counts.dropped), note, "dropped"))
    else:
        row.append(Tile("Scored", integer(counts.ok), percent(counts.ok, counts.pairs)))
    if counts.quarantined:
        note = percent(counts.quarantined, counts.pairs)
        row.append(Tile("Quarantined", integer(counts.quarantined), note, "quarantined"))
    fate = f", {DONE[decision.unscored]}" if decision is not None and counts.unscored else ""
    row.append(Tile("Without a score", integer(counts.unscored), percent(counts.unscored, counts.pairs) + fate))
    if decision is not None:
        note = f"of {integer(numbers.shards)}"
        row.append(Tile("Shards written", integer(numbers.written.shards), note))
    return row


def share(counts: Counts) -> list[tuple[str, float]]:
    """The parts of the bar under the tiles: (kind, percent)."""
    if not counts.pairs:
        return []
    parts = (("dropped", counts.dropped), ("quarantined", counts.quarantined), ("kept", counts.kept))
    return [(kind, 100 * n / counts.pairs) for kind, n in parts if n]
