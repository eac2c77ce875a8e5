"""Which score finds the wrong pairs: every detector and variants of influence, on corpora whose mistakes are known.

    python -m bench.method detection --work DIR --data DIR

Scores are kept in DIR/detection.jsonl by set and name; models and features lie beside it. Every set has a half to
explore on and a half to report on (`detection_sets`); variants were chosen by the first, all claims are by the second.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cached_property

import numpy as np

from bench.method.detection_heads import Heads
from bench.method.detection_measures import FRACTIONS, Array, Judge
from bench.method.detection_scores import ALL, Detectors
from bench.method.detection_sets import NAMES, Set, load_set
from bench.method.detection_variants import Variants, cancellation
from bench.method.measures import table
from bench.method.store import Store

REFERENCE = "clip_score"
BEST = "harm, positive role"  # of the variants, on the halves to explore on
VERSION = 1  # of what the kept scores mean


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--sets`."""
    parser.add_argument("--sets", nargs="+", choices=NAMES, help="[default: all with --data, otherwise the demo]")


def run(arguments: argparse.Namespace) -> None:
    """Score, judge, print."""
    store = Store(arguments.work / "detection.jsonl")
    names = arguments.sets or (NAMES if arguments.data else ("demo",))
    studies = [Study(load_set(name, arguments.data, arguments.work), store) for name in names]
    _sets(studies)
    for study in studies:
        _detectors(study)
    for study in studies:
        _kinds(study)
    _why(studies)
    _explored(studies)
    for study in studies:
        _variants(study)


class Study:
    """One set with its scores, computed when they are first asked for and kept."""

    def __init__(self, found: Set, store: Store) -> None:
        self.found = found
        self.store = store
        self.explore = Judge(found.wrong, found.kinds, found.judged & ~found.report)
        self.report = Judge(found.wrong, found.kinds, found.judged & found.report)
        self.heads = Heads(found, found.model)

    @cached_property
    def _detectors(self) -> Detectors:
        return Detectors(self.heads)

    @cached_property
    def _variants(self) -> Variants:
        return Variants(self.heads)

    def detector(self, name: str) -> Array:
        """Badness of all pairs by one of `ecif.detectors`."""
        return self._kept("detector", name, lambda: self._detectors.badness(name))

    def variant(self, name: str) -> Array:
        """Badness of all pairs by one of `detection_variants`."""
        return self._kept("variant", name, lambda: self._variants.badness(name))

    def variants(self) -> tuple[str, ...]:
        """Names; the first is plain influence."""
        return tuple(self._variants.table)

    def cancellation(self) -> float:
        """See `detection_variants.cancellation`."""
        key = {"set": self.found.name, "what": "cancellation", "version": VERSION}
        return float(self.store.once(key, lambda: {"value": cancellation(self.heads)})["value"])

    def _kept(self, what: str, name: str, compute: Callable[[], Array]) -> Array:
        key = {"set": self.found.name, "what": what, "name": name, "version": VERSION}
        # Nine digits are a float32: no order changes that its arithmetic had decided.
        return np.array(self.store.once(key, lambda: {"badness": [float(f"{x:.9g}") for x in compute()]})["badness"])


def _sets(studies: list[Study]) -> None:
    rows = []
    for study in studies:
        found = study.found
        kinds = sorted({str(kind) for kind in found.kinds[found.wrong]})
        wrong = ", ".join(f"{kind} {(found.kinds == kind).sum()}" for kind in kinds)
        halves = f"{len(study.explore.rows)} / {len(study.report.rows)}"
        rows.append([found.name, f"{len(found.uids)}", wrong, halves, f"{len(found.validation_captions)}", found.note])
    table("The sets.", ["set", "pairs", "wrong", "explore / report", "validation pairs", "model"], rows)


def _detectors(study: Study) -> None:
    reference = study.detector(REFERENCE)
    rows = []
    for name in ALL:
        badness = study.detector(name)
        judge = study.report
        cells = [
            f"{judge.auroc(badness):.3f}",
            str(judge.difference(badness, reference)),
            f"{judge.auprc(badness):.3f}",
        ]
        rows.append([f"`{name}`", *cells, *(f"{judge.precision(badness, fraction):.2f}" for fraction in FRACTIONS)])
    rows.append(["at random", "0.500", "", *[f"{study.report.wrong.mean():.2f}"] * 4])
    head = ["score", "AUROC", f"less that of {REFERENCE}", "AUPRC", *(f"precision at {f:.0%}" for f in FRACTIONS)]
    table(f"{study.found.name}, half to report on ({len(study.report.rows)} pairs). * sure at 95 %.", head, rows)


def _kinds(study: Study) -> None:
    kinds = sorted({str(kind) for kind in study.report.kinds[study.report.wrong]})
    if len(kinds) > 1:
        rows = [[f"`{n}`", *(f"{study.report.auroc(study.detector(n), kind):.3f}" for kind in kinds)] for n in ALL]
        rows.append([BEST, *(f"{study.report.auroc(study.variant(BEST), kind):.3f}" for kind in kinds)])
        table(f"{study.found.name}, half to report on: AUROC by kind of mistake.", ["score", *kinds], rows)


def _why(studies: list[Study]) -> None:
    rows = []
    for study in studies:
        numbers = (study.detector(name) for name in ("influence", "harm", "self_influence", REFERENCE))
        areas = [f"{study.report.auroc(badness):.3f}" for badness in numbers]
        rows.append([study.found.name, f"{study.cancellation():.2f}", *areas])
    head = ["set", "left after adding", "influence", "harm", "self-influence", REFERENCE]
    title = (
        "How far influences on single validation pairs cancel: median of the size of their mean over their mean size."
    )
    table(title, head, rows)


def _explored(studies: list[Study]) -> None:
    names = dict.fromkeys(name for study in studies for name in study.variants())
    rows = []
    for name in names:
        areas = [f"{s.explore.auroc(s.variant(name)):.3f}" if name in s.variants() else "-" for s in studies]
        rows.append([name, *areas])
    rows.append([f"`{REFERENCE}`", *(f"{study.explore.auroc(study.detector(REFERENCE)):.3f}" for study in studies)])
    head = ["variant of influence", *(study.found.name for study in studies)]
    table("Variants of influence, AUROC, halves to explore on.", head, rows)


def _variants(study: Study) -> None:
    plain, reference = study.variant(study.variants()[0]), study.detector(REFERENCE)
    rows = []
    for name in study.variants():
        badness = study.variant(name)
        differences = [str(study.report.difference(badness, other)) for other in (plain, reference)]
        precisions = [f"{study.report.precision(badness, fraction):.2f}" for fraction in FRACTIONS]
        rows.append([name, f"{study.report.auroc(badness):.3f}", *differences, *precisions])
    head = ["variant of influence", "AUROC", "less plain influence", f"less {REFERENCE}"]
    head += [f"precision at {fraction:.0%}" for fraction in FRACTIONS]
    table(f"{study.found.name}, half to report on: variants of influence. * sure at 95 %.", head, rows)
