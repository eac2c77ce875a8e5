"""Bilinear similarities of fixed features, trained to convergence: the smallest contrastive problem.

S = h_image W h_text^T is linear in W, so the loss is convex, its GGN matrix is its Hessian, and every retraining ends
in the one minimum: what is left between prediction and fact is the influence approximation itself.
"""

from __future__ import annotations

from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from ecif import contrastive, curvature
from ecif.influence import BatchTerms, Embedded, NegativeRole, negative_influence, positive_influence


class BilinearProblem:
    """Pairs are noisy views of a common latent vector; every eighth has a wrong caption.

    Batches are fixed, as in the method: removing a pair takes it out of its batch.
    """

    def __init__(
        self, n: int = 96, batch: int = 32, seed: int = 0, noise: float = 0.5, delta: float = 20.0, width: int = 4
    ) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.n, self.delta, self.width = n, delta, width
        mix_image, mix_text = normal(4, self.width), normal(4, self.width)

        def views(count: int) -> tuple[Tensor, Tensor]:
            latent = normal(count, 4)
            image, text = latent @ mix_image, latent @ mix_text
            return image + noise * normal(count, width), text + noise * normal(count, width)

        # The pretrained point knows something already, as a pretrained model does.
        self.theta_0 = (0.3 * torch.linalg.pinv(mix_image) @ torch.linalg.pinv(mix_text).T).flatten()
        self.h_image, self.h_text = views(n)
        self.wrong = np.arange(n) % 8 == 0
        rows = torch.arange(0, n, 8)
        self.h_text[rows] = self.h_text[rows.roll(1)]
        self.val_image, self.val_text = views(48)
        self.batches = list(torch.arange(n).split(batch))

    def embedded(self, theta: Tensor, h_image: Tensor, h_text: Tensor) -> tuple[Tensor, Tensor]:
        return h_image @ theta.reshape(self.width, self.width), h_text

    def logits(self, theta: Tensor, rows: Tensor) -> Tensor:
        return contrastive.logits(*self.embedded(theta, self.h_image[rows], self.h_text[rows]), 1.0)

    def loss(self, theta: Tensor, removed: int | None = None) -> Tensor:
        total = self.delta / 2 * (theta - self.theta_0).square().sum()
        for rows in self.batches:
            total = total + contrastive.batch_loss(
                self.logits(theta, rows if removed is None else rows[rows != removed])
            )
        return total

    def validation_loss(self, theta: Tensor) -> Tensor:
        s = contrastive.logits(*self.embedded(theta, self.val_image, self.val_text), 1.0)
        return contrastive.batch_loss(s) / (2 * len(s))

    def minimise(self, start: Tensor, removed: int | None = None) -> Tensor:
        """Newton's method with a line search, to a gradient of 1e-8."""
        theta = start.clone()
        for _ in range(50):
            value = theta.clone().requires_grad_()
            loss = self.loss(value, removed)
            (gradient,) = torch.autograd.grad(loss, value)
            if gradient.norm() < 1e-8:
                return theta
            hessian = torch.autograd.functional.hessian(lambda t: self.loss(t, removed), theta, vectorize=True)
            step, length = torch.linalg.solve(hessian, gradient), 1.0
            while self.loss(theta - length * step, removed) > loss * (1 + 1e-12):
                length /= 2
            theta = theta - length * step
        raise AssertionError("the small problem was not trained to convergence")

    @cached_property
    def minimum(self) -> Tensor:
        """theta, flat."""
        return self.minimise(self.theta_0)

    @cached_property
    def actual(self) -> np.ndarray:
        """Change of the validation loss when each pair is left out and the model retrained, (n,)."""
        before = self.validation_loss(self.minimum)
        changes = (self.validation_loss(self.minimise(self.minimum, n)) - before for n in range(self.n))
        return np.array([float(change) for change in changes])

    def validation_gradient(self) -> Tensor:
        value = self.minimum.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.validation_loss(value), value)
        return gradient

    def ggn(self, x: Tensor) -> Tensor:
        """GGN of all batches times a vector, without damping."""
        products = [curvature.ggn_product(partial(self.logits, rows=rows), self.minimum, x) for rows in self.batches]
        return torch.stack(products).sum(0)

    def direction(self) -> Tensor:
        """w by conjugate gradients."""
        return curvature.conjugate_gradients(lambda x: self.ggn(x) + self.delta * x, self.validation_gradient())

    def predict(self, w: Tensor, role: NegativeRole) -> tuple[np.ndarray, np.ndarray]:
        """Positive and negative influence of all pairs along w, (n,) each."""
        found = np.zeros((2, self.n))
        theta = self.minimum.clone()
        for rows in self.batches:
            h_image, h_text = self.h_image[rows], self.h_text[rows]
            u, v = self.embedded(theta, h_image, h_text)
            _, (du, dv), *_ = torch.func.jvp(partial(self.embedded, h_image=h_image, h_text=h_text), (theta,), (w,))
            terms = BatchTerms.of(Embedded(u, v, du[None], dv[None], 1.0, (0.0,)), role)
            found[:, rows.numpy()] = torch.stack([positive_influence(terms), negative_influence(terms)]).numpy()
        return found[0], found[1]
