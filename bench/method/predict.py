"""Predicted changes of validation losses when pairs are removed, role by role, along given directions.

Along w = H^-1 grad L_val every prediction is a derivative, so one forward-mode derivative of the embeddings serves all
roles. `hook` is the quantity of libraries that multiply a layer's inputs and output gradients row by row: the gradient
of the whole batch's loss along one sample's path, here summed over all layers in closed form.

Shape suffixes: R targets, N pairs, P parameters, B pairs of a batch, C batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from bench.method.problems import Problem
from ecif import contrastive
from ecif.towers import differentiable_attention

Role = Literal["positive", "ecif", "exact", "hook"]


def target_gradients(problem: Problem, theta: Tensor, singles: int) -> Tensor:
    """Gradients of the validation loss and of the first `singles` pairs' own losses, (1 + singles, P)."""
    value = theta.clone().requires_grad_()
    with differentiable_attention():
        losses = problem.validation_losses(value)
        weights = torch.zeros(1 + singles, len(losses), dtype=losses.dtype)
        weights[0] = 1 / len(losses)
        weights[1:, :singles] = torch.eye(singles, dtype=losses.dtype)
        (gradients,) = torch.autograd.grad(losses, value, weights, is_grads_batched=True)
    return gradients


def targets(problem: Problem, theta: Tensor, singles: int) -> Tensor:
    """The validation loss and the first `singles` pairs' own losses, (1 + singles,)."""
    with torch.no_grad():
        losses = problem.validation_losses(theta)
    return torch.cat([losses.mean().unsqueeze(0), losses[:singles]])


class Derivatives:
    """Logits of the training batches and their derivatives along R directions."""

    def __init__(self, problem: Problem, theta: Tensor, w_RP: Tensor) -> None:
        def along(w_P: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            def embed(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                u, v, scale = problem.embed(t, problem.train)
                return u, v, torch.as_tensor(scale, dtype=u.dtype)

            primal, tangent, *_ = torch.func.jvp(embed, (theta,), (w_P,))
            return primal, tangent

        with differentiable_attention(), torch.no_grad():
            (u, v, scale), (du, dv, dscale) = torch.vmap(along, out_dims=(None, 0))(w_RP)  # type: ignore[arg-type]
        self.problem = problem
        batches = problem.batches
        u, v, du, dv = u[batches], v[batches].mT, du[:, batches], dv[:, batches].mT
        self.s_CBB = scale * u @ v
        self.of_images_RCBB = scale * du @ v
        self.of_texts_RCBB = scale * u @ dv
        self.ds_RCBB = self.of_images_RCBB + self.of_texts_RCBB + dscale[:, None, None, None] * (u @ v)

    def singles(self, role: Role) -> Tensor:
        """Predicted change by removing each pair, (R, N); mean over the segmentations."""
        found = torch.zeros(len(self.ds_RCBB), self.problem.n, dtype=self.s_CBB.dtype)
        for c, rows in enumerate(self.problem.batches):
            s_BB = self.s_CBB[c]
            for r in range(len(found)):
                if role == "hook":
                    h_BB = torch.softmax(s_BB, 1) + torch.softmax(s_BB, 0) - 2 * torch.eye(len(rows), dtype=s_BB.dtype)
                    of_images, of_texts = h_BB * self.of_images_RCBB[r, c], h_BB * self.of_texts_RCBB[r, c]
                    change = of_images.sum(1) + of_texts.sum(0)
                else:
                    change = contrastive.d_positive(s_BB, self.ds_RCBB[r, c])
                    change = change + self._negative(role, s_BB, self.ds_RCBB[r, c])
                found[r, rows] += change / self.problem.segmentations
        return found

    def of_set(self, members_N: Tensor, role: Role) -> Tensor:
        """Predicted change by removing a whole set at once, with its set-wise negative role, (R,)."""
        found = torch.zeros(len(self.ds_RCBB), dtype=self.s_CBB.dtype)
        terms: list[Callable[[Tensor, Tensor], Tensor]] = [contrastive.positive_of_set]
        terms += {"ecif": [contrastive.negative_of_set], "exact": [contrastive.negative_exact_of_set]}.get(role, [])
        for c, rows in enumerate(self.problem.batches):
            inside_B = members_N[rows]
            if not inside_B.any():
                continue
            for r in range(len(found)):
                for term in terms:
                    _, change, *_ = torch.func.jvp(
                        lambda s, term=term, inside=inside_B: term(s, inside), (self.s_CBB[c],), (self.ds_RCBB[r, c],)
                    )
                    found[r] += change / self.problem.segmentations
        return found

    def _negative(self, role: Role, s_BB: Tensor, ds_BB: Tensor) -> Tensor:
        if role == "ecif":
            return contrastive.d_negative(s_BB, ds_BB)
        return contrastive.d_negative_exact(s_BB, ds_BB) if role == "exact" else torch.zeros_like(s_BB[0])
