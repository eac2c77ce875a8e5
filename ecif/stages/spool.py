"""Pairs of a tar on local disk, for passes that need them in another order than the tar's.

The fit forms batches from all over a shard and must see a batch's images together; keeping a shard's decoded
images in memory would make the memory grow with the shard. So the encoded images go into a temporary file,
and only captions and offsets stay in memory.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

from ecif.shards.decode import Pair, Refused


@dataclass(slots=True)
class Spool:
    """Pairs by row number."""

    _file: IO[bytes]
    _places: list[tuple[str, str, int, int]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, samples: Iterable[Pair | Refused], prefix: str = "") -> None:
        """Append the pairs; `prefix` keeps equal keys of several tars apart."""
        for sample in samples:
            if isinstance(sample, Refused):
                self.refused.append(sample)
                continue
            self._places.append((sample.uid, sample.caption, self._file.tell(), len(sample.image)))
            self.keys.append(prefix + sample.key)
            self.digests.append(image_digest(sample.image))
            self._file.write(sample.image)

    def captions(self, rows: Sequence[int]) -> list[str]:
        """Captions of the pairs at `rows`."""
        return [self._places[row][1] for row in rows]

    def pairs(self, rows: Sequence[int]) -> Iterator[Pair]:
        """The pairs at `rows`, in that order; `index` is the row."""
        for row in rows:
            uid, caption, offset, size = self._places[row]
            self._file.seek(offset)
            yield Pair(uid, self.keys[row], int(row), self._file.read(size), caption)


@contextmanager
def spool() -> Iterator[Spool]:
    """An empty spool, deleted at the end."""
    with tempfile.TemporaryFile(prefix="ecif-") as file:
        yield Spool(file)


def image_digest(image: bytes) -> bytes:
    """16 bytes that identify an encoded image: what overlap with the validation set is judged by."""
    return hashlib.sha256(image).digest()[:16]
