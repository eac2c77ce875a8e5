"""One tower cut in two: a frozen stem that runs once without a graph, and the tail that is differentiated.

The cut lies as late as the trainable parameters allow: before the last projection (heads), before block
L - K (last:K), or before everything (all, and towers whose inside is not known here). What open_clip's
towers do after a cut is spelled out below; `Towers` compares it with open_clip's own forward pass once and
refuses on a difference, so a change inside open_clip cannot go unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from open_clip.transformer import TextTransformer, VisionTransformer, text_global_pool
from torch import Tensor, nn

from ecif.towers.parameters import Tower

# What lies between stem and tail, one row per sample in each tensor.
State = tuple[Tensor, ...]


class TowerTail(nn.Module):
    """The differentiable part of one tower; its parameters keep the names that they have in the model.

    Attributes:
        stem: input -> State, to be run under no_grad.
        head_input: whether the State is the input of the last projection (the cut of `heads`).
    """

    def __init__(
        self, model: nn.Module, stem: Callable[[Tensor], State], tail: Callable[..., Tensor], head_input: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.stem = stem
        self._tail = tail
        self.head_input = head_input

    def forward(self, *state: Tensor) -> Tensor:
        """State -> (B, D) embeddings, not yet of unit norm."""
        return self._tail(*state)


def cut_image(model: Any, tower: Tower, choice: str) -> TowerTail:
    """Cut the image tower for `heads | last:K | all`."""
    visual = model.visual
    if choice == "heads" and tower.head_is_linear:
        return _cut_before_linear(model, tower, visual)
    if choice == "all" or not isinstance(visual, VisionTransformer) or not visual.transformer.batch_first:
        return TowerTail(model, _whole, model.encode_image, False)
    blocks = visual.transformer.resblocks
    if choice == "heads":
        return TowerTail(
            model, lambda images: (visual._pool(visual.transformer(visual._embeds(images)))[0],),
            lambda x: x @ visual.proj, True,
        )  # fmt: skip
    first = len(blocks) - int(choice.removeprefix("last:"))

    def stem(images: Tensor) -> State:
        x = visual._embeds(images)
        for block in blocks[:first]:
            x = block(x)
        return (x,)

    def tail(x: Tensor) -> Tensor:
        for block in blocks[first:]:
            x = block(x)
        pooled: Tensor = visual._pool(x)[0] @ visual.proj
        return pooled

    return TowerTail(model, stem, tail, False)


def cut_text(model: Any, tower: Tower, choice: str) -> TowerTail:
    """Cut the text tower for `heads | last:K | all`."""
    text = model.text if hasattr(model, "text") else None
    if choice == "heads" and tower.head_is_linear:
        return _cut_before_linear(model, tower, text if text is not None else model.encode_text)
    # A text tower of its own may pool and mask in ways that only its forward knows.
    plain = text is None and model.transformer.batch_first
    if choice == "all" or not plain:
        if choice == "heads" and isinstance(text, TextTransformer):
            return _cut_before_parameter(model, text)
        return TowerTail(model, _whole, model.encode_text, False)
    blocks = model.transformer.resblocks
    first = len(blocks) if choice == "heads" else len(blocks) - int(choice.removeprefix("last:"))

    def stem(tokens: Tensor) -> State:
        dtype = model.transformer.get_cast_dtype()
        x = model.token_embedding(tokens).to(dtype) + model.positional_embedding.to(dtype)
        for block in blocks[:first]:
            x = block(x, attn_mask=model.attn_mask)
        return (pool(x, tokens),) if choice == "heads" else (x, tokens)

    def pool(x: Tensor, tokens: Tensor) -> Tensor:
        x = model.ln_final(x)
        pooled: Tensor = text_global_pool(x, tokens, model.text_pool_type, eos_token_id=model.text_eos_id)
        return pooled

    def project(x: Tensor) -> Tensor:
        head = model.text_projection
        projected: Tensor = head(x) if isinstance(head, nn.Linear) else x @ head
        return projected

    def tail(x: Tensor, tokens: Tensor) -> Tensor:
        for block in blocks[first:]:
            x = block(x, attn_mask=model.attn_mask)
        return project(pool(x, tokens))

    return TowerTail(model, stem, project if choice == "heads" else tail, choice == "heads")


def _whole(x: Tensor) -> State:
    return (x,)


def _cut_before_linear(model: nn.Module, tower: Tower, run: Callable[[Tensor], Tensor]) -> TowerTail:
    """Cut before a last nn.Linear: its input is what a hook sees of an ordinary forward pass."""
    linear = model.get_submodule(tower.head.removesuffix(".weight"))

    def stem(x: Tensor) -> State:
        seen: list[Tensor] = []
        handle = linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            run(x)
        finally:
            handle.remove()
        return (seen[0],)

    return TowerTail(model, stem, linear, True)


def _cut_before_parameter(model: Any, text: TextTransformer) -> TowerTail:
    """Cut before a bare projection parameter: without it, open_clip's forward returns its input."""

    def stem(tokens: Tensor) -> State:
        head, text.text_projection = text.text_projection, None
        try:
            out = text(tokens)
        finally:
            text.text_projection = head
        return (out[0] if isinstance(out, tuple) else out,)

    return TowerTail(model, stem, lambda x: x @ text.text_projection, True)


def check(tail: TowerTail, whole: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Largest difference between stem + tail and the model's own forward pass, relative to its largest entry."""
    with torch.no_grad():
        expected = whole(x)
        got = tail(*tail.stem(x))
    return ((got - expected).abs().max() / expected.abs().max()).item()
