"""What a proof finds: violations, and what was counted on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ecif.errors import InputError, MissingFileError, UsageError


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that does not hold.

    Attributes:
        shard: its name. what: for machines. detail: for people, with the file.
    """

    shard: str
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class ShardCheck:
    """What was read of one shard; the counts are those found in the bytes, not those of the manifest."""

    shard: str
    samples: int = 0
    kept: int = 0
    dropped: int = 0
    quarantined: int = 0
    violations: tuple[Violation, ...] = ()


@contextmanager
def noting(shard: str, what: str, violations: list[Violation]) -> Iterator[None]:
    """Turn a problem of a file into a violation `what`, or `missing` when the file is not there."""
    try:
        yield
    except (InputError, UsageError) as error:
        violations.append(Violation(shard, "missing" if isinstance(error, MissingFileError) else what, str(error)))
