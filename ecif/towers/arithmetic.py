"""What float32 means in products of matrices on a GPU.

PyTorch lets cuDNN's convolutions round their operands to TensorFloat-32 (10 bits of fraction in place of 23) unless it
is told otherwise, and other products only if it is. A patch embedding is a convolution, so both are set here, around
each run of a tower: the flags are the process's, the loss is not to be rounded, and a process may hold models of
several runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tensor_float(allowed: bool) -> Iterator[None]:
    """Products of float32 matrices in TensorFloat-32 inside the block, if allowed; in float32 behind it."""
    try:
        _allow(allowed)
        yield
    finally:
        _allow(False)


def _allow(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
