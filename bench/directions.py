"""What further directions cost: scoring along 1, 2 and 4 of them at once, on decoded tensors, 12 layers a tower.

Influence goes along one direction. Columns such as `tracin`, `trak` and `if_ekfac` add one each, and the columns that
need lengths add one for each probe. All share the stem; what a direction adds is its derivative and its part of the
algebra of the batches. The bound counts products of matrices in the blocks, of which a derivative takes two where the
forward pass takes one. For the last of 12 blocks, in units of a block, where one direction takes 14:

    one by one   a forward pass of the tail and a derivative for each: 11 + 3 R. What a CPU does.
    shared       one forward pass, and stacked derivatives: 12 + 2 R. What other devices do.
    difference   two forward passes of the tail for each: 11 + 2 R (`--derivative difference`)

For heads nothing but the algebra is left.

The model, the pairs and the way a shard is scored are those of bench.decoded. Within a round all numbers of directions
take turns at every micro-batch; ratios of CPU seconds are taken within a round.

    python -m bench.directions [--variants heads last:1] [--pairs 64] [--rounds 5] [--directions 1 2 4]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.decoded import MODEL, Subject

TAILS = {"heads": 0, "last:1": 1, "all": 12}  # blocks


def bound(variant: str, way: str, directions: int) -> float:
    """Time along some directions in units of a block's forward pass, counted in matrix products."""
    layers, tail = MODEL["vision_cfg"]["layers"], TAILS[variant]
    passes = {"one by one": 3 * directions, "shared": 1 + 2 * directions, "difference": 2 * directions}
    return float(layers - tail + tail * passes[way])


def shared(of: Subject, variant: str, rows: slice) -> tuple[Tensor, ...]:
    """What `Subject.push` gives, by one forward pass of the tail for all directions."""
    towers = of.towers[variant]
    states = towers.image_stem(of.images[rows]), towers.text_stem(of.captions[rows])
    return towers.derivatives(of.directions[variant], lambda p: towers.embed(p, *states), together=True)


def difference(of: Subject, variant: str, rows: slice) -> tuple[Tensor, ...]:
    """The same by differences."""
    return Subject.push(of, f"{variant}, difference", rows)


PUSHES: dict[str, Callable[[Subject, str, slice], tuple[Tensor, ...]]] = {
    "one by one": Subject.push,
    "shared": shared,
    "difference": difference,
}


def measure(subjects: dict[int, Subject], variants: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """One row per variant, way and number of directions; ratios are to the first number. The first round warms up."""
    first = next(iter(subjects))
    # One direction shares nothing, and behind the heads there is nothing to take a difference of.
    seconds: dict[tuple[str, str, int], list[float]] = {
        (name, way, count): []
        for name in variants
        for way in PUSHES
        for count in subjects
        if not (way == "shared" and count == first) and not (way == "difference" and name == "heads")
    }
    of = subjects[first]
    for _ in range(rounds + 1):
        parts: dict[tuple[str, str, int], list[tuple[Tensor, ...]]] = {which: [] for which in seconds}
        spent = dict.fromkeys(seconds, 0.0)
        for start in range(0, of.pairs, of.micro):
            rows = slice(start, start + of.micro)
            for which in seconds:
                name, way, count = which
                started = time.process_time()
                parts[which].append(PUSHES[way](subjects[count], name, rows))
                spent[which] += time.process_time() - started
        for which in seconds:
            name, _, count = which
            started = time.process_time()
            subjects[count].score(name, parts[which])
            seconds[which].append(spent[which] + time.process_time() - started)
    table = []
    for (name, way, count), found in seconds.items():
        ratios = [own / one for own, one in zip(found[1:], seconds[name, "one by one", first][1:], strict=True)]
        table.append(
            {
                "variant": name,
                "way": way,
                "directions": count,
                "ms_a_pair": statistics.median(found[1:]) / of.pairs * 1e3,
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
                "bound": bound(name, way, count) / bound(name, "one by one", first),
            }
        )
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--variants", nargs="+", choices=list(TAILS), default=["heads", "last:1"])
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--micro-batch", type=int, default=32)
    parser.add_argument("--directions", type=int, nargs="+", default=[1, 2, 4], help="ratios are to the first")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subjects = {
            count: Subject(Path(folder), arguments.pairs, arguments.micro_batch, count)
            for count in arguments.directions
        }
    rows = measure(subjects, arguments.variants, arguments.rounds)
    if arguments.json:
        print(json.dumps(rows))
        return
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.pairs} pairs in micro-batches of "
        f"{arguments.micro_batch}, {arguments.rounds} rounds in turn"
    )
    print(
        f"{'variant':8} {'derivatives':11} {'directions':>10} {'CPU ms a pair':>14} {'ratio':>7} "
        f"{'min..max':>14} {'bound':>6}"
    )
    for row in rows:
        spread = f"{row['ratio_min']:.3f}..{row['ratio_max']:.3f}"
        print(
            f"{row['variant']:8} {row['way']:11} {row['directions']:10} {row['ms_a_pair']:14.1f} {row['ratio']:7.3f} "
            f"{spread:>14} {row['bound']:6.2f}"
        )


if __name__ == "__main__":
    main()
