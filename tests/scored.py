"""Small score tables full of ties, what sorting all of them would give, and storage that counts what is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import strategies as st

from ecif import ranking
from ecif.storage import Storage

SCHEMA: dict[str, Any] = {
    "uid": pl.String, "key": pl.String, "shard": pl.String, "index": pl.UInt32, "status": pl.String,
    "influence": pl.Float32,
}  # fmt: skip

# Few distinct values, so that nearly every example is full of ties; zeros of both signs, denormals, the extremes.
few = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1e-38, 3.4e38, -3.4e38, 0.1])
scores_of_rows = st.one_of(few, st.floats(width=32, allow_nan=False, allow_infinity=False))
rows = st.tuples(st.sampled_from(["", "a", "aa", "b\0", "b", "é", "\U0001f600"]), st.none() | scores_of_rows)
corpora = st.lists(st.lists(rows, max_size=8), min_size=1, max_size=4)

PLENTY = 1 << 25
# What the ranking may hold, scores and lower bits: all scores; some of both; no scores but all bits; nothing.
rooms = st.sampled_from([(PLENTY, PLENTY), (5, 2), (0, PLENTY), (0, 0)])

Row = tuple[str, float | None]


def table(shard: str, content: Sequence[Row]) -> pl.DataFrame:
    """One shard's scores; a score of None is a row that could not be scored."""
    columns = {
        "uid": [uid for uid, _ in content],
        "key": [f"{shard}{i % 2}" for i in range(len(content))],
        "shard": [shard] * len(content),
        "index": list(range(len(content))),
        "status": ["no_image" if score is None else "ok" for _, score in content],
        "influence": [score for _, score in content],
    }
    return pl.DataFrame(columns, schema=SCHEMA)


def write(folder: Path, frames: dict[str, pl.DataFrame]) -> dict[str, str]:
    for name, frame in frames.items():
        frame.write_parquet(folder / f"{name}.parquet")
    return {name: str(folder / f"{name}.parquet") for name in frames}


def sorted_rows(frames: Mapping[str, pl.DataFrame], sign: int = 1) -> list[dict[str, Any]]:
    """All scored rows, the worst first, the slow and obvious way."""
    scored = pl.concat(frames.values()).filter(pl.col("status") == "ok").iter_rows(named=True)
    return sorted(scored, key=lambda r: (sign * r["influence"], r["uid"], r["key"], r["shard"], r["index"]))


@contextmanager
def room(values: int, bits: int, ties: int = ranking.TIES_HELD) -> Iterator[None]:
    """Let the ranking hold so much of a corpus."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "VALUES_HELD", values)
        patch.setattr(ranking, "BITS_HELD", bits)
        patch.setattr(ranking, "TIES_HELD", ties)
        yield


class Counting(Storage):
    """Counts how often each file was read whole."""

    __slots__ = ("read",)

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def read_bytes(self, url: str) -> bytes:
        self.read.append(url)
        return super().read_bytes(url)

    def times(self, urls: Mapping[str, str]) -> dict[str, int]:
        """By the names of these files."""
        read = Counter(self.read)
        return {name: read[url] for name, url in urls.items()}
