"""Sidecars follow the tar: rows of what left are gone, everything else is as it was."""

from __future__ import annotations

import io
import json
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecif.errors import InputError
from ecif.shards.sidecars import (
    Row,
    chosen_parquet,
    chosen_stats,
    disagreements,
    read_parquet,
    rewrite_parquet,
    rewrite_stats,
)

URL = "00000.parquet"


def parquet(table: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def rewritten(table: pl.DataFrame, samples: list[Row]) -> pl.DataFrame:
    return read_parquet(rewrite_parquet(parquet(table), samples, URL), URL)


TABLE = pl.DataFrame(
    {
        "url": ["u0", "u1", "u2", "u3"],
        "key": ["000", "001", "002", "003"],
        "status": ["success", "failed_to_download", "success", "success"],
        "width": pl.Series([1, None, 3, 4], dtype=pl.Int32),
        "similarity": pl.Series([0.5, 0.25, None, 0.75], dtype=pl.Float32),
        "face_bboxes": [[[0.1, 0.2]], [], None, [[0.5]]],
        "LICENSE": pl.Series(["a", "b", "a", None], dtype=pl.Categorical),
        "when": pl.Series([1, 2, 3, 4]).cast(pl.Datetime("us")),
    }
)


def test_rows_of_dropped_samples_go_and_failed_downloads_stay() -> None:
    # Members of a tar stand in the order in which downloads ended, rows in that of the list of URLs.
    found = rewritten(TABLE, [Row("003", ""), Row("000", "", True), Row("002", "")])
    assert found.equals(TABLE[[1, 2, 3]])
    assert found.schema == TABLE.schema


def test_nothing_dropped_is_the_same_bytes() -> None:
    data = parquet(TABLE)
    assert rewrite_parquet(data, [Row("000", ""), Row("002", ""), Row("003", "")], URL) is data


def test_everything_dropped_leaves_the_failures() -> None:
    found = rewritten(TABLE, [Row(key, "", True) for key in ("000", "002", "003")])
    assert found.equals(TABLE[[1]])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["kept", "dropped", "failed"]), max_size=30), st.randoms(use_true_random=False))
def test_rows_left_are_the_kept_and_the_failed(fates: list[str], order: Any) -> None:
    status = ["failed_to_resize" if fate == "failed" else "success" for fate in fates]
    columns = {"key": [f"{i:05d}" for i in range(len(fates))], "status": status}
    table = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    samples = [Row(f"{i:05d}", "", fate == "dropped") for i, fate in enumerate(fates) if fate != "failed"]
    order.shuffle(samples)
    found = rewritten(table, samples)
    assert found["key"].to_list() == [f"{i:05d}" for i, fate in enumerate(fates) if fate != "dropped"]
    assert disagreements(samples, found, None) == []


def test_a_table_without_keys_is_matched_by_uid() -> None:
    table = pl.DataFrame({"uid": ["a", "b", "c"], "text": ["x", "y", "z"]})
    found = rewritten(table, [Row("0", "c", True), Row("1", "a")])
    # Without statuses the row of `b` counts as a failed download.
    assert found["uid"].to_list() == ["a", "b"]


def test_a_table_with_bare_names_fits_a_tar_with_directories() -> None:
    found = rewritten(TABLE, [Row("./000", ""), Row("./002", "", True), Row("./003", "")])
    assert found["key"].to_list() == ["000", "001", "003"]


def test_a_sample_without_a_row_is_refused() -> None:
    with pytest.raises(InputError, match="'009' of the tar has no successful row") as caught:
        rewritten(TABLE, [Row("000", ""), Row("009", ""), Row("002", ""), Row("003", "")])
    assert caught.value.url == URL
    with pytest.raises(InputError, match="'001' of the tar has no successful row"):
        rewritten(TABLE, [Row(key, "") for key in ("000", "001", "002", "003")])


def test_a_successful_row_without_a_sample_is_refused() -> None:
    with pytest.raises(InputError, match=r"row 3 \(key '003'\)"):
        rewritten(TABLE, [Row("000", "", True), Row("002", "")])


def test_repeated_keys_are_matched_in_order() -> None:
    table = pl.DataFrame({"key": ["a", "b", "a"], "status": ["success"] * 3, "n": [0, 1, 2]})
    assert rewritten(table, [Row("a", ""), Row("b", ""), Row("a", "", True)])["n"].to_list() == [0, 1]
    assert rewritten(table, [Row("a", "", True), Row("b", ""), Row("a", "")])["n"].to_list() == [1, 2]


@pytest.mark.parametrize(("first", "second", "left"), [(True, True, []), (True, False, ["a"]), (False, True, ["a"])])
def test_samples_that_share_a_row_keep_it_while_one_stays(first: bool, second: bool, left: list[str]) -> None:
    table = pl.DataFrame({"key": ["a"], "status": ["success"]})
    assert rewritten(table, [Row("a", "", first), Row("a", "", second)])["key"].to_list() == left


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(InputError, match=r"00000\.parquet: not a parquet file"):
        rewrite_parquet(b"PAR1 nonsense", [], URL)
    with pytest.raises(InputError, match="neither a 'key' nor a 'uid'"):
        rewritten(pl.DataFrame({"x": [1]}), [Row("0", "")])


STATS: dict[str, Any] = {
    "count": 4,
    "successes": 3,
    "failed_to_download": 1,
    "failed_to_resize": 0,
    "duration": 12.5,
    "start_time": 1.25,
    "end_time": 13.75,
    "status_dict": {"HTTP Error 404: Not Found": 1, "success": 3},
}
SAMPLES = [Row("000", ""), Row("002", "", True), Row("003", "")]


def test_counts_follow_and_all_else_stays_in_its_order() -> None:
    found = json.loads(rewrite_stats(json.dumps(STATS).encode(), SAMPLES, 3, "s"))
    assert list(found.items()) == list(
        (STATS | {"count": 3, "successes": 2, "status_dict": STATS["status_dict"] | {"success": 2}}).items()
    )
    assert list(found["status_dict"]) == list(STATS["status_dict"])


@pytest.mark.parametrize(
    "style", [{}, {"indent": 4}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}]
)
@pytest.mark.parametrize("end", ["", "\n"])
def test_the_style_of_the_file_stays(style: dict[str, Any], end: str) -> None:
    before = STATS | {"where": "Köln" if style == {"ensure_ascii": False} else "Cologne"}
    after = before | {"count": 3, "successes": 2, "status_dict": STATS["status_dict"] | {"success": 2}}
    data = (json.dumps(before, **style) + end).encode()
    assert rewrite_stats(data, SAMPLES, 3, "s") == (json.dumps(after, **style) + end).encode()


def test_statistics_that_are_right_are_the_same_bytes() -> None:
    data = json.dumps(STATS, indent=3).encode()
    assert rewrite_stats(data, [Row(str(i), "") for i in range(3)], 4, "s") is data


def test_without_a_parquet_the_count_falls_by_what_left() -> None:
    assert json.loads(rewrite_stats(json.dumps(STATS).encode(), SAMPLES, None, "s"))["count"] == 3


def test_fields_that_are_not_there_are_not_added() -> None:
    assert rewrite_stats(b'{"duration": 1}', SAMPLES, 3, "s") == b'{"duration": 1}'
    assert json.loads(rewrite_stats(b'{"successes": 3, "status_dict": {}}', SAMPLES, 3, "s")) == {
        "successes": 2,
        "status_dict": {},
    }


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff{}", b"[" * 100_000])
def test_what_are_no_statistics_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="s:"):
        rewrite_stats(data, SAMPLES, 3, "s")


def test_disagreements_are_named() -> None:
    def codes(samples: list[Row], table: pl.DataFrame | None, stats: dict[str, Any] | None) -> list[str]:
        return [found.code for found in disagreements(samples, table, stats)]

    three = [Row(key, "") for key in ("000", "002", "003")]
    assert codes(three, TABLE, STATS) == []
    assert codes(three, None, None) == []
    assert codes(three[:2], TABLE, None) == ["parquet_keys"]
    assert codes(three[:2], None, STATS) == ["stats_successes", "stats_successes"]
    assert codes(three, TABLE, STATS | {"count": 5}) == ["stats_count"]
    assert codes([*three, Row("004", "", True)], TABLE, STATS) == []


def test_restored_samples_have_their_rows_and_no_failures() -> None:
    samples = [Row("003", ""), Row("000", "", True), Row("002", "")]
    found = read_parquet(chosen_parquet(parquet(TABLE), samples, URL), URL)
    assert found.equals(TABLE[[2, 3]])
    assert found.schema == TABLE.schema
    with pytest.raises(InputError, match="no successful row"):
        chosen_parquet(parquet(TABLE), [Row("009", "")], URL)


def test_a_row_that_samples_share_comes_back_with_any_of_them() -> None:
    table = pl.DataFrame({"key": ["a"], "status": ["success"]})
    assert read_parquet(chosen_parquet(parquet(table), [Row("a", "", True), Row("a", "")], URL), URL).equals(table)


def test_statistics_of_restored_samples_count_them_and_nothing_else() -> None:
    found = json.loads(chosen_stats(json.dumps(STATS, indent=2).encode(), 2, "s"))
    counts = {"count": 2, "successes": 2, "failed_to_download": 0, "status_dict": {"success": 2}}
    assert found == STATS | counts
    assert chosen_stats(b'{"duration": 1}', 2, "s") == b'{"duration": 1}'


@pytest.mark.parametrize("names", [{"__key__": ["0", "1"]}, {"SAMPLE_ID": [17, 18]}, {"hash": [17.0, 18.0]}])
def test_columns_under_other_names(names: dict[str, list[Any]]) -> None:
    table = pl.DataFrame(names | {"TEXT": ["x", "y"]})
    assert rewritten(table, [Row("0", "17", True), Row("1", "18")])["TEXT"].to_list() == ["y"]
