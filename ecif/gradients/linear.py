"""Projected per-sample gradients of linear layers for a loss that acts on EACH SAMPLE ALONE, by one pass.

Not for the contrastive loss, nor any other that couples the samples of a batch: what this computes is then the gradient
of the whole batch's loss along one sample's path, which is neither what the sample's own term nor what its removal
would give (use `projected_gradients`). It is here for pointwise losses, such as a language model's or a classifier's,
where that difference does not exist.

The forward pass keeps the projected inputs P_in x_t of every layer, not the inputs; the backward pass, of activations
only, projects the cotangent dy_t of a layer's output where it arises and adds sum_t (P_out dy_t) (P_in x_t)^T (arXiv
2405.13954) to the result. No gradient of a weight is formed, and nothing runs below the first covered layer. Cost: a
forward pass, a backward pass without weights (about another), and the projections.

Only weights and biases of nn.Linear modules that the model calls as modules are covered, and anything else in the
projection is refused: a parameter used in another way would silently miss part of its gradient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ecif.logra import MatrixProjection, Projection


def linear_gradients(
    model: nn.Module, loss: Callable[[nn.Module, Any], Tensor], inputs: Any, projection: Projection
) -> Tensor:
    """Projected gradients of the loss of each sample, (B, K).

    WRONG for a loss that couples the samples of the batch, and for a model that does (batch norm in training).

    Args:
        model: called by `loss`. loss: (model, inputs) -> (B,), entry n a function of sample n alone.
        projection: of weights (n_out, n_in) and biases of nn.Linear modules of the model, by name.

    Raises:
        ValueError: a parameter of the projection is not covered: it is no nn.Linear's, its layer was not called as a
            module, it is shared between modules, or a layer's input does not keep the samples apart in its first axis.
    """
    layers = _layers(model, projection)
    # All that the graph is grown for: its gradient, zero, needs the backward pass of every covered layer and no more.
    anchor = torch.zeros((), requires_grad=True)
    with _frozen(model), _instead(layers, anchor), torch.enable_grad():
        losses_B = loss(model, inputs)
        total = losses_B.sum()
    if losses_B.dim() != 1:
        raise ValueError(f"the loss must give one number per sample, (B,), not {tuple(losses_B.shape)}")
    for layer in layers:
        layer.check(len(losses_B))
    rows_BK = losses_B.new_zeros(len(losses_B), projection.size, requires_grad=False)
    for layer in layers:
        layer.rows.update({kind: rows_BK[:, columns] for kind, columns in layer.columns.items()})
    torch.autograd.grad(total, anchor)
    return rows_BK


@dataclass(frozen=True, slots=True)
class _Layer:
    """One nn.Linear: projections and columns of its covered parameters by kind (weight, bias), and what it met."""

    name: str
    module: nn.Linear
    parts: dict[str, MatrixProjection] = field(default_factory=dict)
    columns: dict[str, slice] = field(default_factory=dict)
    samples: list[int] = field(default_factory=list)
    rows: dict[str, Tensor] = field(default_factory=dict)

    def check(self, samples: int) -> None:
        if not self.samples:
            raise ValueError(
                f"{self.name}: the layer was not called as a module, so its gradient cannot be seen (an attention "
                "module uses the weights of its own projections directly); leave it out of the projection"
            )
        if any(n != samples for n in self.samples):
            raise ValueError(f"{self.name}: the first axis of the layer's input is not that of the {samples} samples")

    def reduce(self, x: Tensor) -> Tensor:
        """What the backward pass needs of the input: P_in x, (B, T, k_in)."""
        if "weight" not in self.parts:
            return x.new_empty(0)
        right = self.parts["weight"].right
        return _tokens(x if right is None else x @ right.T)

    def add(self, dy: Tensor, x: Tensor) -> None:
        """Add one call's part of the gradients to the rows."""
        dy = _tokens(dy)
        for kind, part in self.parts.items():
            out = dy if part.left is None else dy @ part.left.T
            if kind == "weight":
                self.rows[kind].unflatten(1, (out.shape[2], x.shape[2])).baddbmm_(out.mT, x)
            else:
                self.rows[kind].add_(out.sum(1))


class _Linear(torch.autograd.Function):
    """x W^T + b, whose backward pass writes projected gradients instead of returning gradients of W and b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: _Layer, anchor: Tensor) -> Tensor:
        layer.samples.append(x.shape[0] if x.dim() > 1 else 0)
        ctx.layer = layer
        ctx.save_for_backward(weight, layer.reduce(x), anchor)
        # Written into a tensor of its own: F.linear gives a view of a matrix, on which no ReLU may work in place.
        y = x.new_empty(*x.shape[:-1], weight.shape[0])
        if bias is None:
            torch.mm(x.flatten(0, -2), weight.T, out=y.view(-1, weight.shape[0]))
        else:
            torch.addmm(bias, x.flatten(0, -2), weight.T, out=y.view(-1, weight.shape[0]))
        return y

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, None, None, None, Tensor]:
        (dy,) = cotangents
        weight, x, anchor = ctx.saved_tensors
        ctx.layer.add(dy, x)
        return dy @ weight if ctx.needs_input_grad[0] else None, None, None, None, torch.zeros_like(anchor)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient: what lies below the first covered layer then has no backward pass."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@contextmanager
def _instead(layers: list[_Layer], anchor: Tensor) -> Iterator[None]:
    """Run `_Linear` in the place of the forward method of each layer."""

    def forward(layer: _Layer, x: Tensor) -> Tensor:
        bias = layer.module.bias
        return _Linear.apply(x, layer.module.weight.detach(), None if bias is None else bias.detach(), layer, anchor)

    before = [vars(layer.module).get("forward") for layer in layers]
    try:
        for layer in layers:
            vars(layer.module)["forward"] = partial(forward, layer)
        yield
    finally:
        for layer, method in zip(layers, before, strict=True):
            vars(layer.module)["forward"] = method
            if method is None:
                del vars(layer.module)["forward"]


def _layers(model: nn.Module, projection: Projection) -> list[_Layer]:
    modules = dict(model.named_modules())
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    found: dict[str, _Layer] = {}
    for (name, part), columns in zip(projection.parts.items(), projection.slices().values(), strict=True):
        owner, _, kind = name.rpartition(".")
        module = modules.get(owner)
        parameter: object = getattr(module, kind, None)
        if not isinstance(module, nn.Linear) or kind not in ("weight", "bias") or not isinstance(parameter, Tensor):
            raise ValueError(f"{name}: is no weight or bias of an nn.Linear; leave it out of the projection")
        if tuple(parameter.shape) != part.shape:
            raise ValueError(f"{name}: has shape {tuple(parameter.shape)}, the projection is for {part.shape}")
        if uses[id(parameter)] > 1:
            raise ValueError(f"{name}: is shared with another module, whose part of its gradient would be missed")
        layer = found.setdefault(owner, _Layer(owner, module))
        layer.parts[kind], layer.columns[kind] = part, columns
    return list(found.values())


def _tokens(x: Tensor) -> Tensor:
    """(B, ..., n) -> (B, T, n)."""
    return x.reshape(x.shape[0], -1, x.shape[-1])
