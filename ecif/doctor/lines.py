"""What the doctor says: one line for each thing that was looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Line:
    """One finding.

    Attributes:
        level: `ok`: nothing to do. `warning`: it can be used, something is to be known. `problem`: it cannot be used.
        check: what was looked at. detail: what was found. advice: what to do; empty when there is nothing.
    """

    level: Level
    check: str
    detail: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.level:<8} {self.check:<20} {self.detail}{f'; {self.advice}' if self.advice else ''}"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All lines about one place, in the order in which things were looked at."""

    url: str
    lines: tuple[Line, ...]

    def count(self, level: Level) -> int:
        """How many lines are of this level."""
        return sum(line.level == level for line in self.lines)

    @property
    def ok(self) -> bool:
        """Whether the place can be used."""
        return self.count("problem") == 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "url": self.url,
            "ok": self.ok,
            "problems": self.count("problem"),
            "warnings": self.count("warning"),
            "lines": [asdict(line) for line in self.lines],
        }

    def __str__(self) -> str:
        warnings, problems = self.count("warning"), self.count("problem")
        verdict = "usable" if self.ok else f"not usable: {problems} problem{'s' if problems > 1 else ''}"
        with_warnings = f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
        return "\n".join([self.url, *map(str, self.lines), f"{verdict}{with_warnings}"])
