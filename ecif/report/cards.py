"""The cards of the gallery: every pair that the page shows once, with the sets that it is in.

A pair may be among the worst, in the random sample and one that two scores disagree on; its picture is the most of what
a page weighs, so it is there once, and the sets are what a card says about itself. The script filters by what stands
in the `data-` attributes of a card; without it the list is there in full.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ecif.report.gallery import Exhibit
from ecif.report.numbers import SETS, SPARED, Numbers, ScoredPair
from ecif.report.numerals import integer, number
from ecif.report.outcome import DONE
from ecif.report.review import entry
from ecif.selection import Decision
from ecif.shards.decode import OK, STATUSES
from ecif.verdicts import DENIED, DUPLICATE, MERGED, OVERRIDE

ALT = 150  # characters of a caption that stand for the picture
_FIRST = ("influence", "clip_score", "neg_clip_loss")
_WHY = {
    "": "the score alone",
    DUPLICATE: "duplicate: it has a better equal",
    OVERRIDE: "override: a review sent it away",
    SPARED: "spared: a list or a review keeps it",
}


@dataclass(frozen=True, slots=True)
class Shelf:
    """A set of pairs.

    Attributes:
        name: in the page. label: on the button. note: what it holds, in a sentence.
    """

    name: str
    label: str
    note: str
    pairs: list[ScoredPair]


@dataclass(frozen=True, slots=True)
class Score:
    """A score on a card: its value and the share of the scored pairs that are worse, as they are read and in full."""

    column: str
    value: str
    rank: str
    exact: str
    exact_rank: str


@dataclass(frozen=True, slots=True)
class Card:
    """One pair of the gallery.

    Attributes:
        number: on the page, from 1.
        sets, places: names of the sets it is in, and its places there, from 1. marks: what it says about them.
        fate: `kept`, `dropped` or `quarantined`; empty before any decision. why, group: numbers of the options that
            `whys` and `groups` list; None where there is no group.
        alt: what stands for the picture. entry: its name in an overrides file.
    """

    number: int
    pair: ScoredPair
    exhibit: Exhibit
    sets: list[str]
    places: list[int]
    marks: list[str]
    fate: str
    why: int
    group: int | None
    scores: list[Score]
    alt: str
    entry: str


@dataclass(frozen=True, slots=True)
class Gallery:
    """All cards, and what they can be filtered and sorted by.

    Attributes:
        shelves: sets with at least one pair. whys, groups: options with their numbers of pairs; the place in the list
            is what a card names. columns: scores, the deciding one first. shown: how many of them stand on a card.
    """

    cards: list[Card]
    shelves: list[Shelf]
    whys: list[tuple[str, int]]
    groups: list[tuple[str, int]]
    columns: list[str]
    shown: int

    @property
    def plain(self) -> tuple[str, ...]:
        """Names of the sets that are not disagreements of two scores; those have a section of their own."""
        return SETS

    @property
    def ranked(self) -> bool:
        """Whether any card knows its rank."""
        return any(score.rank for card in self.cards for score in card.scores)

    def of(self, name: str) -> list[Card]:
        """The cards of a set, in its order."""
        return sorted(
            (card for card in self.cards if name in card.sets), key=lambda card: card.places[card.sets.index(name)]
        )


def shelves(numbers: Numbers) -> list[Shelf]:
    """The sets of pairs that the page shows, in their order, without the empty ones."""
    column = numbers.detector.column
    notes = {
        "worst": ("Worst", f"The worst by {column}, the most extreme first."),
        "borderline": ("Borderline", f"Pairs about the cut through {column}: where the decision is the least sure."),
        "best": ("Best", f"The best by {column}, the most extreme first."),
        "random": ("Random", "A random sample of the scored pairs: what the corpus is like."),
        "unscored": ("Without a score", "Pairs that could not be scored, and why."),
    }
    if column == "influence":
        worst = "The lowest influence first: removing these is predicted to lower the validation loss the most."
        positive = sum((pair.scores[column] or 0) >= 0 for pair in numbers.sets["worst"])
        worst += f" Not so for {integer(positive)} of them, whose influence is not negative." if positive else ""
        best = "The highest influence first: removing these is predicted to raise the validation loss the most."
        notes |= {"worst": ("Most harmful", worst), "best": ("Most valuable", best)}
    found = [Shelf(name, *notes[name], pairs) for name, pairs in numbers.sets.items()]
    for n, one in enumerate(numbers.disagreements):
        for side, bad, good, pairs in (
            ("first", one.first, one.second, one.only_first),
            ("second", one.second, one.first, one.only_second),
        ):
            note = f"Pairs that {bad} ranks among the bad ones and {good} among the good ones, the most extreme first."
            found.append(Shelf(f"{side}-{n}", f"Bad by {bad}, good by {good}", note, pairs))
    return [shelf for shelf in found if shelf.pairs]


def pairs(numbers: Numbers) -> list[ScoredPair]:
    """Every pair that the page shows, once, in the order of the cards."""
    found: dict[tuple[str, int], ScoredPair] = {}
    for shelf in shelves(numbers):
        for pair in shelf.pairs:
            found.setdefault((pair.shard, pair.index), pair)
    return [*found.values()]


def gallery(decision: Decision | None, numbers: Numbers, shown: Mapping[tuple[str, int], Exhibit]) -> Gallery:
    """The cards of all pairs that the page shows.

    Args:
        shown: image and caption by (shard, index).
    """
    sets = shelves(numbers)
    inside: dict[tuple[str, int], list[tuple[Shelf, int]]] = {}
    for shelf in sets:
        for place, pair in enumerate(shelf.pairs, 1):
            inside.setdefault((pair.shard, pair.index), []).append((shelf, place))
    every = pairs(numbers)
    whys = Counter(why(pair) for pair in every)
    groups = Counter(pair.group for pair in every)
    first = numbers.detector.column
    columns = [first, *(c for c in (*_FIRST, *numbers.sketches) if c != first)]
    columns = [c for c in dict.fromkeys(columns) if any(c in pair.scores for pair in every)]
    of_why = {name: n for n, name in enumerate(sorted({"", *whys}))}
    of_group = {name: n for n, name in enumerate(sorted(groups, key=lambda name: (name is None, name or "")))}
    grouped = set(groups) != {None}
    cards = [
        Card(
            number=number,
            pair=pair,
            exhibit=(exhibit := shown[pair.shard, pair.index]),
            sets=[shelf.name for shelf, _ in inside[pair.shard, pair.index]],
            places=[place for _, place in inside[pair.shard, pair.index]],
            marks=[f"{shelf.label} {place}" for shelf, place in inside[pair.shard, pair.index]],
            fate=fate(pair, decision),
            why=of_why[why(pair)],
            group=of_group[pair.group] if grouped else None,
            scores=[_score(pair, column) for column in columns],
            alt=alt(exhibit, f"Image of pair {pair.key}"),
            entry=entry(pair),
        )
        for number, pair in enumerate(every, 1)
    ]
    return Gallery(
        cards,
        sets,
        [(_about(name), whys[name]) for name in of_why],
        [("no value" if name is None else name, groups[name]) for name in of_group] if grouped else [],
        columns,
        len([c for c in columns if c in (first, *_FIRST)]),
    )


def alt(exhibit: Exhibit, otherwise: str) -> str:
    """What stands for a picture: its caption, cut between words where it is long."""
    caption = " ".join((exhibit.caption or "").split())
    if not caption:
        return otherwise
    if len(caption) <= ALT and not exhibit.hidden:
        return caption
    whole, _, _ = caption[:ALT].rpartition(" ")
    return f"{whole or caption[:ALT]}…"


def fate(pair: ScoredPair, decision: Decision | None) -> str:
    """What the decision does with a pair: `kept`, `dropped` or `quarantined`; empty without one."""
    if decision is None:
        return ""
    if pair.reason.startswith(DENIED):
        return DONE["drop"]
    if pair.reason in (MERGED, SPARED):
        return DONE["quarantine" if pair.reason == MERGED else "keep"]
    if pair.status != OK and pair.reason != OVERRIDE:
        return DONE[decision.unscored]
    return DONE[decision.dropped] if pair.dropped or pair.reason else DONE["keep"]


def why(pair: ScoredPair) -> str:
    """The kind of failure: what a pair goes by beside its score, or why it has none; empty for the others."""
    return pair.reason or (pair.status if pair.status != OK else "")


def _about(name: str) -> str:
    status = name.removeprefix("unscored:")
    if name.startswith(DENIED):
        return f"the denylist names its {name.removeprefix(DENIED)}"
    return _WHY.get(name) or (f"{status}: {STATUSES[status]}" if status in STATUSES else name)


def _score(pair: ScoredPair, column: str) -> Score:
    value, rank = pair.scores.get(column), pair.ranks.get(column)
    exact = "-" if value is None or not math.isfinite(value) else repr(float(value))
    return Score(
        column, number(value), "" if rank is None else _rank(rank), exact, "-" if rank is None else f"{rank:.6g}"
    )


def _rank(rank: float) -> str:
    return "< 0.1 %" if 0 < rank < 0.001 else f"{100 * rank:.1f} %".replace(".0 %", " %")
