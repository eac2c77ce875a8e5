"""How well a trained model does on clean pairs that it has not seen.

    image->text R@k   share of images with their own caption among the k most similar of all different captions
    text->image R@k   share of different captions with an image of theirs among the k most similar images; left out
                      where fewer than 20 captions differ, as where they are names of classes
    zero-shot         share of images whose class has the most similar prompts, of all classes

Ties count against the model, and so does what is not finite: a model that gives all pairs one embedding finds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ecif.demo.training import Data

CUTS = (1, 5)
FEWEST_CAPTIONS = 20  # of fewer, one more that finds its image moves the share by over 5 %
ZERO_SHOT = "zero-shot accuracy"
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Classes:
    """Zero-shot classes.

    Attributes:
        prompts: tokens of the prompts of each class, (T_c, context). right: class of each image, (M,); -1: none.
    """

    prompts: tuple[Tensor, ...]
    right: Tensor


@dataclass(frozen=True, slots=True)
class HeldOut:
    """M clean pairs, and their classes where accuracy is asked for."""

    data: Data
    classes: Classes | None = None


def judge(network: Any, held_out: HeldOut) -> dict[str, float]:
    """Every measure by name, as a share."""
    data = held_out.data
    captions = list(dict.fromkeys(data.captions))
    place = {caption: number for number, caption in enumerate(captions)}
    right_M = torch.tensor([place[caption] for caption in data.captions])
    first = torch.tensor([data.captions.index(caption) for caption in captions])
    with torch.no_grad():
        u_MD = torch.cat([network.encode_image(part, normalize=True) for part in data.images.split(_AT_ONCE)])
        v_CD = _texts(network, data.tokens[first])
        found = {}
        if held_out.classes is not None:
            found[ZERO_SHOT] = _accuracy(network, u_MD, held_out.classes)
    return found | dict(_recalls(u_MD @ v_CD.T, right_M))


def _texts(network: Any, tokens: Tensor) -> Tensor:
    return torch.cat([network.encode_text(part, normalize=True) for part in tokens.split(_AT_ONCE)])


def _accuracy(network: Any, u_MD: Tensor, classes: Classes) -> float:
    means = [F.normalize(_texts(network, tokens).mean(0), dim=-1) for tokens in classes.prompts]
    known = classes.right >= 0
    ranks = _ranks(u_MD[known] @ torch.stack(means).T, classes.right[known])
    return float((ranks <= 1).double().mean())


def _recalls(s_MC: Tensor, right_M: Tensor) -> Iterator[tuple[str, float]]:
    ranks_M = _ranks(s_MC, right_M)
    for k in CUTS:
        yield f"image->text R@{k}", float((ranks_M <= k).double().mean())
    if s_MC.shape[1] < FEWEST_CAPTIONS:
        return
    s_CM = s_MC.nan_to_num(nan=-torch.inf).T
    own_CM = right_M == torch.arange(len(s_CM)).unsqueeze(1)
    best_C = s_CM.masked_fill(~own_CM, -torch.inf).amax(1)
    ranks_C = 1 + ((s_CM >= best_C.unsqueeze(1)) & ~own_CM).sum(1)
    for k in CUTS:
        yield f"text->image R@{k}", float((ranks_C <= k).double().mean())


def _ranks(s_MC: Tensor, right_M: Tensor) -> Tensor:
    """Rank of the right one in each row, from 1; ties are in front of it."""
    s_MC = s_MC.nan_to_num(nan=-torch.inf)
    return (s_MC >= s_MC.gather(1, right_M.unsqueeze(1))).sum(1)
