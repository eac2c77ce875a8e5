"""How much a single validation pair depends on the training pairs that a prediction names as most valuable to it.

For each of some validation pairs, the k training pairs whose removal is predicted to raise its loss most are removed
and the model is retrained: the better the prediction, the more its loss rises (datamodels, arXiv 2202.00622).
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from bench.method import corpora, measures
from bench.method.cases import Case, Spec, of_seeds
from bench.method.curvatures import Solver
from bench.method.predict import Derivatives, Role
from bench.method.store import Store

SIZES = (8, 32)
PREDICTIONS: dict[str, tuple[Role, Solver] | None] = {
    "both roles, exact, GGN": ("exact", Solver()),
    "both roles, exact, 16 sketches": ("exact", Solver("sketch")),
    "positive only, GGN": ("positive", Solver()),
    "positive only, H = I (TracIn)": ("positive", Solver("identity")),
    "per-row hook, Fisher": ("hook", Solver("fisher")),
    "most similar images": None,
    "random": None,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of the study."""
    parser.add_argument("--targets", type=int, default=6, help="validation pairs for each seed, at most 16")


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    source = corpora.material(arguments.data, arguments.work)
    cases = of_seeds(Spec(source=source.name), source, arguments, Store(arguments.work / "agreement.jsonl"))
    rows = []
    for name in PREDICTIONS:
        cells = []
        for size in SIZES:
            rises = []
            for case in cases:
                named = most_valuable(case, name, max(SIZES), arguments.targets)
                changes = [case.outcome(sorted(rows[:size]))["changes"][1 + t] for t, rows in enumerate(named)]
                rises.append(sum(changes) / len(changes))
            cells.append(measures.mean_and_spread(rises, 3))
        rows.append([name, *cells])
    measures.table(
        f"**brittleness** ({cases[0].problem.name}: mean rise of the loss of one validation pair after removing the k "
        f"pairs named for it out of {cases[0].problem.n}; {arguments.targets} validation pairs for each of "
        f"{len(cases)} seeds)",
        ("named by", *(f"k = {size}" for size in SIZES)),
        rows,
    )


def most_valuable(case: Case, name: str, size: int, count: int) -> list[list[int]]:
    """For each of the first `count` validation pairs the training pairs that it is predicted to miss most."""
    key: dict[str, Any] = {"what": "valuable", **asdict(case.spec), "by": name, "size": size, "count": count}
    key["how"] = asdict(by[1]) if (by := PREDICTIONS[name]) else None
    found: list[list[int]] = case.store.once(key, partial(_most_valuable, case, name, size, count))["rows"]
    return found


def _most_valuable(case: Case, name: str, size: int, count: int) -> dict[str, Any]:
    problem, theta, by = case.problem, case.minimum.theta, PREDICTIONS[name]
    if by is not None:
        w_RP = case.curvatures.directions(by[1], case.gradients[1 : 1 + count])
        scores_RN = Derivatives(problem, theta, w_RP).singles(by[0])
    elif name == "random":
        scores_RN = torch.rand(count, problem.n, generator=torch.Generator().manual_seed(case.spec.seed))
    else:
        rows = problem.validation_batches.flatten()[:count]
        scores_RN = problem.embed(theta, problem.validation)[0][rows] @ problem.embed(theta, problem.train)[0].T
    return {"rows": scores_RN.argsort(1, descending=True)[:, :size].tolist()}
