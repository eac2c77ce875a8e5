"""Edit: weights as if a set of pairs had never been in the corpus, as a map and a reduce over files.

    map_shard   one shard -> partial/<shard>.safetensors, grad Pos(D) + grad Neg(D) of its members of D
    reduce      partials, added in the order of the shards' names -> step H^-1 grad -> the weights file, written last

A shard is cut into the batches that it was scored in, and only batches that hold a member of D are computed. The
pull-back through the towers is linear, so a pair's cotangents from all segmentations are added up first: the cost
does not grow with their number, one pass for the embeddings and one for the gradient.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import polars as pl
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor

from ecif import editing
from ecif.errors import ConflictError, InputError, UsageError
from ecif.inventory import Shard
from ecif.progress import Progress, Silent
from ecif.run import Run
from ecif.scores import stream_scores
from ecif.segmentation import segment
from ecif.shards.decode import OK
from ecif.stages import fitted, sums
from ecif.stages.batches import numbers
from ecif.stages.engine import Chunk, Engine, load_engine
from ecif.stages.memory import batch_bounded
from ecif.stages.reading import read_pairs
from ecif.stages.removal import Removal
from ecif.stages.spool import Spool, spool
from ecif.stages.validation import load_validation
from ecif.towers import SCALE, State

T = TypeVar("T")

# Scored, or left out by a batch that was too small: these rows stood in the batches.
_PRESENT = (OK, "small_batch")
# A step this long, as a share of the parameters it changes, is no small change of them any more.
LONG_STEP = 0.1
# Losses are means in float32: a smaller change, as a share of the loss, has no sign.
_RESOLUTION = 1e-6


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an edit.

    Attributes:
        edit_key, fit_key: keys of the edit and of its curvature.
        removed: pairs. unscored: pairs that were to go but were never scored, by status; they count as not there.
        shards: how many hold members. relative_step: |step| / |theta| over the trainable parameters.
        predicted: change of the validation loss to first order. before, after: the loss with both weights.
        validation_pairs: that the loss is a mean of.
    """

    edit_key: str
    fit_key: str
    removed: int
    unscored: dict[str, int]
    shards: int
    relative_step: float
    predicted: float
    before: float
    after: float
    validation_pairs: int

    @property
    def actual(self) -> float:
        """Change of the validation loss."""
        return self.after - self.before

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the edit is not to be believed, if it is not."""
        found = []
        if self.relative_step > LONG_STEP:
            found.append(
                f"the step is {self.relative_step:.0%} of the parameters' length, too long for a first-order "
                "prediction; remove fewer pairs, or raise --damping"
            )
        if self.predicted * self.actual < 0 and abs(self.actual) > _RESOLUTION * abs(self.before):
            found.append("predicted and actual change of the validation loss have opposite signs")
        return tuple(found)


def written(run: Run, removal: Removal, weights: str) -> Outcome | None:
    """The outcome of this edit when its weights exist; None when there is no such file.

    Raises:
        ConflictError: the file is something else. UsageError: it has another ending.
    """
    if not weights.endswith(".safetensors"):
        raise UsageError(f"--weights: {weights!r} must end in .safetensors")
    if not run.storage.exists(run.storage.check(weights, write=True)):
        return None
    with run.storage.open(weights) as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(min(length, 1 << 27)))
            outcome = Outcome(**json.loads(header["__metadata__"]["ecif"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ConflictError("exists and was not written by `ecif edit`; name another file", url=weights) from error
    if outcome.edit_key != removal.key:
        raise ConflictError("holds another edit; name another file", url=weights)
    return outcome


def todo(run: Run, removal: Removal) -> list[Shard]:
    """Shards with members of D whose partial does not exist yet."""
    by_name = run.inventory.by_name()
    done = {info.url for info in run.storage.list(run.layout.edit_partials(removal.key), ".safetensors")}
    return [
        by_name[name]
        for name in sorted(removal.counts)
        if run.storage.check(run.layout.edit_partial(removal.key, name)) not in done
    ]


def map_shard(run: Run, engine: Engine, shard: Shard, removal: Removal) -> None:
    """Write the partial file of one shard, unless it exists: grad Pos(D) + grad Neg(D) by parameter name, float64.

    It is the mean over the segmentations; the sets are those of the shard's members in each batch.

    Raises:
        InputError: the tar changed since it was inventoried, or its samples are not those of its scores.
    """
    url = run.layout.edit_partial(removal.key, shard.name)
    if run.storage.exists(url):
        return
    scores = {shard.name: run.layout.scores(run.score_key, shard.name)}
    ((_, table),) = stream_scores(run.storage, scores, removal.columns)
    present = table.with_columns(removal.members(table).alias("gone")).filter(pl.col("status").is_in(_PRESENT))
    names = present["key"].to_list()
    gone = present.select(pl.col("gone") & (pl.col("status") == OK)).to_series().to_numpy()
    with spool() as samples:
        samples.add(read_pairs(shard.url, shard.name, run.storage, run.settings.caption, engine.limits, shard.info))
        places = {key: row for row, key in enumerate(samples.keys)}
        if missing := [key for key in names if key not in places]:
            raise InputError(
                f"holds no pair {missing[0]!r}, which was scored; score it into a new --out", url=shard.url
            )
        rows = np.array([places[key] for key in names])
        with batch_bounded(engine.towers.device, run.settings):
            gradient = _gradient(run, engine, samples, names, rows, gone, shard)
    run.storage.publish_first(url, fitted.pack(gradient, engine))


def _gradient(
    run: Run, engine: Engine, samples: Spool, names: list[str], rows: np.ndarray, gone: np.ndarray, shard: Shard
) -> dict[str, Tensor]:
    """Sum of the set's gradients over the batches of a shard, mean over the segmentations."""
    settings, towers = run.settings, engine.towers
    batches = [
        batch
        for k in range(settings.segmentations)
        for batch in segment(names, settings.batch_size, settings.seed, k).batches
        if len(batch) >= settings.smallest_batch and gone[batch].any()
    ]
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in towers.parameters.items()}
    if not batches:
        return total
    # Only what shares a batch with a member is embedded: `local` numbers those rows.
    needed = np.unique(np.concatenate(batches))
    local = np.zeros(len(names), dtype=np.int64)
    local[needed] = np.arange(len(needed))

    def chunks() -> Iterator[Chunk]:
        refused = len(samples.refused)
        yield from engine.chunks(samples.pairs(rows[needed].tolist()), samples.refused)
        if samples.refused[refused:]:
            raise InputError(
                f"sample {samples.refused[refused].key!r} was scored and cannot be decoded now; "
                "score it into a new --out",
                url=shard.url,
            )

    def in_parts(work: Callable[[State, State, slice], T]) -> Iterator[T]:
        """`work` on the states of all needed pairs, as many at once as fit, and the rows that they are."""
        first = 0
        for chunk in chunks():
            count = len(chunk.pairs)

            def run(rows: slice, chunk: Chunk = chunk, first: int = first) -> T:
                image, text = towers.image_stem(chunk.images[rows]), towers.text_stem(chunk.tokens[rows])
                return work(image, text, slice(first + rows.start, first + rows.stop))

            for _, found in engine.micro.parts(count, run):
                yield found
            first += count

    captions_N = numbers(samples.captions(rows[needed].tolist())) if settings.equal_captions == "mask" else None
    with torch.no_grad():
        parts = list(in_parts(lambda image, text, _: towers.embed(towers.parameters, image, text)))
    u_ND, v_ND = (torch.cat(side) for side in zip(*parts, strict=True))
    du_ND, dv_ND, log_scale = torch.zeros_like(u_ND), torch.zeros_like(v_ND), 0.0
    for batch in batches:
        at = torch.from_numpy(local[batch]).to(towers.device)
        members_B = torch.from_numpy(gone[batch]).to(towers.device)
        captions_B = None if captions_N is None else captions_N[local[batch]]
        c = editing.set_cotangents(u_ND[at], v_ND[at], towers.scale, members_B, settings.negative_role, captions_B)
        du_ND[at] += c.u_BD / settings.segmentations
        dv_ND[at] += c.v_BD / settings.segmentations
        log_scale += float(c.log_scale) / settings.segmentations
    for (gradient,) in in_parts(lambda image, text, at: towers.pull_back(image, text, [(du_ND[at], dv_ND[at])])):
        for name, part in gradient.items():
            total[name] += part
    if SCALE in total:
        total[SCALE] += log_scale
    return total


def reduce(run: Run, engine: Engine, removal: Removal, weights: str, progress: Progress = Silent()) -> Outcome:
    """Add the partials, solve, write the edited weights, and measure both weights on the validation pairs.

    The weights are a whole open_clip state dict in float32; the outcome stands in the file's metadata.

    Raises:
        UsageError: there is no finished fit, or the step is not finite. ModelError: the fit is of another model.
        ConflictError: the file exists with other content.
    """
    found = fitted.load_fit(run, engine)
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in engine.towers.parameters.items()}
    for name in sorted(removal.counts):
        url = run.layout.edit_partial(removal.key, name)
        data = run.storage.read_bytes(url)
        fitted.check(sums.facts(data), engine, url)
        for parameter, part in load_tensors(data).items():
            total[parameter] += part.to(engine.towers.device)
    step = found.solve(total)
    if not all(torch.isfinite(part).all() for part in step.values()):
        raise UsageError("the edited weights are not finite; raise --damping or use --precision fp64")
    gradient = fitted.load_by_parameter(run.layout.gradient(run.fit_key), run, engine)
    with TemporaryDirectory(prefix="ecif-") as folder:
        # Measured with the file itself, as another program would load it.
        file = Path(folder, "weights.safetensors")
        state = _state(engine, step)
        save_file(state, file)
        changes = {"pretrained": str(file), "micro_batch": engine.micro_batch}
        other = load_engine(run.settings.model_copy(update=changes), engine.limits, engine.micro.say)
        after = load_validation(run.validation, run.settings, run.storage, other, progress)
        outcome = Outcome(
            edit_key=removal.key,
            fit_key=run.fit_key,
            removed=removal.pairs,
            unscored=removal.unscored,
            shards=len(removal.counts),
            relative_step=editing.norm(step) / editing.norm(engine.towers.parameters),
            predicted=editing.predicted_change(gradient, step),
            before=found.facts["validation"]["loss"],
            after=after.loss,
            validation_pairs=after.pairs,
        )
        save_file(state, file, {"ecif": json.dumps(asdict(outcome), sort_keys=True)})
        run.storage.publish(weights, file)
    return outcome


def _state(engine: Engine, step: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's state dict with edited parameters; numbers in float32, whatever they were computed in."""
    state = engine.towers.loaded.model.state_dict() | editing.edited(engine.towers.parameters, step)
    return {
        name: (value.float() if value.is_floating_point() else value).detach().cpu().clone().contiguous()
        for name, value in state.items()
    }
