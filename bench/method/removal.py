"""Train, score, remove, train again: what a score is worth to the model that is trained next.

From random weights, a model is trained on the whole corpus; it scores its pairs; a fraction is removed, worst first;
a new model is trained on the rest from the same seed with the same recipe, and judged on held-out right pairs. Random
removal of as many pairs is the yardstick, since less data alone changes a model. Also: the most valuable pairs removed;
all truly wrong ones removed (`oracle`, which the truth alone can do); and edited weights instead of a new training, the
pattern of Table 1 of arXiv 2411.11667.

Every training and every set of scores is kept; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.method import removal_corpora, removal_scores
from bench.method.removal_corpora import Corpus
from bench.method.removal_tables import ALL, EDITED, ORACLE, RANDOM, SHARE, VALUABLE, Cell, paper, tables
from bench.method.store import Store
from ecif.demo.evaluation import auroc

DETECTORS = ("influence", "clip_score", "tracin", "if_ekfac", "trak")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of the study."""
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.1, 0.2, 0.3])
    own = f"a score column, {', '.join(removal_scores.VARIANTS)}"
    parser.add_argument("--detectors", nargs="+", default=list(DETECTORS), metavar="NAME", help=own)
    parser.add_argument("--option", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="a setting of the pipeline, such as: equal_captions compete")  # fmt: skip
    parser.add_argument("--epochs", type=int, help="of every training; left out: the corpus's own number")


def run(arguments: argparse.Namespace) -> None:
    """Print the tables."""
    corpus = removal_corpora.prepare(arguments.data, arguments.work, arguments.epochs)
    # The most valuable pairs, and the edits, are influence's in any case.
    detectors = tuple(dict.fromkeys(("influence", *arguments.detectors)))
    study = Study(corpus, arguments.work / corpus.name, detectors, dict(arguments.option))
    trained: dict[tuple[int, str, float], Cell] = {}
    edits: dict[tuple[int, str], tuple[Cell, dict[str, Any]]] = {}
    areas: list[dict[str, float]] = []
    for seed in range(arguments.seeds):
        scores = study.scores(seed)
        areas.append({name: auroc(corpus.wrong, values) or float("nan") for name, values in scores.items()})
        wanted = [(ALL, 0.0), (ORACLE, 1.0)]
        order = [RANDOM, VALUABLE, *detectors]
        wanted += [(what, fraction) for fraction in arguments.fractions for what in order]
        for what, fraction in wanted:
            trained[seed, what, fraction] = cell = study.retrained(seed, what, fraction, scores)
            print(f"<!-- seed {seed} {what} {fraction}: {cell.accuracy:.4f} {cell.loss:.4f} -->", flush=True)
        for what in EDITED:
            cell, outcome = study.edited(seed, what, scores)
            edits[seed, what] = cell, outcome | study.changes(seed, what, scores)
    n, wrong = len(corpus.wrong), int(corpus.wrong.sum())
    print(
        f"{corpus.name}: {n:,} pairs, {wrong} wrong; {corpus.recipe.epochs} epochs, batch {corpus.recipe.batch}; "
        f"judged on {len(corpus.test.right)} images among {len(corpus.test.captions)} captions; "
        f"{arguments.seeds} seeds; mean ± standard error over the seeds\n"
    )
    for table in tables(trained, areas, arguments.fractions):
        print(table, flush=True)
    print(paper(trained, edits))


class Study:
    """All models of one corpus."""

    def __init__(self, corpus: Corpus, work: Path, detectors: Sequence[str], options: Mapping[str, str]) -> None:
        self.corpus, self.work, self.detectors, self.options = corpus, work, detectors, options
        self.method = removal_scores.method(options)
        self.store = Store(work / "cells.jsonl")

    def scores(self, seed: int) -> dict[str, np.ndarray]:
        """Badness of all pairs, by detector, under the model of this seed that was trained on all of them."""
        files = {name: self._folder(seed) / f"{name}{self._of(name)}.npy" for name in self.detectors}
        if missing := [name for name, file in files.items() if not file.exists()]:
            where = self._weights(seed), self._folder(seed)
            found = removal_scores.badness(self.corpus, *where, missing, self.options)
            for name, values in found.items():
                part = files[name].with_suffix(".part.npy")
                np.save(part, values)
                part.rename(files[name])
        return {name: np.load(file) for name, file in files.items()}

    def retrained(self, seed: int, what: str, fraction: float, scores: Mapping[str, np.ndarray]) -> Cell:
        """A model trained without what `what` removes."""
        if what == ALL:
            return self._whole(seed)
        rows = chosen(what, fraction, scores, self.corpus.wrong, seed)

        def compute() -> dict[str, Any]:
            kept = what in EDITED and fraction == SHARE
            weights = self._again(seed, what) if kept else self._folder(seed) / "retrained.safetensors"
            return self._cell(weights, rows, self._train_without(rows, seed, weights))

        return Cell(**self.store.once(self._key(seed, what, fraction), compute))

    def changes(self, seed: int, what: str, scores: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Change of the contrastive loss of the test pairs by an edit, and by a new training without the same pairs.

        It is what influence predicts, but for other pairs than those that it was computed with.
        """
        rows = chosen(what, SHARE, scores, self.corpus.wrong, seed)

        def compute() -> dict[str, Any]:
            again = self._again(seed, what)
            if not again.exists():
                self._train_without(rows, seed, again)
            files = {"before": self._weights(seed), "edit": self._edited_weights(seed, what), "again": again}
            masked = removal_scores.masked(self.options)
            losses = {name: self.corpus.contrastive_loss(file, masked=masked) for name, file in files.items()}
            return {f"test_{name}": losses[name] - losses["before"] for name in ("edit", "again")}

        return self.store.once(self._key(seed, f"changes {what}", SHARE), compute)

    def edited(self, seed: int, what: str, scores: Mapping[str, np.ndarray]) -> tuple[Cell, dict[str, Any]]:
        """The model trained on everything, edited; and the outcome of the edit."""
        rows = chosen(what, SHARE, scores, self.corpus.wrong, seed)

        def compute() -> dict[str, Any]:
            folder = self._folder(seed)
            removal_scores.scored(self.corpus, self._weights(seed), folder, self.options)
            target = self._edited_weights(seed, what)
            target.unlink(missing_ok=True)
            started = time.perf_counter()
            outcome = removal_scores.edited(self.corpus, self._weights(seed), folder, self.options, rows, target)
            cell = self._cell(target, rows, time.perf_counter() - started)
            return {"cell": cell, "outcome": {**asdict(outcome), "actual": outcome.actual}}

        found = self.store.once(self._key(seed, f"edited {what}", SHARE), compute)
        return Cell(**found["cell"]), found["outcome"]

    def _whole(self, seed: int) -> Cell:
        def compute() -> dict[str, Any]:
            weights = self._folder(seed) / "whole.safetensors"
            seconds = self.corpus.train(np.arange(len(self.corpus.wrong)), seed, weights)
            return self._cell(weights, np.arange(0), seconds)

        return Cell(**self.store.once(self._key(seed, ALL, 0.0), compute))

    def _weights(self, seed: int) -> Path:
        self._whole(seed)
        return self._folder(seed) / "whole.safetensors"

    def _edited_weights(self, seed: int, what: str) -> Path:
        return self._folder(seed) / f"edited-{what.replace(' ', '-')}-{self.method}.safetensors"

    def _again(self, seed: int, what: str) -> Path:
        return self._folder(seed) / f"again-{what.replace(' ', '-')}{self._of(what)}.safetensors"

    def _of(self, what: str) -> str:
        """The settings of the pipeline, in the name of what depends on them."""
        return f"-{self.method}" if "influence" in what or what == VALUABLE else ""

    def _train_without(self, rows: np.ndarray, seed: int, weights: Path) -> float:
        return self.corpus.train(np.setdiff1d(np.arange(len(self.corpus.wrong)), rows), seed, weights)

    def _cell(self, weights: Path, rows: np.ndarray, seconds: float) -> dict[str, Any]:
        verdict = self.corpus.judge(weights)
        return asdict(Cell(verdict.accuracy, verdict.loss, len(rows), int(self.corpus.wrong[rows].sum()), seconds))

    def _folder(self, seed: int) -> Path:
        folder = self.work / f"epochs-{self.corpus.recipe.epochs}" / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _key(self, seed: int, what: str, fraction: float) -> dict[str, Any]:
        key = {"corpus": self.corpus.name, "recipe": asdict(self.corpus.recipe), "seed": seed, "what": what}
        edit = what.startswith(("edited", "changes"))
        return key | {"fraction": fraction} | ({"method": self.method} if edit or self._of(what) else {})


def chosen(what: str, fraction: float, scores: Mapping[str, np.ndarray], wrong: np.ndarray, seed: int) -> np.ndarray:
    """Rows to remove: floor(fraction N) of them, worst first, equal scores in the order of the corpus.

    `most valuable` is the other end of influence; `random` draws; `oracle` takes the wrong ones, however many.
    """
    if what == ORACLE:
        return np.flatnonzero(wrong)
    count = int(fraction * len(wrong) + 1e-9)
    if what == RANDOM:
        # A larger fraction contains the smaller one, as with every score.
        return np.sort(np.random.default_rng(seed).permutation(len(wrong))[:count])
    values = -scores["influence"] if what == VALUABLE else scores[what]
    return np.sort(np.argsort(-values, kind="stable")[:count])
