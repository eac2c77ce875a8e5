"""A table that ends its parser ends no more than that."""

from __future__ import annotations

import io
import random

import polars as pl
import pytest

from ecif.errors import InputError
from ecif.shards.apart import Parser

TABLE = pl.DataFrame({"key": ["a", None, "c"], "n": [1, 2, None], "x": [[1.5], [], [2.0, 3.0]]})


def parquet(table: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def test_tables_come_back_as_they_are() -> None:
    with Parser() as parser:
        for table in (TABLE, pl.DataFrame(), TABLE.clear(), pl.DataFrame({"key": ["x" * 1000] * 5000})):
            assert parser.read_parquet(parquet(table), "t").equals(table)


def test_what_is_no_table_is_an_error() -> None:
    with Parser() as parser:
        for data in (b"", b"PAR1", b"no parquet" * 10):
            with pytest.raises(InputError, match="not a parquet file") as caught:
                parser.read_parquet(data, "s3://b/t.parquet")
            assert caught.value.url == "s3://b/t.parquet"
        assert parser.read_parquet(parquet(TABLE), "t").equals(TABLE)


def test_a_parser_that_dies_is_an_error_and_the_next_table_is_read() -> None:
    with Parser() as parser:
        parser.read_parquet(parquet(TABLE), "t")
        assert parser._process is not None
        parser._process.kill()
        with pytest.raises(InputError, match="the parser died of it"):
            parser.read_parquet(parquet(TABLE), "t")
        assert parser.read_parquet(parquet(TABLE), "t").equals(TABLE)


def test_damaged_tables_are_tables_or_errors() -> None:
    """Whatever the parser does with them; it has ended its process at such bytes."""
    data, rng = parquet(TABLE), random.Random(0)
    with Parser() as parser:
        for _ in range(100):
            damaged = bytearray(data)
            damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            try:
                parser.read_parquet(bytes(damaged), "t")
            except InputError as error:
                assert "not a parquet file" in str(error)
