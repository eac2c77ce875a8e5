"""The pairs of a shard as the wanted columns see them: views of batches, and of the whole shard after all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ecif import relative
from ecif.detectors.views import BatchView, Change, Checkpoint, RelativeView, ShardView
from ecif.gradients import Role, States, projected_gradients
from ecif.influence import BatchTerms, Embedded, negative_influence, positive_influence
from ecif.inventory import Shard
from ecif.logra import Projection
from ecif.relative import Columns
from ecif.run import Run
from ecif.settings import MethodSettings
from ecif.shards.decode import Pair
from ecif.stages.batches import load_batch, with_states
from ecif.stages.column_sources import Sources
from ecif.stages.embedding import EmbeddedShard
from ecif.stages.engine import Engine
from ecif.stages.reading import read_pairs
from ecif.stages.spool import spool
from ecif.towers import State

# rows of a batch -> projected gradients of its pairs by role (positive, negative), (B, K) each
Gradients = Callable[[Sequence[int]], dict[str, Tensor]]


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
