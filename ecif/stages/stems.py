"""Batches of spooled pairs that are asked for several times, in several orders, behind stems that run once.

What `heads` leaves of a pair, the inputs of the last projections, is some KB: it goes to local disk beside the encoded
images, so that memory does not grow with the number of pairs. The states of the other cuts are as large as pictures or
larger; there a batch is decoded and run again each time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

import numpy as np
import torch
from torch import Tensor

from ecif.stages.batches import Batch, load_batch
from ecif.stages.engine import Engine
from ecif.stages.spool import Spool


class Rows:
    """Rows of floats of one width and type in a file, by number."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._width, self._dtype = 0, np.dtype(np.float32)

    def write(self, places: Sequence[int], values_NW: Tensor) -> None:
        """Put the rows of a matrix at these numbers."""
        array = values_NW.cpu().numpy()
        self._width, self._dtype = array.shape[1], array.dtype
        for place, row in zip(places, array, strict=True):
            self._file.seek(place * row.nbytes)
            self._file.write(row.tobytes())

    def read(self, places: Sequence[int]) -> Tensor:
        """The rows at these numbers, all of them written before, (N, W) on the CPU."""
        size, found = self._width * self._dtype.itemsize, bytearray()
        for place in places:
            self._file.seek(place * size)
            found += self._file.read(size)
        return torch.from_numpy(np.frombuffer(found, self._dtype).reshape(len(places), self._width))


@contextmanager
def rows() -> Iterator[Rows]:
    """No rows yet, deleted at the end."""
    with tempfile.TemporaryFile(prefix="ecif-") as file:
        yield Rows(file)


class Stems:
    """A spool's pairs behind the stems.

    Args:
        kept: where the inputs of the last projections go, in the image's and the text's part of a row.
    """

    def __init__(self, engine: Engine, samples: Spool, kept: Rows) -> None:
        self._engine, self._samples, self._kept = engine, samples, kept
        self._small = engine.towers.image.head_input and engine.towers.text.head_input
        self._image_width = 0
        self._there: set[int] = set()
        self._unusable: set[int] = set()

    def batch(self, rows: Sequence[int]) -> Batch:
        """The pairs at `rows`, without those that cannot be decoded."""
        rows = [row for row in rows if row not in self._unusable]
        if self._small and self._there.issuperset(rows):
            return self._again(rows)
        batch = load_batch(self._engine, self._samples, rows)
        self._unusable.update(set(rows) - set(batch.rows))
        if self._small and batch.rows:
            image, text = (torch.cat([both[side][0] for both in batch.states]) for side in (0, 1))
            self._image_width = image.shape[1]
            self._kept.write(batch.rows, torch.cat([image, text], 1))
            self._there.update(batch.rows)
        return batch

    def _again(self, rows: list[int]) -> Batch:
        if not rows:
            return Batch([], [], [])
        found = self._kept.read(rows).to(self._engine.towers.device)
        image, text = found[:, : self._image_width], found[:, self._image_width :]
        return Batch([((image,), (text,))], rows, self._samples.captions(rows))


@contextmanager
def stems(engine: Engine, samples: Spool) -> Iterator[Stems]:
    """The spool's pairs behind the stems; what is kept of them is deleted at the end."""
    with rows() as kept:
        yield Stems(engine, samples, kept)
