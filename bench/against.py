"""Influence of every pair along one direction, against what others do for it: per-sample gradients, and a dot product.

Libraries of data attribution keep a projected gradient of every sample and multiply it with a projected direction. That
answers any number of questions afterwards; for one question it is the long way. Here both answer the same one. The
direction w is lifted from a random projected one h, so that <w, g_n> = <h, P g_n> holds exactly for every gradient g_n,
and the largest difference between both answers stands beside the times.

    along w        as `ecif score` does it: one derivative of the embeddings, both roles of all pairs from the logits
    own LoGra      projected gradients of both roles of every pair, times h: the fastest of the exact paths
                   (`ecif.gradients`), as libraries do it, but of the contrastive loss

Model and pairs are those of bench.decoded: 12 layers a tower, decoded tensors, one batch of the loss. bergson and
dattri have no gradient of this loss (bench.method peers has what they compute instead); on a loss of single samples,
which they are made for, `bench.method peers` times them against ours and against the derivative along one direction.

    python -m bench.against [--variants heads last:1 all] [--batch 32] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench.decoded import EXACT, Subject
from ecif import logra
from ecif.gradients import projected_gradients
from ecif.influence import BatchTerms, Embedded, negative_influence, positive_influence
from ecif.logra import Projection
from ecif.towers import Parameters
from ecif.towers.cut import State

RANKS = {"heads": 16, "last:1": 4, "all": 2}


@dataclass(frozen=True, slots=True)
class Question:
    """One batch, and one direction in both forms."""

    of: Subject
    variant: str
    project: Projection
    h_K: Tensor
    w: Parameters

    @classmethod
    def ask(cls, of: Subject, variant: str) -> Question:
        """With a random direction."""
        towers = of.towers[variant]
        shapes = {name: tuple(p.shape) for name, p in towers.parameters.items()}
        project = logra.build(shapes, RANKS[variant], 10**6, 0, towers.device, towers.dtype)
        h_K = torch.randn(project.size, generator=torch.Generator().manual_seed(1)) / project.size**0.5
        return cls(of, variant, project, h_K, project.lift(h_K))

    def states(self) -> list[tuple[State, State]]:
        """The frozen part, in micro-batches."""
        of, towers = self.of, self.of.towers[self.variant]
        cuts = [slice(start, start + of.micro) for start in range(0, of.pairs, of.micro)]
        return [(towers.image_stem(of.images[rows]), towers.text_stem(of.captions[rows])) for rows in cuts]

    def along(self) -> Tensor:
        """Both roles of every pair, (2, B), by one derivative."""
        towers = self.of.towers[self.variant]
        parts = [towers.push_forward([self.w], image, text) for image, text in self.states()]
        u, v, du, dv = zip(*parts, strict=True)
        dscale = (towers.dscale(self.w),)
        batch = Embedded(torch.cat(u), torch.cat(v), torch.cat(du, 1), torch.cat(dv, 1), towers.scale, dscale)
        terms = BatchTerms.of(batch, "exact")
        return torch.stack([positive_influence(terms), negative_influence(terms)])

    def by_gradients(self) -> Tensor:
        """The same by a projected gradient for every pair and role."""
        towers = self.of.towers[self.variant]
        found = projected_gradients(towers, self.states(), self.project, ("positive", "negative_exact"))
        return torch.stack([found["positive"] @ self.h_K, found["negative_exact"] @ self.h_K])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--variants", nargs="+", choices=EXACT, default=list(EXACT))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        of = Subject(Path(folder), arguments.batch, min(32, arguments.batch), 1)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, one batch of {of.pairs}, "
        f"{arguments.rounds} rounds in turn, CPU seconds"
    )
    print(f"{'variant':8} {'numbers':>8} {'along w':>9} {'own LoGra':>10} {'times':>7} {'min..max':>14} {'off by':>8}")
    for variant in arguments.variants:
        question = Question.ask(of, variant)
        ways: tuple[Callable[[], Tensor], ...] = (partial(question.along), partial(question.by_gradients))
        seconds: list[list[float]] = [[], []]
        answers = [ways[0](), ways[0]()]  # warms up
        for _ in range(arguments.rounds):
            for number, way in enumerate(ways):
                started = time.process_time()
                answers[number] = way()
                seconds[number].append(time.process_time() - started)
        ratios = [slow / fast for fast, slow in zip(*seconds, strict=True)]
        off = float((answers[0] - answers[1]).abs().max() / answers[1].abs().max())
        fast, slow = (statistics.median(spent) for spent in seconds)
        spread = f"{min(ratios):.1f}..{max(ratios):.1f}"
        print(
            f"{variant:8} {question.project.size:8,} {fast:9.2f} {slow:10.2f} {statistics.median(ratios):7.1f} "
            f"{spread:>14} {off:8.0e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
