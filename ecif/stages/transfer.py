"""Numbers to a device without waiting for it: a copy from ordinary memory waits for all work before it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def numbers_on(device: torch.device, numbers: np.ndarray) -> Tensor:
    """The numbers as a tensor on the device; from pinned memory, from which the device takes them in its turn."""
    found = torch.from_numpy(numbers)
    return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found
