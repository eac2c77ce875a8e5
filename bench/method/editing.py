"""Edited against retrained weights: loss and accuracy after a removal, and what both cost.

The edit is one damped solve for the whole set, with set-wise negatives (`ecif.editing`). Retraining starts from
theta_0, as someone without influence would; its time is that of Newton's method to a minimum.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import torch

from bench.method import corpora, measures
from bench.method.cases import Case, Spec, of_seeds
from bench.method.curvatures import Solver
from bench.method.errors import role_gradient
from bench.method.predict import Derivatives
from bench.method.retrain import minimise
from bench.method.store import Store

SHARES = (0.01, 0.05, 0.1)
SETS = ("random", "most harmful", "most valuable")
EDITS = {
    "GGN": Solver(),
    "16 sketches": Solver("sketch"),
    "256 sketches": Solver("sketch", sketches=256),
    "EK-FAC of 16 sketches": Solver("ekfac-ggn"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing but the common options."""


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    source = corpora.material(arguments.data, arguments.work)
    store = Store(arguments.work / "editing.jsonl")
    cases = of_seeds(Spec(source=source.name, singles=0), source, arguments, store)
    rows = []
    for kind in SETS:
        for share in SHARES:
            found = [outcome(case, kind, share) for case in cases]
            for name in ("before", "retrained", *EDITS):
                if name == "before" and (kind, share) != (SETS[0], SHARES[0]):
                    continue
                cells = [
                    measures.mean_and_spread([one[f"{what} {name}"] for one in found], digits)
                    for what, digits in (("loss", 4), ("accuracy", 3), ("seconds", 2))
                ]
                rows.append(["none" if name == "before" else f"{kind}, {share:.0%}", name, *cells])
    p = cases[0].problem
    measures.table(
        f"**editing** ({p.name}: {p.n} pairs, {len(p.theta_0):,} parameters, {len(cases)} seeds; loss of "
        f"{len(p.validation)} validation pairs, accuracy of {len(p.test) if p.test else 0} test images)",
        ("removed", "weights", "validation loss", "accuracy", "seconds"),
        rows,
    )


def outcome(case: Case, kind: str, share: float) -> dict[str, float]:
    """Loss, accuracy and seconds before, retrained, and edited."""
    key = {"what": "editing", **asdict(case.spec), "set": kind, "share": share, "edits": list(EDITS)}
    return case.store.once(key, partial(_outcome, case, kind, share))


def _outcome(case: Case, kind: str, share: float) -> dict[str, float]:
    problem, theta = case.problem, case.minimum.theta
    rows = removed(case, kind, share)
    found: dict[str, float] = {}

    def note(name: str, weights: torch.Tensor, seconds: float) -> None:
        found[f"loss {name}"] = float(problem.validation_losses(weights).mean())
        found[f"accuracy {name}"] = problem.accuracy(weights)
        found[f"seconds {name}"] = seconds

    keep_N = torch.ones(problem.n, dtype=torch.bool)
    keep_N[list(rows)] = False
    started = time.perf_counter()
    retrained = minimise(lambda t: problem.loss(t, keep_N), problem.theta_0, case.tolerance).theta
    note("retrained", retrained, time.perf_counter() - started)
    note("before", theta, 0.0)
    for name, solver in EDITS.items():
        case.curvatures.forget()
        started = time.perf_counter()
        step_P = case.curvatures.directions(solver, role_gradient(case, rows).unsqueeze(0))[0]
        note(name, theta + step_P, time.perf_counter() - started)
    return found


def removed(case: Case, kind: str, share: float) -> Sequence[int]:
    """Rows of a random set, or of those with the lowest or highest influence."""
    if kind == "random":
        return case.subsets(1, share)[0]
    w_RP = case.curvatures.directions(Solver(), case.gradients[:1])
    order = Derivatives(case.problem, case.minimum.theta, w_RP).singles("exact")[0].argsort(descending=kind != SETS[1])
    rows: list[int] = order[: round(share * case.problem.n)].tolist()
    return rows
