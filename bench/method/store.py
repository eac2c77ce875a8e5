"""Results of measurements that take minutes, kept so that no number is computed twice.

A file of JSON lines, one {"key": ..., "value": ...} each, in the order in which they were found. A line is on the disk
before its number is used; a last line that was cut off by a kill is skipped when reading, and closed before the next
is written. Later lines win over earlier ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Store:
    """Values of JSON by keys of JSON. A key must name everything that determines the value, seeds included."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_bytes().splitlines():
                try:
                    entry = json.loads(line)
                    self._values[_name(entry["key"])] = entry["value"]
                except (ValueError, KeyError, TypeError):
                    continue  # cut off while it was written: it will be computed again

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """The value kept under `key`, or None."""
        return self._values.get(_name(key))

    def put(self, key: Mapping[str, Any], value: dict[str, Any]) -> None:
        """Keep `value`; it is on the disk when this returns.

        Raises:
            ValueError: the value or the key holds NaN or an infinity, which JSON cannot.
        """
        line = json.dumps({"key": dict(key), "value": value}, allow_nan=False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._values[_name(key)] = json.loads(line)["value"]

    def once(self, key: Mapping[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The value kept under `key`; computed and kept if there is none."""
        found = self.get(key)
        if found is None:
            self.put(key, compute())
            found = self._values[_name(key)]
        return found


def _name(key: Mapping[str, Any]) -> str:
    return json.dumps(dict(key), sort_keys=True, allow_nan=False)
