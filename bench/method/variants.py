"""The ways to predict that are compared: one factor at a time around the reference, and the pipeline's mixtures."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

from bench.method.curvatures import Init, Kind, Solver
from bench.method.predict import Role


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to predict; the defaults are the reference.

    Attributes:
        batch, segmentations: of the batches that pairs are scored in; batch 0 for those of the training.
        whole: the roles of whole sets instead of sums of single influences (single pairs are the same).
    """

    role: Role = "exact"
    solver: Solver = field(default_factory=Solver)
    batch: int = 0
    segmentations: int = 1
    whole: bool = False


RANDOM_OR_PCA: tuple[Init, ...] = ("random", "pca")
ROLE_NAMES: dict[str, Role] = {
    "positive only": "positive",
    "both, first order (ecif)": "ecif",
    "both, exact": "exact",
    "per-row hook": "hook",
}
ROLES = {
    **{name: Variant(role) for name, role in ROLE_NAMES.items()},
    "both, first order, of whole sets": Variant("ecif", whole=True),
    "both, exact, of whole sets": Variant("exact", whole=True),
    "positive only, H = I (TracIn)": Variant("positive", Solver("identity")),
    "per-row hook, Fisher": Variant("hook", Solver("fisher")),
}
CURVATURES = {
    "Hessian": Solver("hessian"),
    "GGN": Solver("ggn"),
    "GGN, by layer": Solver("ggn", layerwise=True),
    "GGN, 4 sketches a batch": Solver("sketch", sketches=4),
    "GGN, 16 sketches": Solver("sketch"),
    "GGN, 64 sketches": Solver("sketch", sketches=64),
    "GGN, 256 sketches": Solver("sketch", sketches=256),
    "GGN, 16 sketches, by layer": Solver("sketch", layerwise=True),
    "Fisher": Solver("fisher"),
    "Fisher, by layer": Solver("fisher", layerwise=True),
    "EK-FAC of Fisher gradients": Solver("ekfac"),
    "EK-FAC of 16 GGN sketches": Solver("ekfac-ggn"),
    "EK-FAC of 64 GGN sketches": Solver("ekfac-ggn", sketches=64),
    "identity": Solver("identity"),
}
MULTIPLES = ("0.001x", "0.01x", "0.1x", "1x", "10x", "100x", "1000x")
DAMPED: dict[str, Kind] = {
    "GGN": "ggn",
    "16 sketches": "sketch",
    "Fisher": "fisher",
    "EK-FAC of Fisher gradients": "ekfac",
    "EK-FAC of 16 sketches": "ekfac-ggn",
}
PROJECTED: tuple[Kind, ...] = ("ggn", "sketch")
PIPELINE: tuple[tuple[int, int, Init], ...] = (
    (16, 16, "random"),
    (16, 32, "random"),
    (16, 16, "pca"),
    (16, 32, "pca"),
    (64, 32, "pca"),
)
HEADS: dict[str, dict[str, Variant]] = {
    "roles": ROLES,
    "curvature": {name: Variant(solver=solver) for name, solver in CURVATURES.items()},
    "damping": {
        f"{name}, {damping}": Variant(solver=Solver(kind, damping=damping))
        for (name, kind), damping in product(DAMPED.items(), MULTIPLES)
        # Conjugate gradients on the exact matrix take thousands of steps below.
        if kind != "ggn" or damping in MULTIPLES[3:]
    },
    "projection": {
        f"{kind}, rank {rank}, {init}": Variant(solver=Solver(kind, rank=rank, init=init))
        for kind, init, rank in product(PROJECTED, RANDOM_OR_PCA, (4, 8, 16, 32, 64))
    },
    "pipeline": {
        f"{sketches} sketches, rank {rank}, {init}, {damping}": Variant(
            solver=Solver("sketch", damping, rank=rank, init=init, sketches=sketches)
        )
        for (sketches, rank, init), damping in product(PIPELINE, ("0.1x", "1x", "10x", "100x"))
    },
}

# The objective of this problem is the mean over 8 segmentations, as a training that draws its batches anew has it.
BATCHES = {
    "the training's own 8 segmentations": Variant(),
    **{f"B = 64, K = {k}": Variant(batch=64, segmentations=k) for k in (1, 2, 4, 8)},
    **{f"B = {batch}, K = 4": Variant(batch=batch, segmentations=4) for batch in (8, 16, 32, 128, 384)},
}

# All parameters of a small model are retrained; w may be confined to some of them.
DEEP_DELTA = 300.0
LAST_BLOCKS = (
    "visual.proj",
    "text_projection",
    "visual.transformer.resblocks.1",
    "transformer.resblocks.1",
    "visual.ln_post",
    "ln_final",
)
SCRATCH = {
    **{
        f"{name}, 16 sketches, {d}": Variant(role, Solver("sketch", d))
        for (name, role), d in product(ROLE_NAMES.items(), ("0.1x", "1x", "10x", "100x", "1000x"))
    },
    **{
        f"both, exact, 16 sketches by layer, {d}": Variant(solver=Solver("sketch", d, layerwise=True))
        for d in ("0.1x", "1x", "10x")
    },
    **{f"both, exact, Fisher, {d}": Variant(solver=Solver("fisher", d)) for d in ("0.1x", "1x", "10x", "100x")},
    **{f"both, exact, EK-FAC, {d}": Variant(solver=Solver("ekfac", d)) for d in ("0.1x", "1x", "10x")},
    **{
        f"both, exact, 16 sketches, LoGra 8 {init}, {d}": Variant(solver=Solver("sketch", d, rank=8, init=init))
        for init, d in product(RANDOM_OR_PCA, ("1x", "10x"))
    },
    "both, exact, identity": Variant(solver=Solver("identity", "1x")),
    "positive only, identity (TracIn)": Variant("positive", Solver("identity", "1x")),
    "last:1, both, exact, 16 sketches, 10x": Variant(solver=Solver("sketch", "10x", only=LAST_BLOCKS)),
    "heads, both, exact, 16 sketches, 10x": Variant(solver=Solver("sketch", "10x", only=LAST_BLOCKS[:2])),
}
PARAMETERS = {
    **{f"all, {name}": Variant(role) for name, role in ROLE_NAMES.items()},
    "last:1, both, exact": Variant(solver=Solver(only=LAST_BLOCKS)),
    "heads, both, exact": Variant(solver=Solver(only=LAST_BLOCKS[:2])),
    "all, Hessian": Variant(solver=Solver("hessian")),
    "all, 16 sketches": Variant(solver=Solver("sketch")),
    "all, 16 sketches, by layer": Variant(solver=Solver("sketch", layerwise=True)),
    "all, Fisher": Variant(solver=Solver("fisher")),
    "all, EK-FAC": Variant(solver=Solver("ekfac")),
    "all, identity": Variant(solver=Solver("identity")),
    **{f"all, 16 sketches, {d}": Variant(solver=Solver("sketch", d)) for d in ("0.1x", "1x", "10x", "100x")},
    **{
        f"all, 16 sketches, LoGra {rank} {init}": Variant(solver=Solver("sketch", rank=rank, init=init))
        for init, rank in product(RANDOM_OR_PCA, (4, 8, 16))
    },
}
