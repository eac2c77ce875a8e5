"""Scoring against plain embedding of the same decoded tensors, with 12 layers a tower: what the derivative costs.

Nothing is read or decoded here. The floor is open_clip's own encode_image and encode_text; scoring is what `ecif score`
does with a micro-batch, stems and the derivative along one direction, and with a shard, the algebra of K segmentations.
Within a round the variants take turns at every micro-batch, so that a slow moment of the machine hits them alike; the
table holds medians of the ratios of a round, with the smallest and the largest. Seconds are CPU seconds.

The weights are random, which changes no time. Steps of the differences are chosen once for a shard, from the exact
derivatives of its first pairs; here that is part of the round that warms up.

    python -m bench.decoded [--pairs 128] [--rounds 5] [--micro-batch 32] [--directions 1] [--profile all]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor

from ecif.influence import Embedded
from ecif.settings import ScoreSettings
from ecif.stages.column_rows import Rows
from ecif.stages.column_sources import Sources
from ecif.stages.score import score_rows
from ecif.stages.wanted import Wanted
from ecif.towers import Derivatives, Parameters, Towers
from ecif.towers.difference import Differences
from ecif.towers.loading import load

MODEL: dict[str, Any] = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 384, "head_width": 64, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 12},
}
EXACT = ("heads", "last:1", "all")
DIFFERENCES = {"last:1, difference": "last:1", "all, difference": "all"}
VARIANTS = (*EXACT, *DIFFERENCES)
COMPILED = "heads, compiled"
TO_REACH = {"heads": 0.95, "last:1": 0.8, "all": 0.28}
_WORDS = ("two", "brown", "dogs", "run", "along", "the", "beach", "at", "sunset", "with", "red", "kites")


def write_model(folder: Path, config: dict[str, Any]) -> tuple[str, str]:
    """A model config and random weights as files; returns their paths."""
    model, weights = folder / "model.json", folder / "weights.safetensors"
    model.write_text(json.dumps(config), "utf-8")
    torch.manual_seed(0)
    network = open_clip.CLIP(**config)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, weights)
    return str(model), str(weights)


def _random(towers: Towers, generator: torch.Generator) -> Parameters:
    return {name: 1e-3 * torch.randn(value.shape, generator=generator) for name, value in towers.parameters.items()}


class Subject:
    """One model cut in all ways, and decoded pairs before it."""

    def __init__(self, folder: Path, pairs: int, micro: int, directions: int, *, compiled: bool = False) -> None:
        model, weights = write_model(folder, MODEL)
        size, generator = MODEL["vision_cfg"]["image_size"], torch.Generator().manual_seed(0)
        self.micro, self.pairs = micro, pairs
        self.images = torch.randn(pairs, 3, size, size, generator=generator)
        picked = torch.randint(len(_WORDS), (pairs, 8), generator=generator).tolist()
        self.captions = [" ".join(_WORDS[word] for word in words) for words in picked]
        self.settings = ScoreSettings(model=model, pretrained=weights, batch_size=min(256, pairs))
        loaded = load(model, weights)
        self.towers = {variant: Towers(loaded, variant, torch.device("cpu")) for variant in EXACT}
        self.towers |= {name: self.towers[exact] for name, exact in DIFFERENCES.items()}
        self.derivatives: dict[str, Derivatives] = {**self.towers}
        self.derivatives |= {name: Differences(self.towers[name]) for name in DIFFERENCES}
        if compiled:
            towers = self.towers[COMPILED] = Towers(loaded, "heads", torch.device("cpu"))
            towers.compile()
            self.derivatives[COMPILED] = towers
        self.directions = {name: [_random(towers, generator)] * directions for name, towers in self.towers.items()}

    def embed(self, rows: slice) -> tuple[Tensor, ...]:
        """The floor."""
        loaded = self.towers["heads"].loaded
        model: Any = loaded.model
        with torch.no_grad():
            tokens = loaded.tokenize(self.captions[rows])
            return model.encode_image(self.images[rows], normalize=True), model.encode_text(tokens, normalize=True)

    def push(self, variant: str, rows: slice) -> tuple[Tensor, ...]:
        """What scoring does with a micro-batch."""
        towers = self.towers[variant]
        states = towers.image_stem(self.images[rows]), towers.text_stem(self.captions[rows])
        return self.derivatives[variant].push_forward(self.directions[variant], *states)

    def score(self, variant: str, parts: list[tuple[Tensor, ...]]) -> None:
        """What scoring does with a shard: all segmentations."""
        u_parts, v_parts, du_parts, dv_parts = zip(*parts, strict=True)
        towers, along = self.towers[variant], self.directions[variant]
        embedded = Embedded(
            torch.cat(u_parts), torch.cat(v_parts), torch.cat(du_parts, 1), torch.cat(dv_parts, 1), towers.scale,
            tuple(towers.dscale(direction) for direction in along), torch.arange(self.pairs),
        )  # fmt: skip
        named: dict[str, Parameters] = {f"raw/{number}": one for number, one in enumerate(along[1:])}
        sources = Sources(Wanted.of(self.settings), {"influence": along[0], **named})
        rows = Rows(self.settings, sources, embedded, [], torch.arange(self.pairs))
        score_rows(rows, [str(row) for row in range(self.pairs)])


def measure(of: Subject, rounds: int) -> list[dict[str, Any]]:
    """One row per variant, the floor first; the first round warms up."""
    variants = [name for name in (*VARIANTS, COMPILED) if name in of.towers]
    seconds: dict[str, list[float]] = {name: [] for name in ("floor", *variants)}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.process_time()
        found = work()
        seconds[name][-1] += time.process_time() - started
        return found

    for _ in range(rounds + 1):
        parts: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in variants}
        for name in seconds:
            seconds[name].append(0.0)
        for start in range(0, of.pairs, of.micro):
            rows = slice(start, start + of.micro)
            timed("floor", partial(of.embed, rows))
            for name in variants:
                parts[name].append(timed(name, partial(of.push, name, rows)))
        for name in variants:
            timed(name, partial(of.score, name, parts[name]))
    found = []
    for name, spent in seconds.items():
        ratios = [floor / own for floor, own in zip(seconds["floor"][1:], spent[1:], strict=True)]
        found.append(
            {
                "variant": "open_clip embedding" if name == "floor" else name,
                "pairs_per_second": of.pairs / statistics.median(spent[1:]),
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
                "to_reach": TO_REACH.get(name),
            }
        )
    return found


def profile(of: Subject, variant: str) -> None:
    """The operators that one micro-batch spends its time in, by PyTorch's profiler."""
    rows = slice(0, of.micro)
    work: Callable[[], Any] = (lambda: of.embed(rows)) if variant == "floor" else (lambda: of.push(variant, rows))
    work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as trace:
        work()
    print(trace.key_averages().table(sort_by="self_cpu_time_total", row_limit=16, max_name_column_width=40))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--micro-batch", type=int, default=32)
    parser.add_argument("--directions", type=int, default=1)
    parser.add_argument("--profile", choices=("floor", *VARIANTS), help="show the operators of one variant instead")
    parser.add_argument("--compiled", action="store_true", help="heads with --compile on, too")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        of = Subject(
            Path(folder), arguments.pairs, arguments.micro_batch, arguments.directions, compiled=arguments.compiled
        )
    if arguments.profile:
        profile(of, arguments.profile)
        return
    rows = measure(of, arguments.rounds)
    if arguments.json:
        print(json.dumps(rows))
        return
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.pairs} pairs in micro-batches of "
        f"{arguments.micro_batch}, {arguments.directions} directions, {arguments.rounds} rounds in turn"
    )
    print(f"{'variant':20} {'pairs/CPU s':>12} {'ratio to floor':>15} {'min..max':>14} {'to reach':>9}")
    for row in rows:
        reach = "" if row["to_reach"] is None else f"{row['to_reach']:.2f}"
        spread = f"{row['ratio_min']:.3f}..{row['ratio_max']:.3f}"
        print(f"{row['variant']:20} {row['pairs_per_second']:12,.1f} {row['ratio']:15.3f} {spread:>14} {reach:>9}")


if __name__ == "__main__":
    main()
