"""Of equal pairs the best stays: which ones go, found in two passes and bounded memory.

Equal are pairs with the same value in one column, such as the digest of the image in the table beside the shard. The
first pass marks in a bitmap which hashes occur and which occur again (a Bloom filter with one hash: Bloom 1970); only
those that may occur again are collected in the second one, and compared in full. The result is a list of places, frozen
with the decision as lists are: it is as long as there are duplicates, which is the price, and pairs that arrive later
are not compared with anything.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl

from ecif.errors import InputError, UsageError
from ecif.policy.rule import Rule
from ecif.policy.tables import Tables

BITS = 30  # of a hash, in the bitmaps: 128 MB each
MOST = 1 << 24  # pairs that may have an equal one, 40 bytes each

_MARK = np.dtype("S16")
Places = Mapping[str, npt.NDArray[np.uint32]]
"""Shard name -> places of pairs in its tar, sorted."""


def find(tables: Tables, rule: Rule, column: str) -> bytes:
    """The candidates that have a better equal, as a frozen table.

    The best is the one that would go last by the rule; of those that rank equal, the one in the first shard, and there
    the first. Pairs in which the column is unknown are equal to none.

    Args:
        rule: without groups.
        column: whose values make pairs equal.

    Raises:
        UsageError: no table has the column, or there are too many duplicates.
        InputError: a table cannot be read.
    """
    grouped = replace(rule, by=column)
    tables.check(grouped)
    seen, again = (np.zeros(1 << (BITS - 3), dtype=np.uint8) for _ in range(2))
    for _, marks, _, _ in _marked(tables, grouped):
        hashes, counts = np.unique(_hash(marks), return_counts=True)
        byte, bit = hashes >> 3, (1 << (hashes & 7)).astype(np.uint8)
        twice = (counts > 1) | ((seen[byte] & bit) != 0)
        np.bitwise_or.at(again, byte[twice], bit[twice])
        np.bitwise_or.at(seen, byte, bit)
    names: list[str] = []
    parts: list[tuple[npt.NDArray[np.bytes_], npt.NDArray[np.float32], npt.NDArray[np.uint32]]] = []
    total = 0
    for name, marks, worse, index in _marked(tables, grouped):
        hashes = _hash(marks)
        maybe = (again[hashes >> 3] & (1 << (hashes & 7)).astype(np.uint8)) != 0
        names.append(name)
        parts.append((marks[maybe], worse[maybe], index[maybe]))
        total += int(maybe.sum())
        if total > MOST:
            raise UsageError(
                f"--dedup {column}: more than {MOST:,} pairs have an equal one; remove duplicates before scoring"
            )
    marks = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0, dtype=_MARK)
    worse = np.concatenate([part[1] for part in parts]) if parts else np.zeros(0, dtype=np.float32)
    index = np.concatenate([part[2] for part in parts]) if parts else np.zeros(0, dtype=np.uint32)
    shard = np.repeat(np.arange(len(parts)), [part[0].size for part in parts])
    order = np.lexsort((index, shard, -worse, marks))  # by value, the best first; then by place
    later = np.flatnonzero(marks[order][1:] == marks[order][:-1]) + 1
    gone = np.sort(order[later])  # by shard and place: that is how they were collected
    buffer = io.BytesIO()
    pl.DataFrame(
        {"shard": pl.Series([names[n] for n in shard[gone]], dtype=pl.String), "index": pl.Series(index[gone])}
    ).write_parquet(buffer)
    return buffer.getvalue()


def load(frozen: bytes, url: str) -> Places:
    """What `find` gave, by shard.

    Raises:
        InputError: it is something else.
    """
    try:
        table = pl.read_parquet(io.BytesIO(frozen), columns=["shard", "index"])
    except pl.exceptions.PolarsError as error:
        raise InputError(f"is no table of duplicates: {error}", url=url) from error
    parts = table.partition_by("shard", as_dict=True, maintain_order=True)
    return {str(name): part["index"].to_numpy() for (name,), part in parts.items()}


def _marked(
    tables: Tables, rule: Rule
) -> Iterator[tuple[str, npt.NDArray[np.bytes_], npt.NDArray[np.float32], npt.NDArray[np.uint32]]]:
    """Candidates with a known value: their shard, marks of the values, worseness and places."""
    for name, table in tables.stream(rule, extra=("index",)):
        view = rule.view(table, tables.scores[name])
        assert view.groups is not None
        known = view.groups.is_not_null().to_numpy()
        texts = view.groups.drop_nulls()
        digests = b"".join(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16] for text in texts)
        index = table["index"].to_numpy()[view.rows[known]].astype(np.uint32)
        yield name, np.frombuffer(digests, dtype=_MARK), view.worse[known], index


def _hash(marks: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
    words = np.frombuffer(marks.tobytes(), dtype=">u8")[::2]
    return (words >> np.uint64(64 - BITS)).astype(np.int64)
