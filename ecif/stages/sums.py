"""Second moments of a fit as files: one for each shard, and the tree in which they are added.

A node of the tree adds up to FAN files of the level below, in the order of the shards' names. No step reads more than
that many, a sum that was broken off goes on where it was, and it does not depend on how the shards were grouped when
they were mapped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ecif.errors import InputError
from ecif.run import Run
from ecif.storage import Storage

FAN = 32


@dataclass(frozen=True, slots=True)
class Moments:
    """Summed second moments by name (float64), of how many pairs, and why shards gave none, by shard."""

    tensors: dict[str, Tensor]
    pairs: int
    problems: dict[str, str] = field(default_factory=dict)


def pack(moments: Moments, facts: Mapping[str, Any] | None = None) -> bytes:
    """A safetensors file; `facts` join what stands in its metadata."""
    about = {"pairs": moments.pairs, "problems": moments.problems, **(facts or {})}
    # One entry: safetensors writes several in any order.
    return save_tensors(
        {name: part.cpu().contiguous() for name, part in moments.tensors.items()},
        {"ecif": json.dumps(about, sort_keys=True)},
    )


def unpack(url: str, storage: Storage) -> tuple[Moments, dict[str, Any]]:
    """What `pack` made, and its facts.

    Raises:
        InputError: the file is something else.
    """
    data = storage.read_bytes(url)
    try:
        about = facts(data)
        tensors = dict(sorted(load_tensors(data).items()))
        return Moments(tensors, int(about["pairs"]), dict(about["problems"])), about
    except (KeyError, ValueError, TypeError) as error:
        raise InputError("is not a file of curvature moments", url=url) from error


def facts(data: bytes) -> dict[str, Any]:
    """The JSON that stands in a safetensors file's metadata."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    found: dict[str, Any] = json.loads(header["__metadata__"]["ecif"])
    return found


def add_up(run: Run, urls: Sequence[str]) -> Moments:
    """The sum over partial files, in their order.

    Raises:
        InputError: a partial is missing or was made for other parameters.
    """
    level = 0
    while True:
        nodes = []
        for n, start in enumerate(range(0, len(urls), FAN)):
            node = run.layout.sums(run.fit_key, level, n)
            if not run.storage.exists(node):
                run.storage.publish_first(node, pack(_add(urls[start : start + FAN], run.storage)))
            nodes.append(node)
        if len(nodes) == 1:
            return unpack(nodes[0], run.storage)[0]
        urls, level = nodes, level + 1


def _add(urls: Sequence[str], storage: Storage) -> Moments:
    total = unpack(urls[0], storage)[0]
    for url in urls[1:]:
        part = unpack(url, storage)[0]
        if shapes(part.tensors) != shapes(total.tensors):
            raise InputError("was made for other parameters, or another projection; use a new --out", url=url)
        for name, tensor in part.tensors.items():
            total.tensors[name] += tensor
        total = Moments(total.tensors, total.pairs + part.pairs, total.problems | part.problems)
    return total


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shape by name."""
    return {name: tuple(part.shape) for name, part in tensors.items()}
