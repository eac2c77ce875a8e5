"""Image and text towers of an open_clip model as functions of their trainable parameters.

`Towers.embed(parameters, state)` gives unit-norm (U, V) and works under torch.func; the state is what the
frozen part made of the samples, run once and without gradients. In eval mode a tower acts on each sample
alone, so any division into micro-batches gives the same embeddings (up to the rounding of another matrix
shape), and batches of the loss are formed from their rows afterwards.

Forward-mode differentiation does not exist for fused attention kernels: tails run on the math kernel, and
nn.MultiheadAttention's fast path is switched off for them; stems keep both (`attention`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, jvp, vmap

from ecif.errors import ModelError
from ecif.towers import cut, parameters
from ecif.towers.arithmetic import tensor_float
from ecif.towers.attention import differentiable_attention as differentiable_attention
from ecif.towers.attention import fused_attention
from ecif.towers.cut import State as State
from ecif.towers.cut import TowerTail
from ecif.towers.loading import LoadedModel
from ecif.towers.pixels import split

T = TypeVar("T")
Parameters = Mapping[str, Tensor]
SCALE = "logit_scale"


class Derivatives(Protocol):
    """Embeddings and their derivatives along R directions: u_BD, v_BD, du_RBD, dv_RBD, or those of captions alone."""

    def push_forward(
        self, directions: Sequence[Parameters], image: State, text: State
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]: ...

    def push_forward_texts(self, directions: Sequence[Parameters], text: State) -> tuple[Tensor, Tensor]: ...


class Towers:
    """One model on one device, cut for one choice of trainable parameters.

    Attributes:
        parameters: the trainable parameters by name, at theta_0.
        coverage: how much of the model they are.
        scale: the logit scale s = exp(logit_scale).
        size: height and width of the image tower's input.
        take: a picture -> what `image_stem` takes, as bytes where the model's transform can be cut there (`pixels`).
    """

    def __init__(
        self,
        loaded: LoadedModel,
        trainable: str,
        device: torch.device,
        *,
        biases: bool = True,
        stem_dtype: torch.dtype | None = None,
        tf32: bool = False,
    ) -> None:
        """Cut `loaded` for `trainable` (heads | last:K | all).

        Args:
            biases: whether parameters of fewer than two axes are trainable, too.
            stem_dtype: autocast type of the frozen part, or None for the model's own.
            tf32: whether a GPU may multiply float32 matrices in TensorFloat-32.

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
        self._tf32 = tf32
        self._pixels = split(loaded.transform, device)
        self.take: Callable[[Any], Tensor] = loaded.transform if self._pixels is None else self._pixels.take
        if stem_dtype is not None and trainable == "all":
            raise ModelError("--precision bf16 applies to the frozen part of the towers; with 'all' there is none")
        self._check_cut(model)

    @property
    def dtype(self) -> torch.dtype:
        """Arithmetic of the tails."""
        return next(iter(self.parameters.values())).dtype

    @property
    def takes_bytes(self) -> bool:
        """Whether `take` gives (H, W, 3) uint8; otherwise (3, H, W) float32."""
        return self._pixels is not None

    def shapes(self) -> Towers:
        """These towers without numbers, on the meta device: what goes through them has a shape and takes no memory."""
        model: Any = self.loaded.model
        meta = torch.device("meta")
        copies: dict[int, Any] = {id(part): torch.empty_like(part, device=meta) for part in model.buffers()}
        for part in model.parameters():
            copies[id(part)] = torch.nn.Parameter(torch.empty_like(part, device=meta), requires_grad=False)
        bare = copy.copy(self)
        model = copy.deepcopy(model, copies)
        bare.loaded, bare.device = replace(self.loaded, model=model), meta
        by_name = dict(model.named_parameters())
        bare.parameters = {name: by_name[name].detach() for name in self.parameters}
        bare.image = cut.cut_image(model, parameters.image_tower(model), self.trainable)
        bare.text = cut.cut_text(model, parameters.text_tower(model), self.trainable)
        bare._pixels = split(self.loaded.transform, meta)
        bare._stem_dtype = None  # there is no autocast without a device
        return bare

    def compile(self) -> None:
        """Compile the frozen parts (TorchInductor), for any number of samples, and try them.

        Raises:
            ModelError: there is no frozen part, it cannot be compiled here, or the result is another one.
        """
        if self.trainable == "all":
            raise ModelError("--compile on applies to the frozen part of the towers; with 'all' there is none")
        images = torch.zeros(2, 3, *self.size, dtype=self.dtype)
        captions = ["a photo of a cat", "two dogs"]
        before = self.image_stem(images), self.text_stem(captions)
        for tail in (self.image, self.text):
            tail.stem = torch.compile(tail.stem, dynamic=True)
        try:
            after = self.image_stem(images), self.text_stem(captions)
        except Exception as error:  # of the compiler, of a compiler that it calls, or of what it made
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"--compile on: the towers cannot be compiled here ({reason}); use --compile off"
            ) from error
        for was, found in zip(before, after, strict=True):
            off = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(was, found, strict=True))
            if not off < (1e-3 if self._stem_dtype is None else 0.1):
                raise ModelError(f"--compile on: compiled towers are off by {off:.1e} of the largest number; use off")

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
        """Embeddings and their derivatives along R directions, by forward mode.

        Returns:
            u_BD, v_BD, du_RBD, dv_RBD.
        """

        u_BD, v_BD, du_RBD, dv_RBD = self.derivatives(directions, lambda p: self.embed(p, image, text))
        return u_BD, v_BD, du_RBD, dv_RBD

    def push_forward_texts(self, directions: Sequence[Parameters], text: State) -> tuple[Tensor, Tensor]:
        """The same of captions alone: v_BD, dv_RBD."""
        v_BD, dv_RBD = self.derivatives(directions, lambda p: (self.embed_texts(p, text),))
        return v_BD, dv_RBD

    def derivatives(
        self,
        directions: Sequence[Parameters],
        embed: Callable[[Parameters], tuple[Tensor, ...]],
        *,
        together: bool | None = None,
    ) -> tuple[Tensor, ...]:
        """What `embed` gives at theta_0, then its derivatives along the directions, stacked, by forward mode.

        Args:
            together: share one forward pass; if not given, on all devices but a CPU.
        """
        if together is None:
            together = self.device.type != "cpu"
        with differentiable_attention(), torch.no_grad():
            return (self._together if together and len(directions) > 1 else self._one_by_one)(directions, embed)

    def _one_by_one(
        self, directions: Sequence[Parameters], embed: Callable[[Parameters], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """A derivative, with its forward pass, for each direction: on a CPU faster than stacked tangents."""
        found = [jvp(embed, (dict(self.parameters),), (dict(direction),))[:2] for direction in directions]
        return *found[0][0], *(torch.stack(part) for part in zip(*(one for _, one in found), strict=True))

    def _together(
        self, directions: Sequence[Parameters], embed: Callable[[Parameters], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """One derivative of stacked directions: the forward pass does not depend on what vmap runs over, so it is
        computed once, and a device is given fewer and larger pieces of work."""

        def along(direction: Parameters) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            values, derivatives, *_ = jvp(embed, (dict(self.parameters),), (dict(direction),))
            return values, derivatives

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
        return self.pull_back_each(image, text, cotangents, lambda _, gradient: gradient)

    def pull_back_each(
        self,
        image: State,
        text: State,
        cotangents: Sequence[tuple[Tensor, Tensor]],
        finish: Callable[[int, dict[str, Tensor]], T],
    ) -> list[T]:
        """What `finish` makes of each of these gradients, which is called before the next one is taken.

        Args:
            finish: number of the pair and its gradient -> what is kept of it.
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
                named = zip(values.items(), gradients, strict=True)
                gradient = {n: torch.zeros_like(p) if g is None else g for (n, p), g in named}
                del gradients
                found.append(finish(number, gradient))
                del gradient
        return found

    def dscale(self, direction: Parameters) -> float:
        """Derivative of the logit scale s = exp(logit_scale) along `direction`; 0 when it is not trainable."""
        return self.scale * float(direction[SCALE]) if SCALE in direction else 0.0

    def _stem(self, tail: TowerTail, x: Tensor) -> State:
        with tensor_float(self._tf32), fused_attention(), torch.no_grad():
            if self._stem_dtype is None:
                return tail.stem(x)
            with torch.autocast(self.device.type, self._stem_dtype):
                state = tail.stem(x)
            return tuple(part.to(self.dtype) if part.is_floating_point() else part for part in state)

    def _embed(self, tail: TowerTail, values: Parameters, state: State) -> Tensor:
        named = {f"model.{name}": value for name, value in values.items()}
        with tensor_float(self._tf32), fused_attention():
            return F.normalize(functional_call(tail, named, state), dim=-1)

    def _check_cut(self, model: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(2, 3, *self.size, generator=generator).to(self.device, self.dtype)
        tokens = self.loaded.tokenize(["a photo of a cat", "two dogs"]).to(self.device)
        with tensor_float(False), fused_attention():
            errors = (
                cut.check(self.image, model.encode_image, images),
                cut.check(self.text, model.encode_text, tokens),
            )
        if not max(errors) < 1e-3:
            raise ModelError(
                f"--trainable {self.trainable}: the towers of this model cannot be cut there with the installed "
                f"open_clip (relative difference {max(errors):.1e}); use 'all'"
            )
