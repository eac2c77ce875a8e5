"""What the wanted score columns see, filled in: views of batches and shards, and nothing that no column asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ecif import detectors, relative
from ecif.detectors import Need
from ecif.detectors.views import BatchView, Change, Checkpoint, RelativeView, ShardView
from ecif.errors import UsageError
from ecif.gradients import Role, States, projected_gradients
from ecif.influence import BatchTerms, Embedded, negative_influence, positive_influence
from ecif.inventory import Shard
from ecif.logra import Projection
from ecif.relative import Columns
from ecif.run import Run
from ecif.settings import MethodSettings
from ecif.shards.decode import Pair
from ecif.stages import fitted
from ecif.stages.basis import load_projection
from ecif.stages.batches import load_batch, with_states
from ecif.stages.embedding import EmbeddedShard, Embedder
from ecif.stages.engine import Engine, load_engine
from ecif.stages.fitted import Fit
from ecif.stages.harm import validation_rows
from ecif.stages.reading import read_pairs
from ecif.stages.spool import spool
from ecif.towers import Parameters, State

# rows of a batch -> projected gradients of its pairs by role (positive, negative), (B, K) each
Gradients = Callable[[Sequence[int]], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The columns of a run by level, without `influence`, which is the sum of two others.

    Attributes:
        needs: of all of them. index: whether projected gradients are kept.
    """

    batch: tuple[str, ...]
    shard: tuple[str, ...]
    relative: tuple[str, ...]
    needs: frozenset[Need]
    index: bool

    @classmethod
    def of(cls, settings: MethodSettings) -> Wanted:
        """What the settings ask for."""
        names = [name for name in (*detectors.NAMES, *settings.columns) if name != "influence"]
        by_level = {
            level: tuple(name for name in names if detectors.facts(name).level == level)
            for level in ("batch", "shard", "relative")
        }
        needs = frozenset(need for name in names for need in detectors.facts(name).needs)
        return cls(by_level["batch"], by_level["shard"], by_level["relative"], needs, settings.index)

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, in the order of the score files."""
        return (*self.batch, *self.shard, *self.relative)

    def gradients(self, *, heads: bool) -> bool:
        """Whether projected per-sample gradients are wanted."""
        of_lengths = heads and bool(self.needs & {"lengths:inverse", "lengths:root"})
        return self.index or of_lengths or any(need.startswith("gradients:") for need in self.needs)

    def probes(self, *, heads: bool) -> tuple[str, ...]:
        """Kinds of probes: lengths that no projected gradients give."""
        kinds = ("raw",) if heads else ("inverse", "root", "raw")
        return tuple(kind for kind in kinds if f"lengths:{kind}" in self.needs)


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
            changes = {"pretrained": url, "micro_batch": engine.micro_batch}
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


@contextmanager
def gradients_of(
    run: Run, engine: Engine, shard: Shard, found: EmbeddedShard, projection: Projection
) -> Iterator[Gradients]:
    """Projected gradients of the batch at any rows of the shard.

    The states of its pairs are those that were kept, or the shard is read and run through the stems a second time.
    """
    negative: Role = "negative_exact" if run.settings.negative_role == "exact" else "negative"

    masked = run.settings.equal_captions == "mask"
    numbers_N = torch.tensor(found.captions)

    def of(rows: Sequence[int], states: list[tuple[State, State]]) -> dict[str, Tensor]:
        captions_B = numbers_N[list(rows)] if masked else None

        def compute(states: States) -> dict[Role, Tensor]:
            return projected_gradients(engine.towers, states, projection, ("positive", negative), captions_B=captions_B)

        both = with_states(engine, states, compute)
        return {"positive": both["positive"], "negative": both[negative]}

    if found.heads is not None:
        h_image, h_text = found.heads
        yield lambda rows: of(rows, [((h_image[list(rows)],), (h_text[list(rows)],))])
        return
    with spool() as samples:
        place: dict[int, int] = {}
        for sample in read_pairs(shard.url, shard.name, run.storage, run.settings.caption, engine.limits, shard.info):
            if isinstance(sample, Pair):
                place[sample.index] = len(samples)
                samples.add([sample])
        rows_of = [place[pair.index] for pair in found.pairs]
        yield lambda rows: of(rows, load_batch(engine, samples, [rows_of[row] for row in rows]).states)


@dataclass(slots=True)
class Rows:
    """The pairs of a shard as the columns see them; gradients and derivatives along probes are added up on the way.

    Attributes:
        embedded: along the directions of `sources`. others: embeddings by each of its embedders.
        captions_N: int64, equal for equal captions. gradients_of: where gradients are wanted.
        gradients: means over the segmentations by role, (N, K). derivatives: along each probe, (2, N), by role.
    """

    settings: MethodSettings
    sources: Sources
    embedded: Embedded
    others: list[tuple[Tensor, Tensor]]
    captions_N: Tensor
    gradients_of: Gradients | None = None
    gradients: dict[str, Tensor] = field(default_factory=dict)
    derivatives: dict[str, Tensor] = field(default_factory=dict)

    def batch(self, rows: np.ndarray, picked: Tensor) -> BatchView:
        """The view of one batch of one segmentation; to be taken once for each.

        Args:
            rows: its pairs. picked: the same on the device.
        """
        part = self.embedded.take(picked)
        s_BB = part.logits
        changes = {}
        for number, name in enumerate(self.sources.directions):
            change = Change.of(part, number)
            if "/" in name:
                self._add_derivatives(name, picked, s_BB, change.whole_BB)
            else:
                changes[name] = change
        seen = [
            Checkpoint(replace(part, u_BD=u_ND[picked], v_BD=v_ND[picked], scale=scale).logits, scale)
            for (u_ND, v_ND), scale in zip(self.others, self.sources.scales, strict=True)
        ]
        return BatchView(
            s_BB,
            part.scale,
            self.settings.negative_role,
            self.captions_N[picked],
            changes,
            seen.pop(0).s_BB if self.sources.stepped else None,
            self._add_gradients(rows),
            self.sources.fit.curvature if self.sources.fit else None,
            tuple(seen),
            self.sources.validation_VK,
        )

    def shard(self, rows: np.ndarray) -> ShardView:
        """The view of the pairs at `rows`, after all batches."""
        picked = torch.from_numpy(rows)
        device = self.embedded.u_BD.device
        gradients = {role: total[picked].to(device) for role, total in self.gradients.items()}
        return ShardView(
            self.embedded.u_BD[picked], self.embedded.v_BD[picked], self.settings.seed, gradients=gradients
        )

    def relative(self, rows: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> RelativeView:
        """Lengths for the pairs at `rows`, whose influence by role is given; after all batches."""
        columns = own = squares = None
        picked, device = torch.from_numpy(rows), self.embedded.u_BD.device
        if self.gradients and self.sources.fit is not None:
            a_NK, b_NK = (self.gradients[role][picked].to(device) for role in ("positive", "negative"))
            columns = Columns.exact(a_NK, b_NK, self.sources.fit.curvature)
            own = relative.self_influence(a_NK, b_NK, self.sources.fit.curvature)
        if (along := self._along("inverse", picked)) is not None:
            columns = Columns.probed(along[:, 0], along[:, 1])
        if (along := self._along("root", picked)) is not None:
            own = relative.probed_squares(along.sum(1))
        if (along := self._along("raw", picked)) is not None:
            squares = relative.probed_squares(along.sum(1))
        return RelativeView(
            torch.from_numpy(positive[rows]).to(device),
            torch.from_numpy(negative[rows]).to(device),
            self.sources.norm,
            columns,
            own,
            squares,
        )

    def _along(self, kind: str, picked: Tensor) -> Tensor | None:
        """Derivatives of both roles along the probes of a kind, (P, 2, n)."""
        found = [part[:, picked] for name, part in self.derivatives.items() if name.startswith(f"{kind}/")]
        return torch.stack(found) if found else None

    def _add_derivatives(self, name: str, picked: Tensor, s_BB: Tensor, ds_BB: Tensor) -> None:
        terms = BatchTerms(s_BB, ds_BB, self.embedded.scale, self.settings.negative_role)
        both = torch.stack([positive_influence(terms), negative_influence(terms)]).double()
        total = self.derivatives.setdefault(name, both.new_zeros(2, len(self.embedded.u_BD)))
        total[:, picked] += both / self.settings.segmentations

    def _add_gradients(self, rows: np.ndarray) -> dict[str, Tensor]:
        if self.gradients_of is None:
            return {}
        both, picked = self.gradients_of(rows.tolist()), torch.from_numpy(rows)
        for role, part_BK in both.items():
            shape = len(self.embedded.u_BD), part_BK.shape[1]
            total = self.gradients.setdefault(role, torch.zeros(shape, dtype=part_BK.dtype))
            total[picked] += part_BK.cpu() / self.settings.segmentations
        wide = {role: part_BK.double() for role, part_BK in both.items()}
        return wide | {"removal": wide["positive"] + wide["negative"]}
