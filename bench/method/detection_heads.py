"""Everything a score can be made of, for two linear heads on kept features: matrix products, no model pass.

The corpus is one shard here. It is cut into batches by the pipeline's own segmentation; gradients are means over the
segmentations, so that every score that is linear in them is one, too. Projections, gradients, curvature and solvers are
those of the pipeline with its defaults (LoGra rank 32, at most 2,048 numbers, 16 sketches per batch).

Shape suffixes: N corpus pairs, V validation pairs, K projected numbers, I and D inputs and outputs of a head.
"""

from __future__ import annotations

from functools import cache, cached_property

import torch
from torch import Tensor

from bench.method.detection_sets import Features, Model, Set
from ecif import contrastive, curvature, logra
from ecif.curvature import Diagonal, Factor
from ecif.detectors import pointwise, trak
from ecif.gradients import Head, Role, head_gradients
from ecif.influence import Embedded
from ecif.segmentation import segment

BATCH, SEGMENTATIONS, SKETCHES = 256, 3, 16
RANK, BUDGET = 32, 2048
Gradient = dict[str, Tensor]


class Heads:
    """One corpus under one model; with `masked`, equal captions do not compete anywhere."""

    def __init__(self, found: Set, model: Model, init: str = "random", *, masked: bool = False) -> None:
        self.found = found
        self.corpus, self.validation = model.corpus, model.validation
        self.n = len(found.uids)
        self.shapes = {"image": tuple(self.corpus.w_image.shape), "text": tuple(self.corpus.w_text.shape)}
        self.batches = [_batches(found.uids, k) for k in range(SEGMENTATIONS)]
        self.validation_batches = _batches([str(row) for row in range(len(self.validation.h_text))], 0)
        self.init = init
        corpus, validation = found.numbers()
        self._numbers = corpus if masked else None
        self._validation_numbers = validation if masked else None

    @cached_property
    def projection(self) -> logra.Projection:
        """LoGra's: random, or from the sketches' sides."""
        device, dtype = torch.device("cpu"), torch.float32
        if self.init == "pca":
            sides = curvature.sides(self.sketches)
            return logra.build_pca(self.shapes, sides, RANK, BUDGET, 0, device, dtype)
        return logra.build(self.shapes, RANK, BUDGET, 0, device, dtype)

    @cached_property
    def sketches(self) -> list[Gradient]:
        """J^T M^(1/2) xi of the batches of the first segmentation."""
        generator = torch.Generator().manual_seed(0)
        u, v = self.corpus.embed()
        found = []
        for rows in self.batches[0]:
            captions_B = None if self._numbers is None else self._numbers[rows]
            for c in curvature.ggn_sketches(u[rows], v[rows], self.corpus.scale, SKETCHES, generator, captions_B):
                found.append(pull_back(self.corpus.take(rows), c.u_BD / SKETCHES**0.5, c.v_BD / SKETCHES**0.5))
        return found

    @cache  # noqa: B019 - lives as long as the study of one corpus
    def gradients(self, role: Role) -> Tensor:
        """Projected gradients of the role of every pair, mean over the segmentations, (N, K)."""
        total = torch.zeros(self.n, self.projection.size)
        for batches in self.batches:
            for rows in batches:
                total[rows] += self._gradients(self.corpus, rows, role, self._numbers)
        return total / SEGMENTATIONS

    @cached_property
    def validation_gradients(self) -> Tensor:
        """Those of Pos_j / 2 of every validation pair, (V, K); their mean is the gradient of L_val."""
        total = torch.zeros(len(self.validation.h_text), self.projection.size)
        for rows in self.validation_batches:
            total[rows] = self._gradients(self.validation, rows, "positive", self._validation_numbers) / 2
        return total

    def _gradients(self, features: Features, rows: Tensor, role: Role, numbers: Tensor | None) -> Tensor:
        parts = self.projection.parts
        image = Head(features.w_image, False, parts["image"])
        text = Head(features.w_text, False, parts["text"])
        batch = features.take(rows)
        captions_B = None if numbers is None else numbers[rows]
        return torch.cat(head_gradients(batch.h_image, batch.h_text, image, text, features.scale, role, captions_B), 1)

    @cached_property
    def validation_gradient(self) -> Gradient:
        """Gradient of L_val, whole; of the study without masks."""
        total = {name: torch.zeros(shape) for name, shape in self.shapes.items()}
        u, v = self.validation.embed()
        for rows in self.validation_batches:
            s_BB = contrastive.logits(u[rows], v[rows], self.validation.scale).requires_grad_()
            (h_BB,) = torch.autograd.grad(contrastive.batch_loss(s_BB) / (2 * len(u)), s_BB)
            c = curvature.through_logits(h_BB, u[rows], v[rows], self.validation.scale)
            part = pull_back(self.validation.take(rows), c.u_BD, c.v_BD)
            total = {name: total[name] + part[name] for name in total}
        return total

    @cached_property
    def _ggn(self) -> Factor:
        rows = torch.stack([self.projection.project(sketch) for sketch in self.sketches])
        return curvature.factorise(curvature.gram(rows), 1024, "1x")

    @cached_property
    def _fisher(self) -> Factor:
        return curvature.factorise(curvature.gram(self.gradients("positive")), 1024, "1x")

    def factor(self, kind: str = "ggn", damping: float = 10.0, dtype: torch.dtype = torch.float32) -> Factor | Diagonal:
        """Solver in the projected space; damping in multiples of the mean eigenvalue."""
        if kind == "identity":
            return Diagonal(torch.zeros(self.projection.size, dtype=dtype), 1.0, 1.0)
        found = self._ggn if kind == "ggn" else self._fisher
        mean = found.mean_eigenvalue
        return Factor(found.vectors.to(dtype), found.values.to(dtype), damping * mean, mean)

    @cached_property
    def direction(self) -> Gradient:
        """w of the pipeline's defaults, lifted."""
        g_K = self.projection.project(self.validation_gradient)
        return self.projection.lift(self.factor().solve(g_K))

    @cached_property
    def ekfac_direction(self) -> Gradient:
        """EK-FAC^-1 grad L_val, from the pointwise gradients of the corpus, damping 10x."""
        sides, parts = {}, self._pointwise(self.corpus, self.batches[0])
        for name, (x_NI, y_ND) in parts.items():
            sides[f"{name}/left"] = (x_NI * y_ND.square().sum(1, keepdim=True)).double().T @ x_NI.double()
            sides[f"{name}/right"] = (y_ND * x_NI.square().sum(1, keepdim=True)).double().T @ y_ND.double()
        basis = logra.build_pca(self.shapes, sides, 1, 1, 0, torch.device("cpu"), torch.float32, whole=True)
        values = torch.cat([_moments(basis.parts[name], *parts[name]) for name in self.shapes])
        mean = float(values.mean())
        found = Diagonal(values, 10 * mean, mean)
        return basis.lift(found.solve(basis.project(self.validation_gradient)))

    @cached_property
    def trak_direction(self) -> Gradient:
        """TRAK's, from the same gradients in LoGra's projection, damping 10x."""
        features = self._project(self._pointwise(self.corpus, self.batches[0]))
        validation = self._project(self._pointwise(self.validation, self.validation_batches)).mean(0) / 2
        return self.projection.lift(trak.direction(features, validation, 10.0).float())

    def _pointwise(self, features: Features, batches: list[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Gradients of the pointwise Pos as outer products x y^T, by head: (N, I) and (N, D)."""
        u, v = features.embed()
        c_u, c_v = torch.zeros_like(u), torch.zeros_like(v)
        for rows in batches:
            c_u[rows], c_v[rows] = pointwise.cotangents(u[rows], v[rows], features.scale)
        return {
            "image": (features.h_image, _through_norm(features.h_image @ features.w_image, c_u)),
            "text": (features.h_text, _through_norm(features.h_text @ features.w_text, c_v)),
        }

    def _project(self, parts: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
        found = []
        for name, (x_NI, y_ND) in parts.items():
            x, y = _rotated(self.projection.parts[name], x_NI, y_ND)
            found.append((x.unsqueeze(2) * y.unsqueeze(1)).flatten(1))
        return torch.cat(found, 1)

    def embedded(self, *directions: Gradient) -> Embedded:
        """The corpus with its derivatives along directions."""
        u, v = self.corpus.embed()
        z_image, z_text = self.corpus.h_image @ self.corpus.w_image, self.corpus.h_text @ self.corpus.w_text
        du = [_through_norm(z_image, self.corpus.h_image @ w["image"]) for w in directions]
        dv = [_through_norm(z_text, self.corpus.h_text @ w["text"]) for w in directions]
        return Embedded(u, v, torch.stack(du), torch.stack(dv), self.corpus.scale, (0.0,) * len(directions))

    def stepped(self) -> Features:
        """The corpus after a step down L_val by one hundredth of the weights' length."""
        g = self.validation_gradient
        length = sum(float(part.square().sum()) for part in g.values()) ** 0.5
        c = self.corpus
        step = 0.01 * float((c.w_image.square().sum() + c.w_text.square().sum()).sqrt()) / length
        return Features(c.h_image, c.h_text, c.w_image - step * g["image"], c.w_text - step * g["text"], c.scale)


def pull_back(features: Features, c_u: Tensor, c_v: Tensor) -> Gradient:
    """Cotangents of u and v -> gradients of the heads."""
    image = features.h_image.T @ _through_norm(features.h_image @ features.w_image, c_u)
    return {"image": image, "text": features.h_text.T @ _through_norm(features.h_text @ features.w_text, c_v)}


def _through_norm(z: Tensor, c: Tensor) -> Tensor:
    """The derivative of z / |z|, which is symmetric, times c."""
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    return (c - u * (u * c).sum(1, keepdim=True)) / length


def _rotated(part: logra.MatrixProjection, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return (x if part.left is None else x @ part.left.T), (y if part.right is None else y @ part.right.T)


def _moments(part: logra.MatrixProjection, x_NI: Tensor, y_ND: Tensor) -> Tensor:
    x, y = _rotated(part, x_NI, y_ND)
    return (x.square().T @ y.square()).flatten()


def _batches(keys: list[str] | tuple[str, ...], k: int) -> list[Tensor]:
    return [torch.from_numpy(rows) for rows in segment(keys, BATCH, 0, k).batches]
