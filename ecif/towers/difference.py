"""Derivatives of the embeddings along directions by central differences: two forward passes instead of a derivative.

A forward-mode derivative takes twice a forward pass on top of one, on the math kernel of attention. The difference
(f(theta + h w) - f(theta - h w)) / 2h takes two forward passes in all, on fused kernels, because f(theta) itself is
their mean to the same order. The price is accuracy: the error falls with h^2 until rounding, which grows with 1 / h,
takes over. Both meet where h moves the embeddings, which are of unit length, by about the cube root of the rounding
unit. They are moved by |h du|, so h is chosen for each direction and tower from the exact derivative of a few pairs,
and the difference is held against that derivative there and then.

bench/difference.py prints the error and the gain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ecif.errors import ModelError
from ecif.towers import Parameters, Towers
from ecif.towers.cut import State

PROBED = 8  # pairs whose exact derivative chooses the step
LARGEST_ERROR = 1e-2  # of a derivative, relative, on these


class Differences:
    """The same as `Towers.push_forward`, for the samples of one shard: its first ones choose the steps.

    Scores of a shard depend on nothing but the shard, so an object serves one shard and is not used again.
    """

    def __init__(self, towers: Towers) -> None:
        self._towers = towers
        self._steps: dict[Callable[..., Tensor], list[float]] = {}

    def push_forward(
        self, directions: Sequence[Parameters], image: State, text: State
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Embeddings and their derivatives along R directions: u_BD, v_BD, du_RBD, dv_RBD.

        Raises:
            ModelError: the difference is not the derivative.
        """
        u_BD, du_RBD = self._along(directions, self._towers.embed_images, image)
        v_BD, dv_RBD = self._along(directions, self._towers.embed_texts, text)
        return u_BD, v_BD, du_RBD, dv_RBD

    def push_forward_texts(self, directions: Sequence[Parameters], text: State) -> tuple[Tensor, Tensor]:
        """The same of captions alone: v_BD, dv_RBD."""
        return self._along(directions, self._towers.embed_texts, text)

    def scaled(self, multiple: float) -> Differences:
        """The same with other steps: a multiple of those that were chosen, without a check."""
        other = Differences(self._towers)
        other._steps = {tower: [multiple * step for step in steps] for tower, steps in self._steps.items()}
        return other

    def _along(
        self, directions: Sequence[Parameters], embed: Callable[[Parameters, State], Tensor], state: State
    ) -> tuple[Tensor, Tensor]:
        if embed not in self._steps:
            self._steps[embed] = self._choose(directions, embed, tuple(part[:PROBED] for part in state))
        return self._difference(directions, embed, state, self._steps[embed])

    def _difference(
        self,
        directions: Sequence[Parameters],
        embed: Callable[[Parameters, State], Tensor],
        state: State,
        steps: Sequence[float],
    ) -> tuple[Tensor, Tensor]:
        at = self._towers.parameters
        total, found = None, []
        with torch.no_grad():
            for direction, step in zip(directions, steps, strict=True):
                ahead = embed({n: torch.add(p, direction[n], alpha=step) for n, p in at.items()}, state)
                behind = embed({n: torch.sub(p, direction[n], alpha=step) for n, p in at.items()}, state)
                found.append((ahead - behind) / (2 * step))
                middle = ahead + behind
                total = middle if total is None else total + middle
            assert total is not None
            return F.normalize(total, dim=-1), torch.stack(found)

    def _choose(
        self, directions: Sequence[Parameters], embed: Callable[[Parameters, State], Tensor], state: State
    ) -> list[float]:
        """The step of each direction, from the length of its exact derivative."""
        _, exact_RBD = self._towers.derivatives(directions, lambda p: (embed(p, state),))
        smallest = torch.finfo(self._towers.dtype).tiny
        moved = torch.finfo(self._towers.dtype).eps ** (1 / 3)
        lengths_R = exact_RBD.double().square().sum(2).mean(1).sqrt().clamp_min(smallest)
        # A direction that does not reach this tower moves nothing, whatever the step.
        steps = [moved / length if length > smallest else moved for length in lengths_R.tolist()]
        _, found_RBD = self._difference(directions, embed, state, steps)
        errors_R = (found_RBD - exact_RBD).double().square().sum(2).mean(1).sqrt() / lengths_R
        if not bool((errors_R <= LARGEST_ERROR).all()):
            raise ModelError(
                f"--derivative difference: it is off the derivative by {float(errors_R.max()):.1e} of its length, more "
                f"than {LARGEST_ERROR:.0e}, on the first {len(state[0])} pairs of a shard; use --derivative exact"
            )
        return steps
