"""Expressions against a plain Python evaluation, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ecif.errors import UsageError
from ecif.policy import expressions
from ecif.policy.grammar import DEEPEST, LONGEST, Call, Column, Node, Number, Text, columns, parse

COLUMNS = ("a", "b", "c d")
values = st.none() | st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 0.1, 1e300, float("nan"), float("inf")])
table_rows = st.lists(st.tuples(values, values, values, st.none() | st.sampled_from(["x", "it's", ""])), max_size=6)


def numbers() -> st.SearchStrategy[str]:
    leaves = st.sampled_from(["a", "b", '"c d"', "0", "1", ".5", "2e0", "1e300"])
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
            inner.map(lambda one: f"-{one}"),
            inner.map(lambda one: f"abs({one})"),
            st.tuples(st.sampled_from(["min", "max", "coalesce"]), inner, inner).map(
                lambda t: f"{t[0]}({t[1]}, {t[2]})"
            ),
        ),
        max_leaves=5,
    )


def truths() -> st.SearchStrategy[str]:
    signs = st.sampled_from(["<", "<=", ">", ">=", "=", "==", "!=", "<>"])
    leaves = st.one_of(
        st.tuples(numbers(), signs, numbers()).map(" ".join),
        st.sampled_from(["t = 'x'", "t != 'it''s'", "t in ('x', '')", "t not in ('x')", "t is null", "a is not null",
                         "a in (1, 2)", "b is null", "a + b is null"]),
    )  # fmt: skip
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["and", "OR"]), inner).map(lambda t: f"({t[0]}) {t[1]} ({t[2]})"),
            inner.map(lambda one: f"not ({one})"),
        ),
        max_leaves=4,
    )


def known(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def naive(node: Node, row: dict[str, Any]) -> Any:
    """What the documentation says, one row at a time: None is unknown."""
    match node:
        case Number(value) | Text(value):
            return value
        case Column(name):
            return row[name] if name == "t" else known(row[name])
        case Call("null", (Column("t"),)):
            return row["t"] is None
        case Call("null", (part,)):
            return naive(part, row) is None
        case Call(name, parts):
            found = [naive(part, row) for part in parts]
            if name == "coalesce":
                return next((value for value in found if value is not None), None)
            if name == "and":
                return False if False in found else None if None in found else True
            if name == "or":
                return True if True in found else None if None in found else False
            if None in found:
                return None
            if name == "/":
                return None if found[1] == 0 else known(found[0] / found[1])
            plain: dict[str, Any] = {
                "not": lambda x: not x, "neg": lambda x: -x, "abs": abs, "min": min, "max": max,
                "+": lambda x, y: known(x + y), "-": lambda x, y: known(x - y), "*": lambda x, y: known(x * y),
                "=": lambda x, y: x == y, "!=": lambda x, y: x != y, "<": lambda x, y: x < y,
                "<=": lambda x, y: x <= y, ">": lambda x, y: x > y, ">=": lambda x, y: x >= y,
            }  # fmt: skip
            return plain[name](*found)


def frame(rows: list[Any]) -> pl.DataFrame:
    schema = {**dict.fromkeys(COLUMNS, pl.Float64), "t": pl.String}
    return pl.DataFrame({name: [row[i] for row in rows] for i, name in enumerate(schema)}, schema=schema)


@settings(max_examples=200, deadline=None)
@given(truths(), table_rows)
@example("0 < -min(a, a)", [(None, None, None, None)] * 2)
@example("0 < -(a + a)", [(None, None, None, None)] * 2)
@example("'x' = t", [(None, None, None, None)] * 2)
@example("1 < 2", [(None, None, None, None)] * 2)
def test_a_condition_is_what_its_words_say(text: str, rows: list[Any]) -> None:
    node = parse(text, "--where")
    table = frame(rows)
    got = table.with_columns(found=expressions.truth(node, "--where"))["found"].to_list()
    assert got == [naive(node, row) for row in table.iter_rows(named=True)]


@settings(max_examples=150, deadline=None)
@given(numbers(), table_rows)
def test_a_number_is_what_python_computes(text: str, rows: list[Any]) -> None:
    node = parse(text, "--rank-by")
    table = frame(rows)
    found = table.with_columns(found=expressions.number(node, "--rank-by"))["found"].to_list()
    assert found == [naive(node, row) for row in table.iter_rows(named=True)]


def test_precedence_is_that_of_arithmetic_and_logic() -> None:
    one = {"a": 2.0, "b": 3.0, "c d": 4.0}
    for text, value in {"a + b * \"c d\"": 14.0, "(a + b) * \"c d\"": 20.0, "a - b - 1": -2.0, "\"c d\" / a / a": 1.0,
                        "-a * b": -6.0, "- - a": 2.0}.items():  # fmt: skip
        assert naive(parse(text, "x"), one) == value
    assert parse("a=1 or b=1 and not a=2", "x") == parse("(a = 1) OR ((b == 1) and (not (a=2)))", "x")


def test_columns_are_found_wherever_they_stand() -> None:
    assert columns(parse("""abs(a) < 1 and ("c d" is null or t in ('x') or max(b, 2) = 'null')""", "x")) == {
        "a", "b", "c d", "t"}  # fmt: skip
    assert columns(parse("1 < 2", "x")) == set()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"), ("  ", "is empty"), ("a <", "expected a number, .* at character 4, found the end"),
        ("a < 1 b", "expected the end, or an operator at character 7, found 'b'"), ("(a < 1", r"expected '\)'"),
        ("a ; drop", "cannot read '; drop' at character 3"), ("a < 'x", 'cannot read "\'x" at character 5'),
        ("read_csv('/etc/passwd') is null", "no function 'read_csv', only abs"), ("ab(a) < 1", "Did you mean 'abs'"),
        ("abs(a, b) < 1", "abs takes 1 values"), ("min(a) < 1", "min takes 2 to 100"), ("a is 1", "expected 'null'"),
        ("a not 1", "expected 'in'"), ("a in ()", "expected a number"), ("and", "expected a number"),
        ("(" * (DEEPEST + 1) + "a", "nested deeper"), ("-" * (DEEPEST + 1) + "a", "nested deeper"),
        ("not " * (DEEPEST + 1) + "a", "nested deeper"), ("a" * (LONGEST + 1), "at most 10,000 characters"),
        ("a < 1 < 2", "expected the end"), ("select * from x", "expected the end"),
    ],
)  # fmt: skip
def test_what_is_no_expression_is_refused_with_the_place(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^--where: .*{message}"):
        parse(text, "--where")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a", "not the column a"), ("1", "not the number 1"), ("a + 1", "not '\\+'"), ("a < (b < 1)", "where '<' stands"),
     ("a < 'x'", "where the text 'x' stands"), ("a + 1 = 'x'", "not with '\\+'"), ("'x'", "not the text 'x'"),
     ("not a", "not the column a"), ("(a = 1) + 1 < 2", "where '=' stands")],
)  # fmt: skip
def test_what_is_neither_true_nor_false_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        expressions.truth(parse(text, "--where"), "--where")


def test_the_expression_says_the_type_and_not_the_file() -> None:
    node = parse("w < 10 and l = '1'", "x")
    for table in (
        pl.DataFrame({"w": [5, 50, None], "l": [1, 1, 1]}),
        pl.DataFrame({"w": ["5", "50", "wide"], "l": ["1", "1", "1"]}),
    ):
        assert table.select(found=expressions.truth(node, "x"))["found"].to_list() == [True, False, None]
