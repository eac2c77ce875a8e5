"""Shared memory in which processes leave pictures and tokens: one block for each list of samples.

The memory is an anonymous file: it has no name that could be left behind, counts as this process's own where a
container limits memory, not against the size of /dev/shm, and is free when the last process that has it open is gone,
however that ends. The file grows by a block when none is free, so that whoever needs one never waits for another's;
how many there are is bounded by those who bound what is on its way (`stages.feed`).
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

_TOKEN = torch.int64


@dataclass(frozen=True, slots=True)
class Form:
    """What a block holds: pictures of one shape, and behind them the tokens of as many captions.

    Attributes:
        count: of pictures at most. shape, dtype: of each. length: tokens of a caption, int64.
    """

    count: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    length: int

    @property
    def size(self) -> int:
        """Bytes, in whole pages."""
        return _up(self._tokens_at + self.count * self.length * _TOKEN.itemsize, mmap.ALLOCATIONGRANULARITY)

    @property
    def _tokens_at(self) -> int:
        return _up(self.count * prod(self.shape) * self.dtype.itemsize, 64)

    def views(self, block: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[Tensor, Tensor]:
        """Pictures (count, *shape) and tokens (count, length) that lie in the bytes of a block."""
        data = torch.from_numpy(block)
        images = data[: self.count * prod(self.shape) * self.dtype.itemsize].view(self.dtype)
        tokens = data[self._tokens_at :][: self.count * self.length * _TOKEN.itemsize].view(_TOKEN)
        return images.view(self.count, *self.shape), tokens.view(self.count, self.length)


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def at(file: int, number: int, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The bytes of a block of an open file."""
    return np.frombuffer(mmap.mmap(file, size, offset=number * size), np.uint8)


class Blocks:
    """Blocks of one form; to be closed, which leaves what is lent as it is.

    Attributes:
        form: of each. file: descriptor of the file in which they lie.

    Args:
        file: lie in this one, which stays the caller's; left out: in a new one.
    """

    def __init__(self, form: Form, file: int | None = None) -> None:
        self.form, self.file = form, anonymous() if file is None else os.dup(file)
        self._kept: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
        self._free: deque[int] = deque()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def lend(self) -> tuple[int, Tensor, Tensor]:
        """Number, pictures and tokens of a block that nobody uses; free again when no tensor refers to it."""
        with self._lock:
            number = self._free.pop() if self._free else self._grow()
        block = self._kept[number].view()
        back = weakref.finalize(block, self._free.append, number)
        back.atexit = False
        return number, *self.form.views(block)

    def _grow(self) -> int:
        number = len(self._kept)
        os.truncate(self.file, (number + 1) * self.form.size)
        self._kept.append(at(self.file, number, self.form.size))
        return number

    def close(self) -> None:
        """Give the file up."""
        os.close(self.file)


def anonymous() -> int:
    """Descriptor of a new file without a name, whose bytes are memory."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("ecif")
    with tempfile.TemporaryFile(prefix="ecif-") as file:
        return os.dup(file.fileno())
