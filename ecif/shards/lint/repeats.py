"""Images and uids that come more than once in a corpus, found on local disk instead of in memory.

The same image under many keys is mostly a placeholder ("image not available"); the same uid at two samples breaks
every list of uids. Both are compared by 128-bit digests, spread over sorted buckets (`ecif.interop.sorting`); where a
sample stands is written to a file beside them and looked up for what is reported. Disk: about 150 bytes a sample.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecif.interop.sorting import Repeat, Sorter, repeats
from ecif.shards.decode import derived_uid
from ecif.shards.lint.finding import Finding, place

MOST_GROUPS = 100
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """What one sample is recognised by.

    Attributes:
        key: of the sample. member, offset: its image or, without one, its first member.
        image: 16 bytes of the SHA-256 of the image's bytes; empty without an image.
        uid: given or derived. repeated: its key stands at an earlier sample of the shard.
    """

    key: str
    member: str
    offset: int
    image: bytes
    uid: str
    repeated: bool

    def is_derived(self, shard: str) -> bool:
        """Whether the uid was made from shard and key."""
        return self.uid == derived_uid(shard, self.key)


class Repeats:
    """Collects the samples of all shards.

    Args:
        folder: an empty local directory; the caller deletes it.
    """

    def __init__(self, folder: Path) -> None:
        self._sorters = {}
        for kind in ("images", "uids"):
            (folder / kind).mkdir()
            self._sorters[kind] = Sorter(folder / kind)
        self._places = (folder / "places").open("w+b")
        self._shards: list[tuple[str, str]] = []

    def add(self, shard: str, url: str, samples: Sequence[Seen]) -> None:
        """Take in the samples of a shard."""
        number = len(self._shards)
        self._shards.append((shard, url))
        images: list[tuple[bytes, int]] = []
        uids: list[tuple[bytes, int]] = []
        for seen in samples:
            derived = seen.is_derived(shard)
            position = self._places.tell()
            record = [number, seen.key, seen.member, seen.offset, seen.uid, derived]
            self._places.write(json.dumps(record).encode() + b"\n")
            if seen.image:
                images.append((seen.image, position))
            if not (derived and seen.repeated):  # reported as a repeated key
                uids.append((hashlib.sha256(seen.uid.encode()).digest()[:16], position))
        for kind, found in (("images", images), ("uids", uids)):
            numbers = np.frombuffer(b"".join(digest for digest, _ in found), dtype=">u8").astype("<u8").reshape(-1, 2)
            tags = np.array([position for _, position in found], dtype=np.uint64)
            self._sorters[kind].add(numbers[:, 0], numbers[:, 1], tags)

    def findings(self, equal_images: int) -> Iterator[Finding]:
        """The uids and, from so many samples on, the images that come more than once; those that do most often.

        Args:
            equal_images: 0: images are not reported.
        """
        if equal_images:
            yield from self._groups("images", max(2, equal_images), self._images)
        yield from self._groups("uids", 2, self._uids)
        self._places.close()

    def _groups(self, kind: str, at_least: int, finding: Callable[[Repeat], Finding]) -> Iterator[Finding]:
        total = 0

        def counted() -> Iterator[Repeat]:
            nonlocal total
            for repeat in repeats(self._sorters[kind].sorted(), _EXAMPLES):
                if repeat.count >= at_least:
                    total += 1
                    yield repeat

        most = heapq.nlargest(MOST_GROUPS, counted(), key=lambda repeat: (repeat.count, -repeat.tags[0]))
        last = None
        for repeat in most:
            yield (last := finding(repeat))
        if last is not None and total > len(most):
            detail = f"and {total - len(most)} more groups of at most {most[-1].count} samples each"
            yield Finding(last.severity, last.code, last.url, None, None, detail)

    def _images(self, repeat: Repeat) -> Finding:
        (url, member, offset, *_), others = self._examples(repeat)
        detail = f"{repeat.count} samples have this very image (a placeholder?): also {others}"
        return Finding("warning", "equal_images", url, member, offset, detail)

    def _uids(self, repeat: Repeat) -> Finding:
        (url, member, offset, uid, derived), others = self._examples(repeat)
        if derived:
            detail = f"the uid {uid!r}, made from shard and key, is that of {repeat.count} samples: also {others}"
            return Finding("error", "derived_uid", url, member, offset, detail)
        detail = f"the uid {uid!r} stands at {repeat.count} samples: also {others}"
        return Finding("error", "duplicate_uid", url, member, offset, detail)

    def _examples(self, repeat: Repeat) -> tuple[tuple[str, str, int, str, bool], str]:
        """The first sample of a group (for uids the first derived one, if any), and the others in words."""
        found = [self._place(tag) for tag in repeat.tags]
        found.sort(key=lambda one: not one[4])
        first, *rest = found
        others = "; ".join(place(url, member, offset) for url, member, offset, *_ in rest)
        return first, others + (" ..." if repeat.count > len(found) else "")

    def _place(self, position: int) -> tuple[str, str, int, str, bool]:
        self._places.seek(position)
        number, _, member, offset, uid, derived = json.loads(self._places.readline())
        return self._shards[number][1], member, offset, uid, derived
