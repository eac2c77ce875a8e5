"""How wrong predictions and edits are, and what the error depends on.

Sets of growing size leave a convex problem and the heads of a model; the edited parameters theta + H^-1 grad(Pos + Neg)
and the predicted change of the validation loss are held against retraining. H is the GGN matrix of all data, the
Hessian of all data, or the Hessian of what is left: with the last one the edit is a Newton step of the new problem.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.method import corpora, measures
from bench.method.cases import DELTA, Case, Spec, of_seeds
from bench.method.curvatures import Solver, conjugate_gradients
from bench.method.predict import target_gradients
from bench.method.retrain import without
from bench.method.store import Store
from ecif import editing
from ecif.towers import differentiable_attention

SHARES = (0.0, 0.01, 0.02, 0.05, 0.1)  # of all pairs; 0 stands for a single pair
MATRICES = {"ggn": "GGN", "hessian": "Hessian", "retained": "Hessian of what is left"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of the study."""
    parser.add_argument("--sets", type=int, default=4, help="random sets of each size, for each seed")
    parser.add_argument("--singles", type=int, default=36, help="pairs left out, one at a time, for each seed")


def run(arguments: argparse.Namespace) -> None:
    """Print the tables."""
    source = corpora.material(arguments.data, arguments.work)
    store = Store(arguments.work / "errors.jsonl")
    convex = Spec("convex", n=96, batch=32, delta=20.0, validation=64, singles=0)
    on_heads = Spec(source=source.name, singles=0)
    for spec in (convex, on_heads):
        cases = of_seeds(spec, source, arguments, store)
        by_size(cases, arguments.sets)
        by_property(cases, arguments.singles)
    smaller = max(4, arguments.singles // 4)
    specs = [replace(convex, delta=delta) for delta in (1.0, 5.0, 20.0, 80.0)]
    specs += [replace(on_heads, delta=factor * DELTA[source.name]) for factor in (0.7, 1.0, 2.0, 4.0)]
    by_eigenvalue([of_seeds(spec, source, arguments, store) for spec in specs], smaller)


def by_size(cases: Sequence[Case], count: int) -> None:
    """One row for each size of the set."""
    rows = []
    # Small shares of a small problem may be the same number of pairs.
    shares = {len(cases[0].subsets(1, share)[0]): share for share in SHARES}
    for pairs, share in shares.items():
        found = [compare(case, case.subsets(count, share)) for case in cases]
        for matrix, title in MATRICES.items():
            cells = [_median(found, f"{what} {matrix}") for what in ("parameters", "cosine")]
            cells += [_relative(found, f"{what} {matrix}") for what in ("linear", "evaluated")]
            rows.append([str(pairs), title, *cells])
    measures.table(
        f"**error against the size of the set** ({cases[0].problem.name}, delta {cases[0].problem.delta:g}, {count} "
        f"random sets for each of {len(cases)} seeds; relative errors, medians over the sets for the parameters and "
        "root mean squares for the loss)",
        ("pairs", "H", "parameter change", "cosine", "predicted change of the loss",
         "loss of the edited model"),
        rows,
    )  # fmt: skip


def by_property(cases: Sequence[Case], count: int) -> None:
    """Which pairs are predicted badly: errors of single pairs by thirds of what might explain them."""
    found = [compare(case, case.left_out(count), ("ggn",)) for case in cases]
    rows = []
    for name, title in (
        ("gradient", "norm of the gradient of both roles"),
        ("leverage", "self-influence d H^-1 d"),
        ("probability", "largest probability as another pair's negative"),
    ):
        correlations, thirds = [], []
        for one in found:
            x, y = (np.array([pair[what] for pair in one]) for what in (name, "parameters ggn"))
            correlations.append(float(measures.spearman(x, y)))
            thirds.append([float(part.mean()) for part in np.array_split(y[np.argsort(x)], 3)])
        means = [measures.mean_and_spread([third[i] for third in thirds], 3) for i in range(3)]
        rows.append([title, *means, measures.mean_and_spread(correlations)])
    measures.table(
        f"**error of single pairs** ({cases[0].problem.name}; {count} pairs for each of {len(cases)} seeds; relative "
        "error of the parameter change, GGN of all data)",
        ("property", "lowest third", "middle third", "highest third", "Spearman with the error"),
        rows,
    )


def by_eigenvalue(studies: Sequence[Sequence[Case]], count: int) -> None:
    """The pull towards theta_0 bounds the smallest eigenvalue: errors of single pairs for several of them."""
    rows = []
    for cases in studies:
        found = [compare(case, case.left_out(count), ("ggn", "hessian")) for case in cases]
        smallest = [
            case.store.once({"what": "eigenvalue", **asdict(case.spec)}, partial(_smallest, case)) for case in cases
        ]
        rows.append(
            [
                cases[0].problem.name,
                f"{cases[0].problem.delta:g}",
                measures.mean_and_spread([one["value"] for one in smallest], 1),
                *(_median(found, f"parameters {matrix}") for matrix in ("ggn", "hessian")),
                *(_relative(found, f"linear {matrix}") for matrix in ("ggn", "hessian")),
            ]
        )
    measures.table(
        f"**error against the smallest eigenvalue** ({count} pairs left out one at a time for each seed; relative "
        "errors as above)",
        ("problem", "delta", "smallest eigenvalue of the Hessian", "parameters, GGN", "parameters, Hessian",
         "loss, GGN", "loss, Hessian"),
        rows,
    )  # fmt: skip


def compare(
    case: Case, removed: Sequence[Sequence[int]], matrices: Sequence[str] = tuple(MATRICES)
) -> list[dict[str, float]]:
    """Relative errors of the parameters, predicted changes of the loss, and what might explain them, for each set."""
    key = {"what": "errors", **asdict(case.spec), "removed": [list(rows) for rows in removed], "H": list(matrices)}
    found: list[dict[str, float]] = case.store.once(key, partial(_compare, case, removed, matrices))["sets"]
    return found


def _compare(case: Case, removed: Sequence[Sequence[int]], matrices: Sequence[str]) -> dict[str, Any]:
    problem, theta = case.problem, case.minimum.theta
    (g_P,) = target_gradients(problem, theta, 0)
    d_SP = torch.stack([role_gradient(case, rows) for rows in removed])
    steps = {m: case.curvatures.directions(Solver(m), d_SP) for m in matrices if m in ("ggn", "hessian")}  # type: ignore[arg-type]
    before = float(problem.validation_losses(theta).mean())
    found = []
    for s, rows in enumerate(removed):
        keep_N = torch.ones(problem.n, dtype=torch.bool)
        keep_N[list(rows)] = False
        actual_P = without(problem, theta, torch.tensor(rows), case.tolerance).theta - theta
        change = float(problem.validation_losses(theta + actual_P).mean()) - before
        one = {
            "gradient": float(d_SP[s].norm()),
            "leverage": float(d_SP[s] @ steps["ggn"][s]),
            "probability": _largest(case, rows[0]),
            "change": change,
        }
        for matrix in matrices:
            step_P = steps[matrix][s] if matrix in steps else _newton(case, keep_N, d_SP[s])
            edited = float(problem.validation_losses(theta + step_P).mean()) - before
            one[f"parameters {matrix}"] = float((step_P - actual_P).norm() / actual_P.norm())
            one[f"cosine {matrix}"] = float(torch.cosine_similarity(step_P, actual_P, dim=0))
            one[f"linear {matrix}"] = float(g_P @ step_P)
            one[f"evaluated {matrix}"] = edited
        found.append(one)
    return {"sets": found}


def role_gradient(case: Case, rows: Sequence[int]) -> Tensor:
    """Gradient of Pos(D) + NegX(D) over all batches, (P,)."""
    problem = case.problem
    members_N = torch.zeros(problem.n, dtype=torch.bool)
    members_N[list(rows)] = True
    value = case.minimum.theta.clone().requires_grad_()
    with differentiable_attention():
        s_CBB = problem.logits(value, problem.train, problem.batches)
        terms = [
            editing.set_role(s_BB, members_N[batch], "exact")
            for s_BB, batch in zip(s_CBB, problem.batches, strict=True)
            if members_N[batch].any()
        ]
        (gradient,) = torch.autograd.grad(torch.stack(terms).sum() / problem.segmentations, value)
    return gradient


def _newton(case: Case, keep_N: Tensor, d_P: Tensor) -> Tensor:
    delta = case.problem.delta
    return conjugate_gradients(lambda x: case.curvatures.hessian(x, keep_N) + delta * x, d_P.unsqueeze(0))[0]


def _largest(case: Case, row: int) -> float:
    """Largest probability that other pairs give to this one, in any batch."""
    problem, worst = case.problem, 0.0
    s_CBB = problem.logits(case.minimum.theta, problem.train, problem.batches)
    for s_BB, batch in zip(s_CBB, problem.batches, strict=True):
        for place in (batch == row).nonzero()[:, 0].tolist():
            others = torch.arange(len(batch)) != place
            p, q = torch.softmax(s_BB, 1)[others, place], torch.softmax(s_BB, 0)[place, others]
            worst = max(worst, float(p.max()), float(q.max()))
    return worst


def _smallest(case: Case, steps: int = 80) -> dict[str, float]:
    """Smallest eigenvalue of the Hessian with its damping, by Lanczos with full orthogonalisation."""
    generator = torch.Generator().manual_seed(0)
    size = len(case.minimum.theta)
    basis = torch.nn.functional.normalize(torch.randn(1, size, generator=generator, dtype=torch.float64))
    images: list[Tensor] = []
    for _ in range(min(steps, size)):
        images.append(case.curvatures.hessian(basis[-1:])[0])
        rest = images[-1] - basis.T @ (basis @ images[-1])
        rest = rest - basis.T @ (basis @ rest)
        if float(rest.norm()) < 1e-9 * float(images[-1].norm()) or len(basis) == size:
            break
        basis = torch.cat([basis, (rest / rest.norm()).unsqueeze(0)])
    inner = basis[: len(images)] @ torch.stack(images).T
    return {"value": float(torch.linalg.eigvalsh((inner + inner.T) / 2)[0]) + case.problem.delta}


def _relative(found: Sequence[Sequence[dict[str, float]]], what: str) -> str:
    """Root mean square of the error of a predicted change, in units of that of the changes."""
    values = []
    for sets in found:
        change, predicted = (np.array([one[name] for one in sets]) for name in ("change", what))
        values.append(float(np.sqrt(((predicted - change) ** 2).mean() / (change**2).mean())))
    return measures.mean_and_spread(values, 3)


def _median(found: Sequence[Sequence[dict[str, float]]], what: str) -> str:
    return measures.mean_and_spread([float(np.median([one[what] for one in sets])) for sets in found], 3)
