"""Image and text towers of an open_clip model as functions of their trainable parameters.

`Towers.embed(parameters, state)` gives unit-norm (U, V) and works under torch.func; the state is what the
frozen part made of the samples, run once and without gradients. In eval mode a tower acts on each sample
alone, so any division into micro-batches gives the same embeddings (up to the rounding of another matrix
shape), and batches of the loss are formed from their rows afterwards.

Forward-mode differentiation does not exist for fused attention kernels: tails run on the math kernel, and
nn.MultiheadAttention's fast path is switched off for them; stems keep both (`attention`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, jvp, vmap

from ecif.errors import ModelError
from ecif.towers import cut, parameters
from ecif.towers.attention import differentiable_attention as differentiable_attention
from ecif.towers.attention import fused_attention
from ecif.towers.cut import State as State
from ecif.towers.cut import TowerTail
from ecif.towers.loading import LoadedModel
from ecif.towers.pixels import split

Parameters = Mapping[str, Tensor]
SCALE = "logit_scale"


class Towers:
    """One model on one device, cut for one choice of trainable parameters.

    Attributes:
        parameters: the trainable parameters by name, at theta_0.
        coverage: how much of the model they are.
        scale: the logit scale s = exp(logit_scale).
        size: height and width of the image tower's input.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        trainable: str,
        device: torch.device,
        *,
        biases: bool = True,
        stem_dtype: torch.dtype | None = None,
    ) -> None:
        """Cut `loaded` for `trainable` (heads | last:K | all).

        Args:
            biases: whether parameters of fewer than two axes are trainable, too.
            stem_dtype: autocast type of the frozen part, or None for the model's own.

        Raises:
            ModelError: the model has no such part, or the cut does not reproduce open_clip's forward pass.
        """
        self.loaded = loaded
        self.device = device
        self.trainable = trainable
        model: Any = loaded.model.to(device)
        names = parameters.trainable_names(model, trainable, biases=biases)
        self.coverage = parameters.coverage(model, names)
        by_name = dict(model.named_parameters())
        self.parameters = {name: by_name[name].detach() for name in names}
        self.image = cut.cut_image(model, parameters.image_tower(model), trainable)
        self.text = cut.cut_text(model, parameters.text_tower(model), trainable)
        self.heads = (parameters.image_tower(model), parameters.text_tower(model))
        self.scale = float(model.logit_scale.detach().exp())
        size = model.visual.image_size
        self.size = tuple(size) if isinstance(size, tuple | list) else (size, size)
        self._stem_dtype = stem_dtype
        self._pixels = split(loaded.transform, device)
        if stem_dtype is not None and trainable == "all":
            raise ModelError("--precision bf16 applies to the frozen part of the towers; with 'all' there is none")
        self._check_cut(model)

    @property
    def dtype(self) -> torch.dtype:
        """Arithmetic of the tails."""
        return next(iter(self.parameters.values())).dtype

    def take(self, image: Any) -> Tensor:
        """A picture as `image_stem` takes it, as bytes where the model's transform can be cut there (`pixels`)."""
        return self.loaded.transform(image) if self._pixels is None else self._pixels.take(image)

    def image_stem(self, images: Tensor) -> State:
        """Frozen part of the image tower: what `take` gave, (B, H, W, 3) uint8, or (B, 3, H, W) -> State."""
        return self._stem(self.image, self.to_input(images))

    def to_input(self, images: Tensor) -> Tensor:
        """What `take` gave, stacked, as the model takes it: (B, 3, H, W) on the device."""
        there = images.to(self.device, non_blocking=True)
        if there.dtype == torch.uint8 and self._pixels is not None:
            there = self._pixels.finish(there)
        return there.to(self.dtype)

    def text_stem(self, captions: list[str] | Tensor) -> State:
        """Frozen part of the text tower: B captions, or their tokens (B, L) -> State."""
        tokens = captions if isinstance(captions, Tensor) else self.loaded.tokenize(captions)
        return self._stem(self.text, tokens.to(self.device, non_blocking=True))

    def embed_images(self, parameters: Parameters, state: State) -> Tensor:
        """Unit-norm image embeddings u_BD as a function of the parameters."""
        return self._embed(self.image, parameters, state)

    def embed_texts(self, parameters: Parameters, state: State) -> Tensor:
        """Unit-norm text embeddings v_BD as a function of the parameters."""
        return self._embed(self.text, parameters, state)

    def embed(self, parameters: Parameters, image: State, text: State) -> tuple[Tensor, Tensor]:
        """Parameters -> (u_BD, v_BD); differentiable in both modes."""
        return self.embed_images(parameters, image), self.embed_texts(parameters, text)

    def push_forward(
        self, directions: Sequence[Parameters], image: State, text: State
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Embeddings and their derivatives along R directions that share one forward pass.

        Returns:
            u_BD, v_BD, du_RBD, dv_RBD.
        """

        u_BD, v_BD, du_RBD, dv_RBD = self._push_forward(directions, lambda p: self.embed(p, image, text))
        return u_BD, v_BD, du_RBD, dv_RBD

    def push_forward_texts(self, directions: Sequence[Parameters], text: State) -> tuple[Tensor, Tensor]:
        """The same of captions alone: v_BD, dv_RBD."""
        v_BD, dv_RBD = self._push_forward(directions, lambda p: (self.embed_texts(p, text),))
        return v_BD, dv_RBD

    def _push_forward(
        self, directions: Sequence[Parameters], embed: Callable[[Parameters], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """What `embed` gives, then its derivatives along the directions, stacked."""

        def along(direction: Parameters) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            values, derivatives, *_ = jvp(embed, (dict(self.parameters),), (dict(direction),))
            return values, derivatives

        with differentiable_attention(), torch.no_grad():
            if len(directions) == 1:
                values, derivatives = along(directions[0])
                return *values, *(part.unsqueeze(0) for part in derivatives)
            # The primal does not depend on what vmap runs over, so it is computed once.
            stacked = {name: torch.stack([d[name] for d in directions]) for name in self.parameters}
            outputs: Any = (None, 0)
            values, derivatives = vmap(along, out_dims=outputs)(stacked)
        return *values, *derivatives

    def pull_back(
        self, image: State, text: State, cotangents: Sequence[tuple[Tensor, Tensor]]
    ) -> list[dict[str, Tensor]]:
        """Gradients of <c_u, U> + <c_v, V> by parameter name, one for each pair (c_u, c_v), by one forward pass.

        The logit scale is not part of the embeddings; its entry, where it is trainable, is zero.
        """
        values = {name: p.clone().requires_grad_() for name, p in self.parameters.items()}
        with differentiable_attention(), torch.enable_grad():
            u_BD, v_BD = self.embed(values, image, text)
            found = []
            for number, (c_u, c_v) in enumerate(cotangents):
                gradients = torch.autograd.grad(
                    (u_BD, v_BD),
                    list(values.values()),
                    (c_u, c_v),
                    retain_graph=number + 1 < len(cotangents),
                    allow_unused=True,
                )
                found.append(
                    {
                        n: torch.zeros_like(p) if g is None else g
                        for (n, p), g in zip(values.items(), gradients, strict=True)
                    }
                )
        return found

    def dscale(self, direction: Parameters) -> float:
        """Derivative of the logit scale s = exp(logit_scale) along `direction`; 0 when it is not trainable."""
        return self.scale * float(direction[SCALE]) if SCALE in direction else 0.0

    def _stem(self, tail: TowerTail, x: Tensor) -> State:
        with fused_attention(), torch.no_grad():
            if self._stem_dtype is None:
                return tail.stem(x)
            with torch.autocast(self.device.type, self._stem_dtype):
                state = tail.stem(x)
            return tuple(part.to(self.dtype) if part.is_floating_point() else part for part in state)

    def _embed(self, tail: TowerTail, values: Parameters, state: State) -> Tensor:
        named = {f"model.{name}": value for name, value in values.items()}
        with fused_attention():
            return F.normalize(functional_call(tail, named, state), dim=-1)

    def _check_cut(self, model: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(2, 3, *self.size, generator=generator).to(self.device, self.dtype)
        tokens = self.loaded.tokenize(["a photo of a cat", "two dogs"]).to(self.device)
        with fused_attention():
            errors = (
                cut.check(self.image, model.encode_image, images),
                cut.check(self.text, model.encode_text, tokens),
            )
        if not max(errors) < 1e-3:
            raise ModelError(
                f"--trainable {self.trainable}: the towers of this model cannot be cut there with the installed "
                f"open_clip (relative difference {max(errors):.1e}); use 'all'"
            )
