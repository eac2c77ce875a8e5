"""Predicted against retrained changes of the validation loss: which variant of influence agrees, in rank and in size.

One factor is varied at a time around the reference (both roles, exact; the exact GGN matrix; the problem's own delta;
no projection; the batches of the training). The pipeline's approximations come on top of that: sketches, projections,
relative damping. Every retraining starts from the minimum and ends in a minimum.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from bench.method import corpora, measures
from bench.method.cases import Case, Spec, of_seeds
from bench.method.curvatures import Curvatures
from bench.method.measures import Array
from bench.method.predict import Derivatives
from bench.method.problems import cut
from bench.method.store import Store
from bench.method.variants import BATCHES, DEEP_DELTA, HEADS, PARAMETERS, SCRATCH, Variant

TABLES = ("roles", "curvature", "damping", "projection", "pipeline", "batches", "parameters", "scratch")
HEAD = ("variant", "Spearman", "slope", "LDS, validation loss [95 %]", "LDS, single pairs [95 %]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of the study."""
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--rows", nargs="+", default=[], help="of these tables only the variants that begin like this")
    parser.add_argument("--singles", type=int, default=64, help="pairs left out, one at a time, for each seed")
    parser.add_argument("--subsets", type=int, default=48, help="random halves retrained for each seed")


def run(arguments: argparse.Namespace) -> None:
    """Print the tables that were asked for."""
    source = corpora.material(arguments.data, arguments.work)
    store = Store(arguments.work / "agreement.jsonl")
    singles, subsets = arguments.singles, arguments.subsets
    on_heads = Spec(source=source.name)
    deep = Spec("deep", source.name, n=96, batch=32, delta=DEEP_DELTA, trainable="all", validation=128)
    scratch = Spec("scratch", source.name, n=128, batch=32, trainable="all", validation=128)
    studies = {
        **{name: (on_heads, variants, singles, subsets) for name, variants in HEADS.items()},
        "batches": (replace(on_heads, segmentations=8), BATCHES, singles // 2, 0),
        "parameters": (deep, PARAMETERS, singles // 4, subsets // 4),
        "scratch": (scratch, SCRATCH, 0, subsets // 2),
    }
    # The long tables are about the validation loss alone: a solve for each single pair would take most of their time.
    alone = {"damping", "projection", "pipeline", "batches"}
    trained: dict[Spec, list[Case]] = {}
    for name in arguments.tables:
        spec, variants, left_out, halves = studies[name]
        if arguments.rows:
            variants = {title: one for title, one in variants.items() if title.startswith(tuple(arguments.rows))}
        if spec not in trained:
            trained[spec] = of_seeds(spec, source, arguments, store)
        table(name, trained[spec], variants, left_out, halves, pairs=name not in alone)


def table(
    name: str, cases: Sequence[Case], variants: dict[str, Variant], singles: int, subsets: int, *, pairs: bool
) -> None:
    """Print one table: a row for each variant, measured on all seeds; with `pairs` also for single validation pairs."""
    actual = [(case.changes(case.left_out(singles)), case.changes(case.subsets(subsets))) for case in cases]
    rows = []
    for title, variant in variants.items():
        predicted = [predict(case, variant, singles, subsets, pairs=pairs) for case in cases]
        rows.append([title, *row(predicted, actual)])
    p = cases[0].problem
    norm = max(case.minimum.gradient_norm for case in cases)
    measures.table(
        f"**{name}** ({p.name}: {p.n} pairs, batches of {p.batches.shape[1]}, {len(p.theta_0):,} parameters, delta "
        f"{p.delta:g}; {singles} pairs left out and {subsets} halves retrained for each of {len(cases)} seeds; the "
        f"gradient's norm at the end of training is at most {norm:.0e})",
        HEAD,
        rows,
    )


def row(predicted: Sequence[dict[str, Any] | None], actual: Sequence[tuple[Array, Array]]) -> list[str]:
    """Spearman and slope of single pairs, and LDS of subsets."""
    if any(one is None for one in predicted):
        return ["not solved", "", "", ""]
    both = [(np.array(one["singles"]), truth[0][0]) for one, truth in zip(predicted, actual, strict=True) if one]
    cells = ["", ""]
    if len(both[0][0]):
        cells = [
            measures.mean_and_spread([float(measures.spearman(p, a)) for p, a in both]),
            measures.mean_and_spread([measures.slope(p, a) for p, a in both]),
        ]
    if not actual[0][1].shape[1]:
        return [*cells, "", ""]
    sets = [(np.array(one["subsets"]), truth[1]) for one, truth in zip(predicted, actual, strict=True) if one]
    loss = measures.bootstrap(measures.lds, [(p[:1], a[:1]) for p, a in sets])
    if len(sets[0][0]) == 1:
        return [*cells, str(loss), ""]
    return [*cells, str(loss), str(measures.bootstrap(measures.lds, [(p[1:], a[1:]) for p, a in sets], 200))]


def predict(case: Case, variant: Variant, singles: int, subsets: int, *, pairs: bool = True) -> dict[str, Any] | None:
    """Predicted changes: of the validation loss by single pairs, (L,), of all targets by subsets, (R, S).

    None where H is not positive definite, or too ill-conditioned to solve with.
    """
    key = {"what": "predicted", **asdict(case.spec), "variant": asdict(variant), "left_out": singles, "halves": subsets}
    key |= {} if pairs else {"targets": 1}
    targets = 1 + case.spec.singles if pairs else 1
    found = case.store.once(key, partial(_predict, case, variant, singles, subsets, targets))
    return found if found["solved"] else None


def _predict(case: Case, variant: Variant, singles: int, subsets: int, targets: int) -> dict[str, Any]:
    problem, curvatures, theta = case.problem, case.curvatures, case.minimum.theta
    if variant.batch:
        segmentation = cut(problem.n, variant.batch, 9000 + case.spec.seed, variant.segmentations)
        problem = replace(problem, batches=segmentation, segmentations=variant.segmentations)
        curvatures = Curvatures(problem, theta)
    try:
        w_RP = curvatures.directions(variant.solver, case.gradients[:targets])
        derivatives = Derivatives(problem, theta, w_RP)
    except ArithmeticError:
        return {"solved": False}
    single_RN = derivatives.singles(variant.role)
    sums = []
    for rows in case.subsets(subsets):
        members = torch.zeros(problem.n, dtype=torch.bool)
        members[rows] = True
        sums.append(derivatives.of_set(members, variant.role) if variant.whole else single_RN[:, members].sum(1))
    listed = [row for (row,) in case.left_out(singles)]
    by_set = torch.stack(sums, 1).tolist() if sums else []
    return {"solved": True, "singles": single_RN[0, listed].tolist(), "subsets": by_set}
