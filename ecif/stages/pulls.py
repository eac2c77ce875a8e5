"""What every pair of a shard has to do with each case: derivatives of its two roles along w = H^-1 grad L_test.

Two sources give the same numbers. A pass over the corpus takes the directions of all cases side by side through the
towers, and random probes with them, from which the relative forms are estimated. Where projected gradients were kept
with the scores, products with these do, and the relative forms are exact; the model is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from ecif import relative
from ecif.influence import BatchTerms, Embedded, finite_rows, negative_influence, positive_influence
from ecif.inventory import Shard
from ecif.progress import Progress
from ecif.relative import Columns, SquaredNorms
from ecif.run import Run
from ecif.segmentation import segment
from ecif.settings import MethodSettings
from ecif.stages.cases import Asked
from ecif.stages.embedding import embed_shard
from ecif.stages.engine import Engine
from ecif.stages.fitted import Fit
from ecif.stages.memory import batch_bounded, bounded

_ROWS = 1024  # stored gradients that are multiplied at a time
# index in the tar, uid, key, clip_score
Name = tuple[int, str, str, float]


@dataclass(frozen=True, slots=True)
class Pulls:
    """Rows of a shard.

    Attributes:
        positive_TN, negative_TN: derivatives of both roles along w of each of T cases.
        columns: what relative-IS and theta-RelatIF divide by. own: self-influence, which l-RelatIF divides by.
        name: identity and similarity of a row.
    """

    positive_TN: Tensor
    negative_TN: Tensor
    columns: Columns | None
    own: SquaredNorms | None
    name: Callable[[int], Name] = field(repr=False)


def has_index(run: Run) -> bool:
    """Whether the projected gradients of the whole corpus are stored, and say all that a pass would."""
    if run.settings.complement == "keep":
        return False  # what lies outside the projection is in no projected gradient
    names, key = [shard.name for shard in run.inventory.shards], run.score_key
    needed = {run.storage.check(place(key, name)) for place in (run.layout.index, run.layout.scores) for name in names}
    return run.storage.lookup(needed).keys() == needed


def by_pass(
    run: Run, engine: Engine, fit: Fit, asked: Sequence[Asked], progress: Progress, *, probes: int, own: bool
) -> Callable[[Shard], list[Pulls]]:
    """By one pass of the towers over each shard, as scoring does it.

    Args:
        probes: random directions for the relative forms, or 0. own: whether self-influence is wanted, too.
    """
    cases = len(asked)
    directions = list(_directions(engine, fit, asked, probes, run.settings.seed, own))

    def pulls(shard: Shard) -> list[Pulls]:
        rows_of_shard = f"the embeddings of all pairs of {shard.name} along {len(directions)} directions"
        with bounded(engine.towers.device, rows_of_shard, "use fewer test pairs, fewer --probes, or smaller shards"):
            found = embed_shard(run, engine, shard, directions, progress)
        if found.embedded is None:
            return []
        embedded = found.embedded
        with batch_bounded(engine.towers.device, run.settings):
            positive, negative, scored = influences(embedded, [pair.key for pair in found.pairs], run.settings)
        similarity = (embedded.u_BD * embedded.v_BD).sum(1)[scored].tolist()
        moves = slice(cases, cases + probes)
        columns = Columns.probed(positive[moves], negative[moves]) if probes else None
        squares = relative.probed_squares((positive + negative)[cases + probes :]) if own else None
        places = scored.tolist()

        def name(row: int) -> Name:
            pair = found.pairs[places[row]]
            return pair.index, pair.uid, pair.key, similarity[row]

        return [Pulls(positive[:cases], negative[:cases], columns, squares, name)]

    return pulls


def _directions(
    engine: Engine, fit: Fit, asked: Sequence[Asked], probes: int, seed: int, own: bool
) -> Iterator[dict[str, Tensor]]:
    """w of each case, then H^-1 r of each probe r, then H^(-1/2) r."""
    towers = engine.towers
    shapes = {name: tuple(p.shape) for name, p in towers.parameters.items()}

    def narrow(wide: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: wide[name].to(towers.device, towers.dtype) for name in shapes}

    yield from (narrow(fit.solve(one.gradient)) for one in asked)
    yield from (narrow(fit.solve(r)) for r in relative.probes(shapes, probes, seed, towers.device))
    if own:
        yield from (narrow(_solve_root(fit, r)) for r in relative.probes(shapes, probes, seed, towers.device))


def _solve_root(fit: Fit, vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """H^(-1/2) v by parameter name."""
    projected = fit.projection.project(vector)
    root = fit.projection.lift(fit.curvature.solve_root(projected))
    if not fit.complement:
        return root
    inside, delta = fit.projection.lift(projected), fit.curvature.complement(fit.projection)
    return {name: part + (vector[name] - inside[name]) / delta[name] ** 0.5 for name, part in root.items()}


def influences(embedded: Embedded, keys: list[str], settings: MethodSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives of both roles along all directions, averaged over the segmentations as scores are.

    Returns:
        positive and negative role, (R, N) in float64, of the rows that have scores; and these rows, (N,).
    """
    good = finite_rows(embedded).nonzero().flatten().cpu().numpy()
    good_keys = [keys[row] for row in good]
    directions = len(embedded.dscale_R)
    sums = torch.zeros(2, directions, len(keys), dtype=torch.float64)
    scored = np.zeros(len(keys), dtype=bool)
    for k in range(settings.segmentations):
        for batch in segment(good_keys, settings.batch_size, settings.seed, k).batches:
            rows = torch.from_numpy(good[batch])
            if len(rows) < settings.smallest_batch:
                continue
            scored[good[batch]] = True
            taken = embedded.take(rows.to(embedded.u_BD.device))
            for r in range(directions):
                terms = BatchTerms.of(taken, settings.negative_role, r)
                sums[0, r, rows] += positive_influence(terms).double().cpu()
                sums[1, r, rows] += negative_influence(terms).double().cpu()
    rows = torch.from_numpy(np.flatnonzero(scored & torch.isfinite(sums).all(0).all(0).numpy()))
    positive, negative = (part[:, rows] / settings.segmentations for part in sums)
    return positive, negative, rows


def from_index(run: Run, engine: Engine, fit: Fit, asked: Sequence[Asked]) -> Callable[[Shard], list[Pulls]]:
    """Products of stored projected gradients with H^-1 of the projected gradient of each case: no model."""
    device = engine.towers.device
    projected = [fit.projection.project({n: g.double() for n, g in one.gradient.items()}) for one in asked]
    w_TK = fit.curvature.solve(torch.stack(projected))

    def pulls(shard: Shard) -> list[Pulls]:
        stored = load_tensors(run.storage.read_bytes(run.layout.index(run.score_key, shard.name)))
        table = pl.read_parquet(
            run.storage.read_bytes(run.layout.scores(run.score_key, shard.name)),
            columns=["index", "uid", "key", "clip_score"],
        )
        return [chunk(stored, table, first) for first in range(0, len(stored["row"]), _ROWS)]

    def chunk(stored: Mapping[str, Tensor], table: pl.DataFrame, first: int) -> Pulls:
        rows = slice(first, first + _ROWS)
        scale = stored["scale"][rows].double().to(device)
        a_NK, b_NK = (
            stored[role][rows].double().to(device) * scale[:, number : number + 1]
            for number, role in enumerate(("positive", "negative"))
        )

        def name(row: int) -> Name:
            index, uid, sample, similarity = table.row(int(stored["row"][first + row]))
            return index, uid, sample, similarity

        columns, own = Columns.exact(a_NK, b_NK, fit.curvature), relative.self_influence(a_NK, b_NK, fit.curvature)
        return Pulls(w_TK @ a_NK.T, w_TK @ b_NK.T, columns, own, name)

    return pulls
