"""What the wanted columns rest on beside the embeddings, and nothing that no column asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ecif import relative
from ecif.errors import UsageError
from ecif.logra import Projection
from ecif.run import Run
from ecif.stages import fitted
from ecif.stages.basis import load_projection
from ecif.stages.embedding import Embedder
from ecif.stages.engine import Engine, load_engine
from ecif.stages.fitted import Fit
from ecif.stages.harm import validation_rows
from ecif.stages.wanted import Wanted
from ecif.towers import Parameters


@dataclass(frozen=True, slots=True)
class Sources:
    """What columns rest on beside the embeddings; loaded once, used for every shard.

    Attributes:
        directions: by name, "influence" first; probes are called "inverse/0", "root/0", "raw/0", ...
        fit: of the run, where gradients or lengths are wanted. projection: the same in the arithmetic of the towers,
            where gradients are. norm: |grad L_val|.
        embedders: further embeddings of each pair: after a step, then of the checkpoints.
        scales: logit scale of each of these. stepped: whether the first of them is the step's.
        validation_VK: single validation pairs (`stages.harm`).
    """

    wanted: Wanted
    directions: dict[str, Parameters]
    fit: Fit | None = None
    projection: Projection | None = None
    norm: float = 0.0
    embedders: tuple[Embedder, ...] = ()
    scales: tuple[float, ...] = ()
    stepped: bool = False
    validation_VK: Tensor | None = None


def load_sources(run: Run, engine: Engine) -> Sources:
    """Read the directions of the fit, and what else the columns of the run need.

    Raises:
        UsageError: a fit that they need is not there, or checkpoints are wanted and none were named.
        ModelError: a direction was made for another model.
    """
    wanted, towers, layout = Wanted.of(run.settings), engine.towers, run.layout
    facts = fitted.load_facts(run, engine)
    directions: dict[str, Parameters] = {
        "influence": fitted.load_by_parameter(layout.direction(run.fit_key), run, engine)
    }
    if "direction:gradient" in wanted.needs:
        directions["gradient"] = fitted.load_by_parameter(layout.gradient(run.fit_key), run, engine)
    for column, other in run.other_fits().items():
        fitted.load_facts(other, engine)
        name = {"if_ekfac": "ekfac", "trak": "trak"}[column]
        directions[name] = fitted.load_by_parameter(layout.direction(other.fit_key), other, engine)
    heads = towers.trainable == "heads"
    kinds = wanted.probes(heads=heads)
    gradients = wanted.gradients(heads=heads)
    fit = fitted.load_fit(run, engine) if gradients or kinds else None
    if fit is not None:
        directions.update(_probes(run, engine, fit, kinds))
    embedders: list[Embedder] = []
    scales: list[float] = []
    if "stepped" in wanted.needs:
        embedder, scale = _after_a_step(engine, fitted.load_by_parameter(layout.gradient(run.fit_key), run, engine))
        embedders.append(embedder)
        scales.append(scale)
    if "checkpoints" in wanted.needs:
        if not run.settings.checkpoints:
            raise UsageError("--columns aum, average_similarity: name the weights of the training run by --checkpoints")
        for url in run.settings.checkpoints:
            # The samples are decoded by the first engine; this one only embeds.
            changes = {"pretrained": url, "micro_batch": engine.micro_batch, "processes": 0}
            other_engine = load_engine(run.settings.model_copy(update=changes))
            embedders.append(_checkpoint(other_engine))
            scales.append(other_engine.towers.scale)
    projection = load_projection(run, engine) if gradients else None
    rows = None
    if "validation" in wanted.needs and fit is not None and projection is not None:
        rows = validation_rows(run, engine, fit, projection)
    return Sources(
        wanted,
        directions,
        fit,
        projection,
        float(facts["validation"]["gradient_norm"]),
        tuple(embedders),
        tuple(scales),
        "stepped" in wanted.needs,
        rows,
    )


def _probes(run: Run, engine: Engine, fit: Fit, kinds: Sequence[str]) -> Mapping[str, Parameters]:
    """Directions along which derivatives have the wanted lengths as variance."""
    towers = engine.towers
    shapes = {name: tuple(p.shape) for name, p in towers.parameters.items()}
    found: dict[str, Parameters] = {}
    if not kinds:
        return found
    drawn = relative.probes(shapes, run.settings.column_probes, run.settings.seed, towers.device)
    for number, r in enumerate(drawn):
        for kind in kinds:
            direction = _probe(kind, fit, r)
            found[f"{kind}/{number}"] = {name: part.to(towers.dtype) for name, part in direction.items()}
    return found


def _probe(kind: str, fit: Fit, r: dict[str, Tensor]) -> dict[str, Tensor]:
    if kind == "inverse":
        return fit.solve(r)
    return fit.projection.lift(fit.curvature.solve_root(fit.projection.project(r))) if kind == "root" else r


# Length of the step of `forward_inf`, as a share of |theta|: short enough to be a step, long enough for float32.
STEP = 1e-2


def _after_a_step(engine: Engine, gradient: Parameters) -> tuple[Embedder, float]:
    """Embeddings at theta - eta grad L_val, with eta such that the step is STEP of |theta| long."""
    towers = engine.towers

    def length(parts: Parameters) -> float:
        return sum(float(part.double().square().sum()) for part in parts.values()) ** 0.5

    eta = STEP * length(towers.parameters) / max(length(gradient), 1e-30)
    values = {name: p - eta * gradient[name] for name, p in towers.parameters.items()}

    embedder = Embedder(
        lambda images, image: towers.embed_images(values, image),
        lambda captions, text: towers.embed_texts(values, text),
    )
    log_scale = values.get("logit_scale")
    return embedder, towers.scale if log_scale is None else float(log_scale.exp())


def _checkpoint(engine: Engine) -> Embedder:
    towers = engine.towers
    return Embedder(
        lambda images, image: towers.embed_images(towers.parameters, towers.image_stem(images)),
        lambda captions, text: towers.embed_texts(towers.parameters, towers.text_stem(captions)),
    )
