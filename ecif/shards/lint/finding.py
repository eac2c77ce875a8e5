"""One thing that is wrong, in a form for people and one for machines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        severity: `error` or `warning`. code: for machines (docs/lint.md); those of samples are the statuses of a
            score table.
        url: the file. member, offset: the tar member and the byte where it begins, when one is meant; in a gzip file
            the offset is that of the tar inside.
        detail: for people.
    """

    severity: Severity
    code: str
    url: str
    member: str | None
    offset: int | None
    detail: str

    def __str__(self) -> str:
        return f"{self.severity}: {place(self.url, self.member, self.offset)}: {self.code}: {self.detail}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def to_line(self) -> str:
        """As one line of JSON, without the line break."""
        return json.dumps(self.to_json())


def place(url: str, member: str | None, offset: int | None) -> str:
    """Where something stands, for people."""
    named = "" if member is None else f", member {member!r}"
    return f"{url}{named}{'' if offset is None else f', offset {offset}'}"
