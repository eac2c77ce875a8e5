"""Bytes that samples take on their way through the towers, found without computing anything.

What is held at once depends on what autograd saves, on what a derivative carries along, and on the model's own code:
too much to be written down for every model. So the functions that the work calls are run on the meta device, where
tensors have shapes and no numbers, and every storage is counted from the operator that makes it until it is gone.
One run tells for any number of samples: it is a prime, so what is a multiple of it grows with the samples, and what
is not does not.

What a kernel takes for itself while it runs is not seen, nor what an allocator keeps for reuse. Attention of the
frozen part counts as if its matrix were formed, and bfloat16 as float32: there the estimate is above the truth.
bench/micro.py has both.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ecif.towers import Towers

# Samples of the run on the meta device: a prime that no side of a weight is likely to be a multiple of.
SAMPLES = 1009


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that are held at one time, at all times that differ: (whatever the samples, for each sample)."""

    held: frozenset[tuple[int, int]]

    def of(self, samples: int) -> int:
        """Bytes at once, at most."""
        return max(fixed + samples * each for fixed, each in self.held)


def footprint(towers: Towers, directions: int = 1) -> Footprint:
    """Of pairs in the stems, in the derivatives along `directions` that share a pass, and in one pull-back.

    Weights and directions are not counted; the gradient, and the copy of the trainable parameters for which it is
    taken, are.

    Raises:
        Exception: whatever a model raises whose code looks at numbers.
    """
    bare = towers.shapes()
    # As bytes, which become numbers on the device; models with a transform of their own take numbers at once.
    height, width = bare.size
    shape, dtype = ((height, width, 3), torch.uint8) if bare.takes_bytes else ((3, height, width), torch.float32)
    images = torch.empty((SAMPLES, *shape), dtype=dtype, device=bare.device)
    tokens = torch.empty((SAMPLES, towers.loaded.tokenize([""]).shape[1]), dtype=torch.int64, device=bare.device)
    along = [{name: torch.empty_like(value) for name, value in bare.parameters.items()}] * directions

    def work() -> None:
        image, text = bare.image_stem(images), bare.text_stem(tokens)
        # The graph of whole towers holds every block; a derivative along one direction is done with each in turn.
        if directions > 1 or towers.trainable != "all":
            bare.push_forward(along, image, text)
        u_BD, v_BD = bare.embed(bare.parameters, image, text)
        bare.pull_back(image, text, [(u_BD, v_BD)])

    return watched(work, [*bare.loaded.model.parameters(), *bare.loaded.model.buffers(), *along[0].values()])


def watched(work: Callable[[], object], before: Iterable[Tensor] = (), samples: int = SAMPLES) -> Footprint:
    """What the tensors take that `work` makes of so many samples, a prime.

    Args:
        before: tensors that are there already; views of them are nothing new.
    """
    with _Watch(before, samples) as watch:
        work()
    return Footprint(frozenset(watch.seen))


class _Watch(TorchDispatchMode):
    """Counts the storages that operators make, below autograd and functorch, which keep some of them alive.

    On the meta device most of the time goes into shapes of layers that are all alike: an operator that made something
    new of tensors like these before is not run again.
    """

    def __init__(self, before: Iterable[Tensor], samples: int) -> None:
        super().__init__()
        self.seen = {(0, 0)}
        self._samples = samples
        self._fixed = self._each = 0
        self._before = [tensor.untyped_storage() for tensor in before]
        # One Python object stands for a storage as long as that lives, whoever holds it.
        self._living: dict[int, Any] = {id(storage): None for storage in self._before}
        self._made: dict[Any, tuple[torch.Size, tuple[int, ...], torch.dtype]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors: list[Tensor] = []
        call = (func, _like(args, tensors), _like(tuple(kwargs.items()), tensors))
        if call in self._made:
            size, stride, dtype = self._made[call]
            found: Any = torch.empty_strided(size, stride, dtype=dtype, device="meta")
            self._meet(found.untyped_storage())
        else:
            found = func(*args, **kwargs)
            several = found if isinstance(found, tuple | list) else (found,)
            fresh = [self._meet(one.untyped_storage()) for one in several if isinstance(one, Tensor)]
            if fresh == [True] and isinstance(found, Tensor) and found.is_meta and tensors:
                self._made[call] = found.size(), found.stride(), found.dtype
        self.seen.add((self._fixed, self._each))
        return found

    def _meet(self, storage: torch.UntypedStorage) -> bool:
        """Count a storage, if it is a new one, until it is gone."""
        number, size = id(storage), storage.nbytes()
        if number in self._living:
            return False
        each, rest = divmod(size, self._samples)
        fixed, each = (size, 0) if rest else (0, each)

        def gone(_: object) -> None:
            del self._living[number]
            self._fixed -= fixed
            self._each -= each

        self._living[number] = weakref.ref(storage, gone)
        self._fixed += fixed
        self._each += each
        return True


def _like(value: Any, tensors: list[Tensor]) -> Any:
    """What of an operator's arguments decides on shapes; the tensors among them are appended."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.dtype, value.shape, value.stride()
    if isinstance(value, tuple | list):
        return tuple(_like(one, tensors) for one in value)
    return type(value), value
