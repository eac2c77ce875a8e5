"""The sidecars of a packed shard: a row per sample, every column of every input, statistics that tools accept."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pytest

from ecif.errors import InputError
from ecif.shards import joined, sidecars
from ecif.shards.joined import Piece
from ecif.shards.sidecars import Row
from tests.stages.outputs import parquet


def rows(*keys: str) -> list[Row]:
    return [Row(key, f"uid of {key}") for key in keys]


def read(data: bytes | None) -> pl.DataFrame:
    assert data is not None
    return pl.read_parquet(io.BytesIO(data))


def chosen(table: Mapping[str, Sequence[Any]], samples: Sequence[Row], places: Sequence[int]) -> pl.DataFrame:
    return joined.rows_of(parquet(pl.DataFrame(table)), samples, places, "x.parquet")


def test_rows_stand_in_the_order_of_the_samples() -> None:
    table = {"key": ["c", "lost", "a", "b"], "status": ["success", "failed_to_download", "success", "success"]}
    assert chosen(table, rows("a", "b", "c"), [0, 2])["key"].to_list() == ["a", "c"]
    assert chosen(table, rows("a", "b", "c"), []).height == 0


def test_rows_of_repeated_samples() -> None:
    table = {"key": ["a", "b", "a"], "url": ["1", "2", "3"], "status": ["success"] * 3}
    assert chosen(table, rows("a", "b", "a"), [0, 2])["url"].to_list() == ["1", "3"]
    table = {"key": ["a", "b"], "url": ["1", "2"], "status": ["success"] * 2}
    assert chosen(table, rows("a", "b", "a"), [0, 1, 2])["url"].to_list() == ["1", "2", "1"]


def test_the_table_of_another_tar_is_refused() -> None:
    with pytest.raises(InputError, match="'b' of the tar has no row"):
        chosen({"key": ["a"]}, rows("a", "b"), [0])
    with pytest.raises(InputError, match="not a parquet file"):
        joined.rows_of(b"?", rows("a"), [0], "x.parquet")


def test_different_columns_stand_side_by_side() -> None:
    one = pl.DataFrame({"key": ["a"], "width": pl.Series([1], dtype=pl.Int32), "exif": [None]})
    two = pl.DataFrame({"key": ["b"], "width": pl.Series([2], dtype=pl.Int64), "exif": ["{}"], "LICENSE": ["?"]})
    table = read(joined.parquet([Piece(rows("a"), one), Piece(rows("b"), two)], "x"))
    assert table.columns == ["key", "width", "exif", "LICENSE"]
    assert table.rows() == [("a", 1, None, None), ("b", 2, "{}", "?")]
    assert table.schema["width"] == pl.Int64


def test_samples_without_a_table_get_a_row_where_others_have_one() -> None:
    one = pl.DataFrame({"url": ["u"], "key": ["a"], "uid": ["1"], "status": ["success"]})
    for pieces in ([Piece(rows("b")), Piece(rows("a"), one)], [Piece(rows("a"), one), Piece(rows("b"))]):
        table = read(joined.parquet(pieces, "x"))
        assert set(table.select("key", "uid", "status", "url").rows()) == {
            ("a", "1", "success", "u"),
            ("b", "uid of b", "success", None),
        }
        samples = [sample for piece in pieces for sample in piece.samples]
        assert table["key"].to_list() == [sample.key for sample in samples]
        assert sidecars.disagreements(samples, table, json.loads(joined.stats(pieces))) == []


def test_a_column_of_numbers_takes_no_uid_of_ours() -> None:
    one = pl.DataFrame({"key": ["a"], "SAMPLE_ID": pl.Series([7], dtype=pl.Int64)})
    table = read(joined.parquet([Piece(rows("a"), one), Piece(rows("b"))], "x"))
    assert table.schema["SAMPLE_ID"] == pl.Int64
    assert table.rows() == [("a", 7), ("b", None)]


def test_without_any_table_there_is_none() -> None:
    assert joined.parquet([Piece(rows("a")), Piece(rows("b"))], "x") is None


def test_tables_that_nothing_can_hold_both_of_are_refused() -> None:
    one, two = pl.DataFrame({"key": ["a"], "x": [[1]]}), pl.DataFrame({"key": ["b"], "x": [{"y": 1}]})
    with pytest.raises(InputError, match="do not fit together"):
        joined.parquet([Piece(rows("a"), one), Piece(rows("b"), two)], "x")


def test_statistics() -> None:
    pieces = [
        Piece(rows("a", "b"), stats={"start_time": 20.0, "end_time": 30.5, "count": 9}),
        Piece(rows("c"), stats={"start_time": 10, "end_time": 25}),
        Piece(rows("d")),
    ]
    assert json.loads(joined.stats(pieces)) == {
        "count": 4, "successes": 4, "failed_to_download": 0, "failed_to_resize": 0,
        "start_time": 10.0, "end_time": 30.5, "duration": 20.5, "status_dict": {"success": 4},
    }  # fmt: skip


@pytest.mark.parametrize("given", [{}, {"start_time": "now"}, {"start_time": float("nan")}, {"end_time": -5.0}])
def test_statistics_without_times_take_a_second(given: dict[str, Any]) -> None:
    assert json.loads(joined.stats([Piece(rows("a"), stats=given)]))["duration"] == 1.0
