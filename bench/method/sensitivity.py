"""What the agreement with retraining depends on besides the method: temperature, damping, the validation set.

And whether the two roles superpose, as influence takes for granted: the model is retrained with a pair's own loss taken
out but the pair left as a negative of others, with it taken out as a negative only, and with both.
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
from bench.method.cases import Case, Spec, of_seeds
from bench.method.curvatures import Solver
from bench.method.predict import Derivatives, target_gradients
from bench.method.problems import FAR, Pairs, Problem, cut
from bench.method.retrain import minimise
from bench.method.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of the study."""
    parser.add_argument("--singles", type=int, default=64, help="pairs left out, one at a time, for each seed")
    parser.add_argument("--few", type=int, default=16, help="the same for temperatures and for the two roles apart")


def run(arguments: argparse.Namespace) -> None:
    """Print the tables."""
    source = corpora.material(arguments.data, arguments.work)
    # Retraining without single pairs is shared with the part `agreement`.
    store = Store(arguments.work / "agreement.jsonl")
    spec = Spec(source=source.name)
    cases = of_seeds(spec, source, arguments, store)
    roles(cases, arguments.few)
    validation(cases, arguments.singles)
    damping(cases)
    factors = (0.5, 1.0, 2.0, 4.0)
    temperature({f: of_seeds(replace(spec, temperature=f), source, arguments, store) for f in factors}, arguments.few)


def temperature(studies: dict[float, Sequence[Case]], count: int) -> None:
    """Agreement for factors on the model's temperature."""
    rows = []
    for factor, cases in studies.items():
        agreement = []
        for case in cases:
            predicted = singles(case, case.problem)[:count]
            actual = case.changes(case.left_out(count))[0]
            agreement.append((float(measures.spearman(predicted, actual)), measures.slope(predicted, actual)))
        scale = float(cases[0].problem.embed(cases[0].minimum.theta, cases[0].problem.validation)[2])
        cells = [measures.mean_and_spread([pair[i] for pair in agreement]) for i in range(2)]
        rows.append([f"{factor:g}", f"{scale:.1f}", *cells])
    measures.table(
        f"**temperature** ({count} pairs left out for each seed; GGN, both roles, exact)",
        ("temperature / the model's", "logit scale", "Spearman", "slope"),
        rows,
    )


def damping(cases: Sequence[Case]) -> None:
    """How far the ranking of all pairs moves with the damping of the solver."""
    rows = []
    for factor in (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1000.0):
        found = []
        for case in cases:
            curvatures = case.curvatures
            w_RP = curvatures.directions(Solver("sketch"), case.gradients[:1])
            rows_MP = curvatures.rows("sketch")
            multiple = factor * case.problem.delta / (float(rows_MP.square().sum()) / rows_MP.shape[1])
            other = curvatures.directions(Solver("sketch", f"{multiple!r}x"), case.gradients[:1])
            a, b = (Derivatives(case.problem, case.minimum.theta, w).singles("exact")[0].numpy() for w in (w_RP, other))
            found.append(float(measures.spearman(a, b)))
        rows.append([f"{factor:g}", measures.mean_and_spread(found, 3)])
    measures.table(
        "**damping** (16 sketches a batch, all pairs)",
        ("damping / the problem's delta", "Spearman with the scores at the problem's delta"),
        rows,
    )


def validation(cases: Sequence[Case], count: int) -> None:
    """Scores for validation pairs other than those that the outcome is measured on: how many, and how many wrong."""
    settings = [(size, 0.0) for size in (16, 32, 64, 128, 256)] + [(256, share) for share in (0.1, 0.2, 0.4, 0.8)]
    rows = []
    for size, noise in settings:
        found = []
        for case in cases:
            other = with_validation(case, size, noise)
            found.append(float(measures.spearman(singles(case, other)[:count], case.changes(case.left_out(count))[0])))
        rows.append([str(size), f"{noise:.0%}", measures.mean_and_spread(found)])
    own = [
        float(measures.spearman(singles(case, case.problem)[:count], case.changes(case.left_out(count))[0]))
        for case in cases
    ]
    rows.append([f"{len(cases[0].problem.validation)}, those of the outcome", "0%", measures.mean_and_spread(own)])
    measures.table(
        f"**validation set** ({cases[0].problem.name}; {count} pairs left out; the outcome is the loss on "
        f"{len(cases[0].problem.validation)} pairs, scores come from others, with captions exchanged among a share)",
        ("pairs", "of them wrong", "Spearman with the outcome"),
        rows,
    )


def with_validation(case: Case, size: int, noise: float) -> Problem:
    """The problem with test pairs for validation, the texts of a share of them passed on in a ring."""
    problem = case.problem
    if problem.test is None:
        raise ValueError(f"{problem.name} has no test pairs")
    moved = torch.arange(size)
    wrong = round(noise * size)
    moved[:wrong] = moved[:wrong].roll(1)
    pairs = Pairs(
        tuple(part[:size] for part in problem.test.image), tuple(part[:size][moved] for part in problem.test.text)
    )
    batches = cut(size, min(size, problem.validation_batches.shape[1]), 5000 + case.spec.seed)
    return replace(problem, validation=pairs, validation_batches=batches)


def singles(case: Case, problem: Problem) -> measures.Array:
    """Predicted changes of the validation loss of `problem` for all pairs, (N,): GGN, both roles, exact."""
    theta = case.minimum.theta
    w_RP = case.curvatures.directions(Solver(), target_gradients(problem, theta, 0))
    return Derivatives(problem, theta, w_RP).singles("exact")[0].numpy()


def roles(cases: Sequence[Case], count: int) -> None:
    """Retraining without one role, without the other, and without both."""
    rows = []
    for share, sets in ((0.0, count), (0.05, count // 4), (0.1, count // 4)):
        found = [
            case.store.once({"what": "roles", **asdict(case.spec), "share": share, "sets": sets},
                            partial(_roles, case, case.subsets(sets, share) if share else case.left_out(sets)))
            for case in cases
        ]  # fmt: skip
        both, own, other = ([np.array(one[name]) for one in found] for name in ("both", "positive", "negative"))
        error = [_size(a + b - c) / _size(c) for a, b, c in zip(own, other, both, strict=True)]
        neglected = [_size(a - c) / _size(c) for a, c in zip(own, both, strict=True)]
        slopes = [
            [measures.slope(np.array(one[f"predicted {name}"]), np.array(one[name])) for one in found]
            for name in ("positive", "negative", "both")
        ]
        size = len(cases[0].subsets(1, share)[0])
        rows.append(
            [str(size), measures.mean_and_spread(error, 3),
             measures.mean_and_spread(neglected, 3), *map(measures.mean_and_spread, slopes)]
        )  # fmt: skip
    measures.table(
        f"**superposition of the roles** ({cases[0].problem.name}; a, b, c: changes of the validation loss by "
        "retraining without the positive role, without the negative role, without both; sizes are root mean squares)",
        (
            "pairs removed",
            "size of a + b - c / size of c",
            "size of a - c / size of c",
            "slope of the prediction on a",
            "on b",
            "on c",
        ),
        rows,
    )


def _size(changes: measures.Array) -> float:
    return float(np.sqrt((changes**2).mean()))


def _roles(case: Case, removed: Sequence[Sequence[int]]) -> dict[str, Any]:
    problem, theta = case.problem, case.minimum.theta
    before = float(problem.validation_losses(theta).mean())
    derivatives = Derivatives(problem, theta, case.curvatures.directions(Solver(), case.gradients[:1]))
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for rows in removed:
        members_N = torch.zeros(problem.n, dtype=torch.bool)
        members_N[list(rows)] = True
        for name, parts in (("positive", (True, False)), ("negative", (False, True)), ("both", (True, True))):
            loss = partial(loss_without, problem, members_N, positive=parts[0], negative=parts[1])
            after = minimise(loss, theta, case.tolerance).theta
            note(name, float(problem.validation_losses(after).mean()) - before)
        own, both = (float(derivatives.of_set(members_N, role)[0]) for role in ("positive", "exact"))
        note("predicted positive", own)
        note("predicted negative", both - own)
        note("predicted both", both)
    return found


def loss_without(problem: Problem, members_N: Tensor, theta: Tensor, *, positive: bool, negative: bool) -> Tensor:
    """L(theta) without the members' own terms (`positive`), without them as others' negatives (`negative`), or both."""
    s_CBB = problem.logits(theta, problem.train, problem.batches)
    member_CB = members_N[problem.batches]
    hidden_CBB = ~member_CB.unsqueeze(2) & member_CB.unsqueeze(1)  # from the row of another
    if not negative:
        hidden_CBB = torch.zeros_like(hidden_CBB)
    rows_CB = s_CBB.masked_fill(hidden_CBB, FAR).logsumexp(2)
    columns_CB = s_CBB.masked_fill(hidden_CBB.mT, FAR).logsumexp(1)
    terms_CB = rows_CB + columns_CB - 2 * s_CBB.diagonal(dim1=1, dim2=2)
    kept_CB = ~member_CB if positive else torch.ones_like(member_CB)
    pull = problem.delta / 2 * (theta - problem.theta_0).square().sum()
    return (terms_CB * kept_CB).sum() / problem.segmentations + pull
