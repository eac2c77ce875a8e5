"""A small problem trained once, and what happened when pairs were left out: computed once, kept, found again."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.method import corpora, problems
from bench.method.curvatures import Curvatures
from bench.method.measures import Array
from bench.method.predict import target_gradients, targets
from bench.method.problems import Problem
from bench.method.retrain import Minimum, from_scratch, minimise, without
from bench.method.store import Store

# The pull towards theta_0 with which the heads do best on validation pairs, among 3, 10, 30, 70, 100.
DELTA = {"demo scenes": 30.0, "cifar10n": 70.0}


@dataclass(frozen=True, slots=True)
class Spec:
    """Everything that determines a problem.

    `source` is the material's name; delta = 0 stands for the source's own. `scratch` is `deep` from random weights,
    trained by AdamW for a set time instead of to a minimum: nothing there depends on delta.
    """

    kind: Literal["convex", "heads", "deep", "scratch"] = "heads"
    source: str = ""
    seed: int = 0
    n: int = 384
    batch: int = 64
    delta: float = 0.0
    temperature: float = 1.0
    segmentations: int = 1
    trainable: str = "heads"
    validation: int = 256
    singles: int = 16  # validation pairs whose own loss is a target

    def build(self, source: corpora.Material | None) -> Problem:
        """The problem; `source` is needed for all but convex ones."""
        if self.kind == "convex" or source is None:
            return problems.convex(self.seed, self.n, self.batch, self.delta)
        drawn = corpora.draw(source, self.seed, self.n, self.validation, 256)
        delta = self.delta or DELTA[source.name]
        if self.kind in ("deep", "scratch"):
            known = self.kind == "deep"
            return problems.deep(source, drawn, self.seed, self.trainable, self.batch, delta, pretrained=known)
        return problems.heads(
            source, drawn, self.seed, self.batch, delta, temperature=self.temperature, segmentations=self.segmentations
        )


class Case:
    """A problem at its minimum, with the outcomes of retraining."""

    def __init__(self, spec: Spec, source: corpora.Material | None, work: Path, store: Store) -> None:
        self.spec = spec
        self.store = store
        self.problem = spec.build(source)
        self.minimum = self._train(work)

    @cached_property
    def curvatures(self) -> Curvatures:
        """Solvers at the minimum."""
        return Curvatures(self.problem, self.minimum.theta)

    @cached_property
    def gradients(self) -> Tensor:
        """Of the validation loss and of single pairs' losses, (R, P)."""
        return target_gradients(self.problem, self.minimum.theta, self.spec.singles)

    @cached_property
    def before(self) -> Tensor:
        """The targets at the minimum, (R,)."""
        return targets(self.problem, self.minimum.theta, self.spec.singles)

    def changes(self, removed: Sequence[Sequence[int]]) -> Array:
        """Change of each target when each of the sets of rows is left out and the model retrained, (R, S)."""
        found = [self.outcome(rows)["changes"] for rows in removed]
        return np.array(found, np.float64).reshape(len(found), 1 + self.spec.singles).T

    def outcome(self, rows: Sequence[int]) -> dict[str, Any]:
        """One retraining: changes of the targets, (R,), and the gradient norm reached."""
        key = {"what": "retrained", **asdict(self.spec), "removed": list(rows)}

        def retrain() -> dict[str, Any]:
            found = self._retrain(rows)
            after = targets(self.problem, found.theta, self.spec.singles)
            return {"changes": (after - self.before).tolist(), "gradient_norm": found.gradient_norm}

        return self.store.once(key, retrain)

    @property
    def tolerance(self) -> float:
        """Gradient norm at which training ends; the gradient of one pair is thousands of times larger."""
        return {"convex": 1e-8, "heads": 1e-5}.get(self.spec.kind, 1e-4)

    def left_out(self, count: int) -> list[list[int]]:
        """Single pairs, (count, 1): the first ones, whose order is random already."""
        return [[row] for row in range(min(count, self.problem.n))]

    def subsets(self, count: int, share: float = 0.5) -> list[list[int]]:
        """Random sets of `share` of the pairs, to be removed."""
        generator = torch.Generator().manual_seed(7000 + self.spec.seed)
        size = max(1, round(share * self.problem.n))
        return [sorted(torch.randperm(self.problem.n, generator=generator)[:size].tolist()) for _ in range(count)]

    def _retrain(self, rows: Sequence[int]) -> Minimum:
        if self.spec.kind != "scratch":
            return without(self.problem, self.minimum.theta, torch.tensor(rows), self.tolerance)
        keep_N = torch.ones(self.problem.n, dtype=torch.bool)
        keep_N[list(rows)] = False
        return from_scratch(self.problem, keep_N)

    def _train(self, work: Path) -> Minimum:
        name = hashlib.sha256(json.dumps(asdict(self.spec), sort_keys=True).encode()).hexdigest()[:16]
        file = work / "minima" / f"{name}.safetensors"
        if file.exists():
            kept = load_file(file)
            return Minimum(kept["theta"], float(kept["norm"]), int(kept["steps"]))
        if self.spec.kind == "scratch":
            found = from_scratch(self.problem)
        else:
            found = minimise(self.problem.loss, self.problem.theta_0, self.tolerance)
        file.parent.mkdir(parents=True, exist_ok=True)
        numbers = {"norm": torch.tensor(found.gradient_norm, dtype=torch.float64), "steps": torch.tensor(found.steps)}
        save_file({"theta": found.theta, **numbers}, file.with_suffix(".part"))
        file.with_suffix(".part").rename(file)
        return found


def of_seeds(spec: Spec, source: corpora.Material, arguments: argparse.Namespace, store: Store) -> list[Case]:
    """The same problem for each of the seeds, trained in `arguments.work` or found there."""
    return [Case(replace(spec, seed=seed), source, arguments.work, store) for seed in range(arguments.seeds)]
