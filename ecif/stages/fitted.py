"""A finished fit as files: factor, direction, facts; and what later stages do with them.

Every file says what it was made for. A factor of other weights, other parameters or another layout of these files is
refused: numbers from it would be wrong without a sign of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ecif import curvature
from ecif.curvature import Curvature
from ecif.errors import ModelError, UsageError
from ecif.keys import digest
from ecif.logra import Projection
from ecif.run import Run
from ecif.stages import sums
from ecif.stages.basis import load_projection, shapes
from ecif.stages.engine import Engine

# Of the files of a fit. Raised when their meaning changes.
VERSION = 1


@dataclass(frozen=True, slots=True)
class Fit:
    """What a finished fit left behind.

    Attributes:
        curvature: H in the projected space, float64. projection: of the same parameters, float64.
        facts: meta.json. complement: whether directions keep what lies outside the projection.
    """

    curvature: Curvature
    projection: Projection
    facts: dict[str, Any]
    complement: bool

    def solve(self, gradient: dict[str, Tensor]) -> dict[str, Tensor]:
        """H^-1 g by parameter name, float64."""
        return solve(self.curvature, self.projection, gradient, keep_complement=self.complement)


def is_done(run: Run) -> bool:
    """Whether the direction exists; its meta.json is written last."""
    return run.storage.exists(run.layout.fit_meta(run.fit_key))


def made_for(engine: Engine) -> dict[str, Any]:
    """What a factor is bound to: the weights, and the parameters that the influence lives in."""
    parameters = digest({name: list(shape) for name, shape in shapes(engine).items()})
    return {"version": VERSION, "model": engine.towers.loaded.fingerprint, "parameters": parameters}


def check(found: dict[str, Any], engine: Engine, url: str) -> None:
    """Hold what a file says it was made for against the model.

    Raises:
        ModelError: they differ.
    """
    for name, mine in made_for(engine).items():
        if found.get(name) != mine:
            what = {"model": "other weights", "parameters": "other parameters"}.get(name, "another version of ECIF")
            raise ModelError(f"{url}: was fitted for {what}; use a new --out")


def solve(
    factor: Curvature, project: Projection, gradient: dict[str, Tensor], *, keep_complement: bool
) -> dict[str, Tensor]:
    """w = H^-1 g by parameter name: the lift of the damped solution of the projected system.

    Outside the projection the curvature is not known; its part of g is dropped, or divided by delta.
    """
    wide = {name: part.to(torch.float64) for name, part in gradient.items()}
    projected = project.project(wide)
    direction = project.lift(factor.solve(projected))
    if keep_complement:
        inside, delta = project.lift(projected), factor.complement(project)
        direction = {name: part + (wide[name] - inside[name]) / delta[name] for name, part in direction.items()}
    return direction


def load_fit(run: Run, engine: Engine) -> Fit:
    """Read factor, projection and facts of the run's fit, for further directions.

    Raises:
        UsageError: there is no finished fit. ModelError: it was made for another model.
    """
    facts = load_facts(run, engine)
    url = run.layout.factor(run.fit_key)
    data = run.storage.read_bytes(url)
    check(sums.facts(data), engine, url)
    project = load_projection(run, engine, torch.float64)
    tensors = {name: part.to(engine.towers.device) for name, part in load_tensors(data).items()}
    factor = curvature.load_factor(tensors, tuple(project.parts))
    return Fit(factor, project, facts, run.settings.complement == "keep")


def load_facts(run: Run, engine: Engine) -> dict[str, Any]:
    """meta.json of the run's fit, held against the model.

    Raises:
        UsageError: there is no finished fit. ModelError: it was made for another model.
    """
    url = run.layout.fit_meta(run.fit_key)
    if not run.storage.exists(url):
        raise UsageError(f"there is no finished fit for these settings in {run.layout.root}; run `ecif fit` first")
    facts: dict[str, Any] = run.storage.read_json(url)
    check(facts["made_for"], engine, url)
    return facts


def load_by_parameter(url: str, run: Run, engine: Engine) -> dict[str, Tensor]:
    """Direction or gradient of a fit by parameter name, in the arithmetic of the towers.

    Raises:
        ModelError: it was made for another model.
    """
    data = run.storage.read_bytes(url)
    check(sums.facts(data), engine, url)
    tensors, towers = load_tensors(data), engine.towers
    # In the order of the parameters: a safetensors file is read in an order of its own, and jvp compares it.
    return {part: tensors[part].to(towers.device, towers.dtype) for part in towers.parameters}


def pack(tensors: dict[str, Tensor], engine: Engine) -> bytes:
    """Tensors of a fit as a safetensors file that says what it was made for."""
    return save_tensors(
        {name: part.cpu().contiguous() for name, part in tensors.items()},
        {"ecif": json.dumps(made_for(engine), sort_keys=True)},
    )
