"""Of equal pairs the best stays, against plain Python."""

from __future__ import annotations

import io
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecif.errors import InputError, UsageError
from ecif.policy import duplicates
from ecif.policy.rule import Rule
from ecif.policy.tables import Tables
from ecif.storage import Storage

SCHEMA: dict[str, Any] = {
    "uid": pl.String, "key": pl.String, "shard": pl.String, "index": pl.UInt32, "status": pl.String,
    "influence": pl.Float32,
}  # fmt: skip
pair = st.tuples(st.none() | st.sampled_from([0.0, 1.0, 2.0]), st.none() | st.sampled_from(["x", "y", "z", ""]))
corpora = st.lists(st.lists(pair, max_size=8), min_size=1, max_size=4)


def build(folder: Path, corpus: list[list[tuple[float | None, str | None]]]) -> Tables:
    scores, beside = {}, {}
    for n, content in enumerate(corpus):
        shard = f"{n:02d}"
        keys = [f"{i}" for i in range(len(content))]
        table = {
            "uid": keys, "key": keys, "shard": [shard] * len(keys), "index": list(range(len(keys))),
            "status": ["bad" if score is None else "ok" for score, _ in content],
            "influence": [score for score, _ in content],
        }  # fmt: skip
        scores[shard], beside[shard] = f"{folder}/{shard}.parquet", f"{folder}/{shard}.beside"
        pl.DataFrame(table, schema=SCHEMA).write_parquet(scores[shard])
        digests = pl.Series([digest for _, digest in content], dtype=pl.String)
        pl.DataFrame({"key": pl.Series(keys, dtype=pl.String), "sha256": digests}).write_parquet(beside[shard])
    return Tables(Storage(), scores, beside)


@settings(max_examples=80, deadline=None)
@given(corpora, st.booleans(), st.sampled_from([30, 4]))
def test_only_the_best_of_equal_pairs_is_left_out(corpus: Any, higher_is_worse: bool, bits: int) -> None:
    """Also with bitmaps so small that nearly all hashes collide."""
    groups = defaultdict(list)
    for n, content in enumerate(corpus):
        for i, (score, digest) in enumerate(content):
            if score is not None and digest is not None:
                groups[digest].append((score if higher_is_worse else -score, f"{n:02d}", i))
    expected = {(shard, i) for members in groups.values() for _, shard, i in sorted(members)[1:]}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "BITS", bits)
        frozen = duplicates.find(build(Path(folder), corpus), Rule("influence", higher_is_worse), "sha256")
    places = duplicates.load(frozen, "here")
    assert {(shard, i) for shard, own in places.items() for i in own.tolist()} == expected
    assert all(own.tolist() == sorted(own.tolist()) for own in places.values())


def test_what_cannot_be_done_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = build(tmp_path, [[(1.0, "x"), (2.0, "x"), (1.0, "y")]])
    with pytest.raises(UsageError, match="Did you mean 'sha256'"):
        duplicates.find(tables, Rule("influence", False), "sha_256")
    monkeypatch.setattr(duplicates, "MOST", 1)
    with pytest.raises(UsageError, match="--dedup sha256: more than 1 pairs have an equal one"):
        duplicates.find(tables, Rule("influence", False), "sha256")
    buffer = io.BytesIO()
    pl.DataFrame({"a": [1]}).write_parquet(buffer)
    with pytest.raises(InputError, match="is no table of duplicates"):
        duplicates.load(buffer.getvalue(), "here")
