"""Uids of a whole corpus: the list that DataComp's tools read, and uids that stand at several samples.

DataComp names a subset by a `.npy` of type `u8,u8`: the two halves of every uid, sorted, for the resharder searches
it by bisection; a uid that is listed twice is written twice. Both need all uids in order, which is done on local disk
(`sorting`), so that memory does not grow with the corpus.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO

import numpy as np
import numpy.typing as npt

from ecif.errors import InputError
from ecif.interop.outcome import Outcome
from ecif.interop.sorting import BUCKET_BYTES, Records, Sorter, repeats

LISTED = np.dtype("u8,u8")
"""Type of a list: the upper and the lower 64 bits of a uid."""

# Places that are told of a repeated uid; a placeholder may stand at millions of samples.
MOST_PLACES = 10
_BATCH = 2**16
_UID = "^[0-9a-fA-F]{32}$"
_STAYS, _GONE = 0, 1


@dataclass(frozen=True, slots=True)
class Listed:
    """What two lists hold.

    Attributes:
        survivors, gone: how many uids each list has.
        repeated: uids that stand at several samples of the corpus.
        in_both: those of them that are in both lists: no list can say which of the samples it means.
    """

    survivors: int
    gone: int
    repeated: int
    in_both: int


def write_lists(
    shards: Iterable[Outcome], survivors: Path | None, gone: Path | None, bucket_bytes: int = BUCKET_BYTES
) -> Listed:
    """Write the uids of a corpus as DataComp lists: 1-D `u8,u8`, sorted, a uid as often as samples have it.

    Args:
        survivors, gone: local files to write; None: none.
        bucket_bytes: how much is sorted in memory at once.

    Raises:
        InputError: a uid is not 32 hexadecimal digits.
    """
    counts = [0, 0]
    with TemporaryDirectory(prefix="ecif-uids-") as folder, ExitStack() as files:
        sorter = Sorter(Path(folder), "u1", bucket_bytes)
        for shard in shards:
            halves, gone_here = _halves(shard), shard.samples["gone"].to_numpy()
            sorter.add(halves[:, 0], halves[:, 1], gone_here)
            counts[_GONE] += int(gone_here.sum())
            counts[_STAYS] += int((~gone_here).sum())
        outs = [None if path is None else files.enter_context(path.open("wb")) for path in (survivors, gone)]
        for out, count in zip(outs, counts, strict=True):
            if out is not None:
                header = {"descr": LISTED.descr, "fortran_order": False, "shape": (count,)}
                np.lib.format.write_array_header_1_0(out, header)
        repeated = in_both = 0
        for repeat in repeats(_written(sorter.sorted(), outs), 1):
            repeated += 1
            in_both += repeat.tags[0] == _STAYS and repeat.largest == _GONE
    return Listed(counts[_STAYS], counts[_GONE], repeated, in_both)


def _written(pieces: Iterator[Records], outs: Sequence[IO[bytes] | None]) -> Iterator[Records]:
    for records in pieces:
        for kind, out in enumerate(outs):
            if out is not None:
                chosen = records[records["tag"] == kind]
                listed = np.empty(len(chosen), dtype=LISTED)
                listed["f0"], listed["f1"] = chosen["high"], chosen["low"]
                out.write(listed.tobytes())
        yield records


def _halves(shard: Outcome) -> npt.NDArray[np.uint64]:
    """Upper and lower halves of the uids of a shard, (n, 2)."""
    uids = shard.samples["uid"]
    wrong = ~uids.str.contains(_UID).fill_null(False)
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        raise InputError(
            f"the uid of sample {shard.samples['key'][row]!r} of shard {shard.shard} is {uids[row]!r}, not 32 "
            "hexadecimal digits, and DataComp's lists hold no others; --commonpool writes tables with any uid",
            url=shard.url,
        )
    return np.frombuffer(bytes.fromhex("".join(uids)), dtype=">u8").reshape(-1, 2).astype(np.uint64)


@dataclass(frozen=True, slots=True)
class Collision:
    """A uid that stands at several samples.

    Attributes:
        uid: as it is.
        count: at how many samples.
        places: shard and key of the first of them in the order of reading, at most `MOST_PLACES`.
    """

    uid: str
    count: int
    places: tuple[tuple[str, str], ...]


def duplicates(samples: Iterable[tuple[str, str, str]], bucket_bytes: int = BUCKET_BYTES) -> Iterator[Collision]:
    """The uids that stand at more than one sample.

    Memory is bounded; local disk takes some 30 bytes per sample beside the texts themselves. The order of the
    collisions is the same for the same samples, and otherwise means nothing.

    Args:
        samples: uid, shard and key of every sample.
        bucket_bytes: how much is sorted in memory at once.
    """
    with TemporaryDirectory(prefix="ecif-uids-") as folder, TemporaryFile(prefix="ecif-uids-") as texts:
        sorter = Sorter(Path(folder), "<u8", bucket_bytes)
        digests, offsets, offset = bytearray(), array("Q"), 0
        for uid, shard, key in samples:
            digests += hashlib.blake2b(uid.encode(), digest_size=16).digest()
            offsets.append(offset)
            offset += texts.write(json.dumps([uid, shard, key]).encode() + b"\n")
            if len(offsets) == _BATCH:
                _add(sorter, digests, offsets)
                digests, offsets = bytearray(), array("Q")
        _add(sorter, digests, offsets)
        for repeat in repeats(sorter.sorted(), MOST_PLACES):
            found = []
            for place in repeat.tags:
                texts.seek(place)
                found.append(json.loads(texts.readline()))
            yield Collision(found[0][0], repeat.count, tuple((shard, key) for _, shard, key in found))


def _add(sorter: Sorter, digests: bytearray, offsets: array[int]) -> None:
    halves = np.frombuffer(bytes(digests), dtype="<u8").reshape(-1, 2)
    sorter.add(halves[:, 0], halves[:, 1], np.array(offsets, dtype=np.uint64))
