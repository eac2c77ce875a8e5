"""How many samples go through the towers at once when nobody says it: as many as fit, by an estimate.

Towers act on each sample alone, so the micro-batch changes the last digits of scores and nothing else; therefore it
may be chosen by the machine, and must not be chosen by the moment: the same model, settings and machine give the same
micro-batch, so the memory of the whole machine counts, not what is free now. An allocator that refuses has the
micro-batch halved (`memory`), but a kernel that runs out of memory kills the process instead, so on a CPU an estimate
before is all there is.

The price of a half (SHARE): a large model may get a smaller micro-batch than would just have fitted. It is what
decoded pictures, states of a contrastive batch, tables, kernels and other processes have to live on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from ecif import detectors
from ecif.ram import ram
from ecif.settings import ScoreSettings
from ecif.towers import Towers
from ecif.towers.footprint import footprint

_LOG = logging.getLogger(__name__)

# Of the memory that is left beside what no micro-batch changes: libraries, weights, directions, gradients.
SHARE = 0.5
# Powers of two. That of GPUs is not measured.
MOST_ON_CPU = 128
# On a CPU more at once is slower as soon as activations leave its caches: by a tenth to a fifth with 12 layers a tower
# and 128 in the place of 32. Below 32 the operators' own cost counts more (docs/speed.md). In bytes, twice the last
# cache of the machine on which that was measured; a constant, so that machines agree.
NEAR = 64_000_000
LEAST_NEAR = 32
MOST = 512
UNKNOWN = 128
# Python with its libraries (memory that no file backs, beside a tiny model), or the context of a GPU (not measured).
PROGRAM = 500_000_000
# Float64 copies of the trainable parameters when the fit is solved and written (its peak for 12 layers).
_SOLVED = 5
# Tangents or cotangents that `gradients.projected_gradients` holds at once.
_CHUNK = 8


def fitting(towers: Towers, settings: ScoreSettings, say: Callable[[str], None]) -> int:
    """The largest power of two that fits; UNKNOWN where that cannot be estimated.

    At most MOST; on a CPU at most MOST_ON_CPU, and no more than stays NEAR its cores, or LEAST_NEAR.

    Args:
        say: told what was chosen, when memory makes it less than would be taken otherwise.
    """
    device = towers.device
    total = memory_of(device)
    if total is None:
        return UNKNOWN
    most = MOST if device.type == "cuda" else MOST_ON_CPU
    try:
        samples = footprint(towers, _at_once(towers, settings))
    except Exception as error:  # the code of any model: what it raises where there are no numbers is its own affair
        _LOG.info("%s: a micro-batch of %d, as memory cannot be estimated (%s)", device, UNKNOWN, error)
        return UNKNOWN
    one = PROGRAM + _fixed(towers, settings) + samples.of(1)
    if one > total:
        say(
            f"{device}: by an estimate a micro-batch of 1 does not fit: libraries, weights, directions, gradients and "
            f"one pair take {_shown(one)} of {_shown(total)}. It is tried all the same; --trainable heads or last:K "
            "and fewer --columns take less"
        )
        return 1
    room, wanted = int((total - one) * SHARE), most
    while device.type == "cpu" and wanted > LEAST_NEAR and samples.of(wanted) - samples.of(1) > NEAR:
        wanted //= 2
    size = wanted
    while samples.of(size) - samples.of(1) > room:
        size //= 2
    more = _shown(samples.of(size) - samples.of(1))
    about = (
        f"{_shown(one)} whatever it is, and {more} of the {_shown(total - one)} beside that, of which half may be taken"
    )
    if size < wanted:
        say(f"{device}: a micro-batch of {size} by an estimate of memory: {about}; --micro-batch sets another one")
    else:
        _LOG.info("%s: a micro-batch of %d by an estimate of memory: %s", device, size, about)
    return size


def memory_of(device: torch.device) -> int | None:
    """Bytes of all memory of a device, used or not; None where that is not known."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return ram() if device.type == "cpu" else None


def _at_once(towers: Towers, settings: ScoreSettings) -> int:
    """Directions, or gradients of single pairs, that one pass of the differentiated part carries along."""
    needs = _needs(settings)
    singly = settings.index or settings.curvature in ("fisher", "pointwise")
    chunk = _CHUNK if singly or any(need.startswith("gradients:") for need in needs) else 1
    # A CPU takes one direction after the other.
    return max(chunk, 1 if towers.device.type == "cpu" else _directions(settings))


def _directions(settings: ScoreSettings) -> int:
    """Directions that scoring goes along."""
    needs = _needs(settings) | {"direction:influence"}
    lengths = sum(need.startswith("lengths:") for need in needs)
    return sum(need.startswith("direction:") for need in needs) + lengths * settings.column_probes


def _needs(settings: ScoreSettings) -> set[str]:
    return {need for name in settings.columns for need in detectors.facts(name).needs}


def _fixed(towers: Towers, settings: ScoreSettings) -> int:
    """Bytes of weights, and of directions or the solution."""
    model = towers.loaded.model
    weights = sum(part.nbytes for part in (*model.parameters(), *model.buffers()))
    trainable = sum(part.nbytes for part in towers.parameters.values())
    numbers = sum(part.numel() for part in towers.parameters.values())
    return weights + max(trainable * _directions(settings), 8 * numbers * _SOLVED)


def _shown(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"
