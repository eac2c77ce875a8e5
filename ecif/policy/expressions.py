"""What an expression is for each row: polars expressions, numbers in float64, and three truth values.

A value that is null, NaN or infinite is unknown, and so is what is computed from it; a comparison with it is neither
true nor false, and `not` does not change that (Kleene's logic, as in SQL). Arithmetic is elementwise IEEE 754, so the
same row gives the same bits everywhere. Whether a column is a number or a text is decided by the expression, not by the
file: shards whose tables disagree on the type are read alike.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add, and_, eq, ge, gt, le, lt, mul, ne, or_, sub, truediv

import polars as pl

from ecif.errors import UsageError
from ecif.policy.grammar import Call, Column, Node, Number, Text

_ARITHMETIC: dict[str, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {"+": add, "-": sub, "*": mul, "/": truediv}
_ORDER: dict[str, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {"<": lt, "<=": le, ">": gt, ">=": ge}
_EQUAL: dict[str, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {"=": eq, "!=": ne}


def number(node: Node, option: str, name: Callable[[str], str] = str) -> pl.Expr:
    """The value of an expression as Float64; null where it is unknown.

    Args:
        option: where it was given, for messages.
        name: what a column is called in the table.

    Raises:
        UsageError: it is no number.
    """
    match node:
        case Number(value):
            return _all_rows(value, pl.Float64)
        case Column(column):
            return _known(pl.col(name(column)).cast(pl.Float64, strict=False))
        case Call("neg", (part,)):
            return -number(part, option, name)
        case Call("abs", (part,)):
            return number(part, option, name).abs()
        case Call("coalesce", parts):
            return pl.coalesce(*(number(part, option, name) for part in parts))
        case Call("min" | "max" as which, parts):
            values = [number(part, option, name) for part in parts]
            smaller = which == "min"
            return reduce(lambda a, b: _extreme(a, b, smaller), values)
        case Call(sign, (left, right)) if sign in _ARITHMETIC:
            return _known(_ARITHMETIC[sign](number(left, option, name), number(right, option, name)))
    raise UsageError(f"{option}: a number is needed where {_words(node)} stands")


def truth(node: Node, option: str, name: Callable[[str], str] = str) -> pl.Expr:
    """Whether an expression is true, as Boolean; null where that is unknown.

    Raises:
        UsageError: it is neither true nor false.
    """
    match node:
        case Call("not", (part,)):
            return ~truth(part, option, name)
        case Call("and", parts):
            return reduce(and_, (truth(part, option, name) for part in parts))
        case Call("or", parts):
            return reduce(or_, (truth(part, option, name) for part in parts))
        case Call("null", (Column(column),)):
            # A column of texts is known where it has any; one of numbers where it is finite.
            return _unknown(pl.col(name(column)))
        case Call("null", (part,)):
            return number(part, option, name).is_null()
        case Call("=" | "!=" as sign, (left, right)) if isinstance(left, Text) or isinstance(right, Text):
            return _EQUAL[sign](_text(left, option, name), _text(right, option, name))
        case Call(sign, (left, right)) if sign in _ORDER or sign in _EQUAL:
            compare = (_ORDER | _EQUAL)[sign]
            return compare(number(left, option, name), number(right, option, name))
    raise UsageError(f"{option}: something true or false is needed, such as clip_score < 0.2, not {_words(node)}")


def _text(node: Node, option: str, name: Callable[[str], str]) -> pl.Expr:
    match node:
        case Text(value):
            return _all_rows(value, pl.String)
        case Column(column):
            return pl.col(name(column)).cast(pl.String, strict=False)
    raise UsageError(f"{option}: a text is compared with a column or a text, not with {_words(node)}")


def _all_rows(value: float | str, kind: type[pl.DataType]) -> pl.Expr:
    """A column of one value. polars gives a literal that is compared with nothing but nulls the length one."""
    return pl.repeat(value, pl.len(), dtype=kind)


def _known(value: pl.Expr) -> pl.Expr:
    return pl.when(value.is_finite()).then(value)


def _unknown(column: pl.Expr) -> pl.Expr:
    text = column.cast(pl.String, strict=False)
    return text.is_null() | text.is_in(["NaN", "inf", "-inf"])


def _extreme(a: pl.Expr, b: pl.Expr, smaller: bool) -> pl.Expr:
    """Unknown where one of the two is."""
    return pl.when(a.is_null() | b.is_null()).then(None).when((a <= b) if smaller else (a >= b)).then(a).otherwise(b)


def _words(node: Node) -> str:
    match node:
        case Number(value):
            return f"the number {value:g}"
        case Text(value):
            return f"the text {value!r}"
        case Column(name):
            return f"the column {name}"
        case Call(sign, _):
            return {"null": "'is null'", "neg": "a sign"}.get(sign, f"{sign!r}")
