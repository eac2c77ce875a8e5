"""A model's own transform cut in two: what needs the picture, and the arithmetic on its bytes.

Resizing and cropping run where pictures are decoded. Division by 255 and normalisation are four bytes for each one, and
are left to the device, which does them for a micro-batch at once: decoded pictures that wait take a quarter of the
memory, and a quarter crosses the bus. The same operations in the same order and type as open_clip's transform, so that
the result is the same to the last bit (tests/towers/test_pixels.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from open_clip.transform import Compose, MaybeConvertMode, MaybeToTensor, Normalize
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Geometry:
    """The first half: an RGB picture -> its bytes, (H, W, 3) uint8. Without tensors, for it is sent to processes.

    Attributes:
        steps: picture -> RGB picture of the size of the model's input.
    """

    steps: Callable[[Any], Any]

    def __call__(self, image: Any) -> Tensor:
        return torch.from_numpy(np.array(self.steps(image), np.uint8))


@dataclass(frozen=True, slots=True)
class Pixels:
    """The two halves of a transform.

    Attributes:
        take: the first.
        mean, std: by channel, (3, 1, 1) float32, on the device: copied there once, because a copy waits for it.
    """

    take: Geometry
    mean: Tensor
    std: Tensor

    def finish(self, images: Tensor) -> Tensor:
        """The second half, on the device: (B, H, W, 3) uint8 -> (B, 3, H, W) float32."""
        x = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return x.div_(255).sub_(self.mean).div_(self.std)


def split(transform: Callable[[Any], Tensor], device: torch.device) -> Pixels | None:
    """Cut a transform; None where it does not end as open_clip's does, and has to run whole."""
    steps = transform.transforms if isinstance(transform, Compose) else []
    if len(steps) < 2 or not (isinstance(steps[-2], MaybeToTensor) and isinstance(steps[-1], Normalize)):
        return None
    mean, std = (torch.tensor(part, device=device).view(-1, 1, 1) for part in (steps[-1].mean, steps[-1].std))
    # A picture that is RGB already is copied by its conversion.
    geometry = [step for step in steps[:-2] if not (isinstance(step, MaybeConvertMode) and step.mode == "RGB")]
    return Pixels(Geometry(Compose(geometry)), mean, std)
