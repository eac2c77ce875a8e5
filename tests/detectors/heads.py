"""Two linear heads on fixed features, in float64: everything a detector may ask for, by automatic differentiation."""

from __future__ import annotations

import torch
from torch import Tensor

from ecif import contrastive
from ecif.detectors.views import BatchView, Change
from ecif.influence import Embedded, NegativeRole

SCALE = 8.0
WIDTH, DIM = 5, 4


class Heads:
    """Pairs whose halves are noisy views of one vector; pair k is of kind k % kinds, near the centre of that kind.

    Attributes:
        theta: both heads, flat, (2 * WIDTH * DIM,).
        wrong: mask of the pairs that have the caption of one of another kind.
    """

    def __init__(self, n: int = 6, *, wrong: int = 0, kinds: int = 4, turn: float = 0.0, seed: int = 0) -> None:
        """Make n pairs, the first of each `wrong` spoilt (0: none), with captions turned away from the images."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        # Orthonormal rows, so that the transpose undoes the mixing and does not blow up the noise.
        mix_image, mix_text = (torch.linalg.qr(normal(WIDTH, DIM)).Q.T for _ in range(2))
        centres = torch.linalg.qr(normal(DIM, DIM)).Q

        def views(count: int) -> tuple[Tensor, Tensor]:
            latent = 2 * centres[torch.arange(count) % kinds] + 0.5 * normal(count, DIM)
            image, text = latent @ mix_image, latent @ mix_text
            return image + 0.2 * normal(count, WIDTH), text + 0.2 * normal(count, WIDTH)

        self.n = n
        self.h_image, self.h_text = views(n)
        self.val_image, self.val_text = views(24)
        self.wrong = torch.arange(n) % wrong == 0 if wrong else torch.zeros(n, dtype=torch.bool)
        rows = self.wrong.nonzero().flatten()
        self.h_text[rows] = self.h_text[(rows + 1 + torch.arange(len(rows)) % (kinds - 1)) % n]
        skew = normal(DIM, DIM)
        turned = mix_text.T @ torch.matrix_exp(turn * (skew - skew.T) / skew.norm())
        right = torch.cat([mix_image.T.flatten(), turned.flatten()])
        self.theta = right + 0.05 * normal(len(right))

    def embed(self, theta: Tensor, h_image: Tensor, h_text: Tensor) -> tuple[Tensor, Tensor]:
        image, text = theta.reshape(2, WIDTH, DIM)
        return (
            torch.nn.functional.normalize(h_image @ image, dim=1),
            torch.nn.functional.normalize(h_text @ text, dim=1),
        )

    def logits(self, theta: Tensor) -> Tensor:
        u, v = self.embed(theta, self.h_image, self.h_text)
        return contrastive.logits(u, v, SCALE)

    def validation_loss(self, theta: Tensor) -> Tensor:
        u, v = self.embed(theta, self.val_image, self.val_text)
        return contrastive.batch_loss(contrastive.logits(u, v, SCALE)) / (2 * len(u))

    def validation_gradient(self) -> Tensor:
        theta = self.theta.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.validation_loss(theta), theta)
        return gradient

    def validation_gradients(self) -> Tensor:
        """Of Pos / 2 of each validation pair, (V, P)."""

        def single(theta: Tensor) -> Tensor:
            u, v = self.embed(theta, self.val_image, self.val_text)
            return contrastive.positive(contrastive.logits(u, v, SCALE)) / 2

        return torch.func.jacrev(single)(self.theta)

    def embedded(self, *directions: Tensor) -> Embedded:
        """The pairs with their derivatives along flat directions."""
        du, dv = [], []
        for w in directions:
            (u, v), change, *_ = torch.func.jvp(lambda t: self.embed(t, self.h_image, self.h_text), (self.theta,), (w,))
            du.append(change[0])
            dv.append(change[1])
        return Embedded(u, v, torch.stack(du), torch.stack(dv), SCALE, (0.0,) * len(directions))

    def view(self, role: NegativeRole = "exact", **directions: Tensor) -> BatchView:
        """The pairs as one batch, with changes along the named directions."""
        changes = {}
        if directions:
            embedded = self.embedded(*directions.values())
            changes = {name: Change.of(embedded, r) for r, name in enumerate(directions)}
        return BatchView(self.logits(self.theta), SCALE, role, torch.arange(self.n), changes)

    def pointwise(self, theta: Tensor, n: int) -> Tensor:
        """Pos_n, a scalar, where only pair n's own embeddings depend on theta."""
        u, v = (x.detach() for x in self.embed(self.theta, self.h_image, self.h_text))
        own_u, own_v = self.embed(theta, self.h_image[n : n + 1], self.h_text[n : n + 1])
        others = torch.arange(self.n) != n
        own = SCALE * (own_u[0] @ own_v[0])
        row = torch.cat([own[None], SCALE * v[others] @ own_u[0]])
        column = torch.cat([own[None], SCALE * u[others] @ own_v[0]])
        return torch.logsumexp(row, 0) + torch.logsumexp(column, 0) - 2 * own

    def random_direction(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(len(self.theta), generator=generator, dtype=torch.float64)
