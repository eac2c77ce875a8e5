"""Expressions over columns: a small grammar of their own, so that a policy can compute and compare and nothing else.

    clip_score < 0.2 and influence < 0
    language = 'de' or (width * height < 10000 and not caption_length is null)
    coalesce(aum, 0) + 2 * clip_score

Numbers, 'texts', columns (in "double quotes" where a name is no word), + - * /, comparisons, `in (...)`, `is null`,
and/or/not, and the functions of `FUNCTIONS`. SQL engines read files and run functions from an expression; this parser
knows neither. The price is a language that people learn from one page instead of knowing it already.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ecif.errors import UsageError
from ecif.nearest import did_you_mean

FUNCTIONS = {"abs": (1, 1), "min": (2, 100), "max": (2, 100), "coalesce": (2, 100)}
"""Names, and the least and largest number of arguments."""

LONGEST = 10_000  # characters of an expression
DEEPEST = 50  # parentheses, signs and `not` inside each other

_WORDS = {"and", "or", "not", "is", "in", "null"}
_COMPARISONS = {"=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<text>'(?:[^']|'')*')|(?P<column>\"[^\"]+\")"
    r"|(?P<word>[^\W\d]\w*)|(?P<sign><=|>=|<>|!=|==|[-+*/<>=(),]))"
)


@dataclass(frozen=True, slots=True)
class Number:
    """A number that is written out."""

    value: float


@dataclass(frozen=True, slots=True)
class Text:
    """A text that is written out."""

    value: str


@dataclass(frozen=True, slots=True)
class Column:
    """The value of a column; what is around it says whether it is read as a number or as a text."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operation or a function: + - * / neg, = != < <= > >=, and or not, null (is it unknown?), or of `FUNCTIONS`."""

    name: str
    parts: tuple[Node, ...]


Node = Number | Text | Column | Call


def parse(text: str, option: str) -> Node:
    """The tree of an expression.

    Args:
        option: where it was given, for messages: --where.

    Raises:
        UsageError: it is none; the message names the place.
    """
    if len(text) > LONGEST:
        raise UsageError(f"{option}: an expression has at most {LONGEST:,} characters, not {len(text):,}")
    return _Parser(text, option).whole()


def columns(node: Node) -> frozenset[str]:
    """Names of the columns that an expression looks at."""
    if isinstance(node, Column):
        return frozenset((node.name,))
    return frozenset().union(*map(columns, node.parts)) if isinstance(node, Call) else frozenset()


class _Parser:
    """Recursive descent; one method per level of precedence, from `or` inwards."""

    def __init__(self, text: str, option: str) -> None:
        self.text, self.option, self.depth = text, option, 0
        self.tokens = [*self._tokens(), ("end", "", len(text))]
        self.place = 0

    def _tokens(self) -> Iterator[tuple[str, str, int]]:
        at = 0
        while self.text[at:].strip():
            found = _TOKEN.match(self.text, at)
            if found is None:
                at += len(self.text[at:]) - len(self.text[at:].lstrip())
                raise UsageError(f"{self.option}: cannot read {self.text[at : at + 20]!r} at character {at + 1}")
            kind = str(found.lastgroup)
            value = found.group(kind)
            if kind == "word" and value.lower() in _WORDS:
                kind, value = "sign", value.lower()
            yield kind, value, found.start(kind)
            at = found.end()

    def whole(self) -> Node:
        if self.tokens[0][0] == "end":
            raise UsageError(f"{self.option}: the expression is empty")
        found = self._or()
        if self.tokens[self.place][0] != "end":
            raise self._error("the end, or an operator")
        return found

    def _error(self, wanted: str) -> UsageError:
        kind, value, at = self.tokens[self.place]
        found = "the end" if kind == "end" else repr(value)
        return UsageError(f"{self.option}: expected {wanted} at character {at + 1}, found {found}: {self.text}")

    def _is(self, *signs: str) -> bool:
        kind, value, _ = self.tokens[self.place]
        return kind == "sign" and value in signs

    def _next(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1][1]

    def _take(self, sign: str) -> None:
        if not self._is(sign):
            raise self._error(repr(sign))
        self.place += 1

    def _deeper(self) -> None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise UsageError(f"{self.option}: nested deeper than {DEEPEST} levels")

    def _or(self) -> Node:
        parts = [self._and()]
        while self._is("or"):
            self._next()
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else Call("or", tuple(parts))

    def _and(self) -> Node:
        parts = [self._not()]
        while self._is("and"):
            self._next()
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else Call("and", tuple(parts))

    def _not(self) -> Node:
        if not self._is("not"):
            return self._comparison()
        self._next()
        self._deeper()
        found = Call("not", (self._not(),))
        self.depth -= 1
        return found

    def _comparison(self) -> Node:
        left = self._sum()
        if self._is(*_COMPARISONS):
            sign = _COMPARISONS[self._next()]
            return Call(sign, (left, self._sum()))
        if self._is("is"):
            self._next()
            negated = self._negated()
            self._take("null")
            found = Call("null", (left,))
        elif self._is("in", "not"):
            negated = self._negated()
            self._take("in")
            self._take("(")
            listed = [self._sum()]
            while self._is(","):
                self._next()
                listed.append(self._sum())
            self._take(")")
            found = Call("or", tuple(Call("=", (left, item)) for item in listed))
        else:
            return left
        return Call("not", (found,)) if negated else found

    def _negated(self) -> bool:
        if not self._is("not"):
            return False
        self._next()
        return True

    def _sum(self) -> Node:
        left = self._product()
        while self._is("+", "-"):
            sign = self._next()
            left = Call(sign, (left, self._product()))
        return left

    def _product(self) -> Node:
        left = self._signed()
        while self._is("*", "/"):
            sign = self._next()
            left = Call(sign, (left, self._signed()))
        return left

    def _signed(self) -> Node:
        if not self._is("-", "+"):
            return self._atom()
        sign = self._next()
        self._deeper()
        found = self._signed()
        self.depth -= 1
        return Call("neg", (found,)) if sign == "-" else found

    def _atom(self) -> Node:
        kind, value, _ = self.tokens[self.place]
        if kind == "number":
            self._next()
            return Number(float(value))
        if kind == "text":
            self._next()
            return Text(value[1:-1].replace("''", "'"))
        if kind == "column":
            self._next()
            return Column(value[1:-1])
        if kind == "word":
            self._next()
            return self._call(value) if self._is("(") else Column(value)
        if self._is("("):
            self._next()
            self._deeper()
            found = self._or()
            self.depth -= 1
            self._take(")")
            return found
        raise self._error("a number, a 'text', a column or '('")

    def _call(self, name: str) -> Node:
        if name not in FUNCTIONS:
            hint = did_you_mean(name, FUNCTIONS)
            raise UsageError(f"{self.option}: there is no function {name!r}, only {', '.join(FUNCTIONS)}.{hint}")
        self._take("(")
        self._deeper()
        parts = [self._sum()]
        while self._is(","):
            self._next()
            parts.append(self._sum())
        self.depth -= 1
        self._take(")")
        least, most = FUNCTIONS[name]
        if not least <= len(parts) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise UsageError(f"{self.option}: {name} takes {wanted} values, not {len(parts)}")
        return Call(name, tuple(parts))
