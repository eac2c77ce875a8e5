"""Which parameters the influence lives in, by name, and what share of the model that is.

heads    the last projection of each tower, with its bias where it has one
last:K   those, and the last K transformer blocks of each tower with the norms after them
all      every parameter, the logit scale and the token table included

Biases, norms and other parameters of fewer than two axes can be left out of each.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ecif.errors import ModelError


@dataclass(frozen=True, slots=True)
class Tower:
    """Where the parts of one tower lie in an open_clip model.

    Attributes:
        head: name of the last projection's weight, or "" where the tower has none.
        head_is_linear: the weight belongs to an nn.Linear, (n_out, n_in); otherwise it is (n_in, n_out).
        blocks: name of the ModuleList of transformer blocks, or "".
        after: names of the modules between the last block and the head.
    """

    name: str
    head: str
    head_is_linear: bool
    blocks: str
    after: tuple[str, ...]


def image_tower(model: nn.Module) -> Tower:
    """The image tower's parts: open_clip's own ViT, or a timm tower with a linear projection."""
    names = dict(model.named_parameters())
    if "visual.proj" in names and hasattr(model.visual, "_pool"):
        after = tuple(n for n in ("visual.ln_post", "visual.attn_pool") if _module(model, n) is not None)
        return Tower("image", "visual.proj", False, "visual.transformer.resblocks", after)
    if "visual.head.proj.weight" in names:
        return Tower("image", "visual.head.proj.weight", True, "", ())
    return Tower("image", "", False, "", ())


def text_tower(model: nn.Module) -> Tower:
    """The text tower's parts: open_clip's own transformer, built in or as `model.text`, or a hub encoder."""
    names = dict(model.named_parameters())
    prefix = "text." if hasattr(model, "text") else ""
    blocks = f"{prefix}transformer.resblocks"
    if _module(model, blocks) is not None:
        after = (f"{prefix}ln_final",)
        if f"{prefix}text_projection" in names:
            return Tower("text", f"{prefix}text_projection", False, blocks, after)
        if f"{prefix}text_projection.weight" in names:
            return Tower("text", f"{prefix}text_projection.weight", True, blocks, after)
        return Tower("text", "", False, blocks, after)
    if "text.proj.weight" in names:
        return Tower("text", "text.proj.weight", True, "", ())
    return Tower("text", "", False, "", ())


def trainable_names(model: nn.Module, choice: str, *, biases: bool = True) -> tuple[str, ...]:
    """Names of the parameters that `heads | last:K | all` stands for, in the model's order.

    Args:
        biases: whether parameters of fewer than two axes are among them.

    Raises:
        ModelError: the model has no such part; nothing is covered silently by less than was asked for.
    """
    if choice == "all":
        return tuple(name for name, p in model.named_parameters() if biases or p.dim() > 1)
    towers = (image_tower(model), text_tower(model))
    wanted: set[str] = set()
    for tower in towers:
        if not tower.head:
            raise ModelError(
                f"--trainable {choice}: the {tower.name} tower does not end in a projection known here; use 'all'"
            )
        wanted |= {tower.head, tower.head.removesuffix("weight") + "bias"} if tower.head_is_linear else {tower.head}
        if choice.startswith("last:"):
            wanted |= _last_blocks(model, tower, int(choice.removeprefix("last:")), choice)
    return tuple(name for name, p in model.named_parameters() if name in wanted and (biases or p.dim() > 1))


def _last_blocks(model: nn.Module, tower: Tower, k: int, choice: str) -> set[str]:
    blocks = _module(model, tower.blocks) if tower.blocks else None
    if not isinstance(blocks, nn.ModuleList):
        raise ModelError(f"--trainable {choice}: the {tower.name} tower has no transformer blocks; use 'all'")
    if k > len(blocks):
        raise ModelError(f"--trainable {choice}: the {tower.name} tower has only {len(blocks)} blocks")
    prefixes = [f"{tower.blocks}.{i}." for i in range(len(blocks) - k, len(blocks))]
    prefixes += [f"{name}." for name in tower.after]
    return {name for name, _ in model.named_parameters() if name.startswith(tuple(prefixes))}


def _module(model: nn.Module, name: str) -> nn.Module | None:
    try:
        found = model.get_submodule(name)
    except AttributeError:
        return None
    return found


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the model the influence sees.

    Attributes:
        covered, total: numbers of parameters. names: the covered parameters with their shapes.
    """

    covered: int
    total: int
    names: tuple[tuple[str, tuple[int, ...]], ...]

    def __str__(self) -> str:
        return f"{self.covered:,} of {self.total:,} parameters in {len(self.names)} tensors"


def coverage(model: nn.Module, names: tuple[str, ...]) -> Coverage:
    """Count what `names` cover."""
    parameters = dict(model.named_parameters())
    return Coverage(
        sum(parameters[name].numel() for name in names),
        sum(p.numel() for p in parameters.values()),
        tuple((name, tuple(parameters[name].shape)) for name in names),
    )
