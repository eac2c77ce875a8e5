"""Memory is counted as containers are limited."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ecif.ram import ram

HERE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
V1 = "memory/memory.limit_in_bytes"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, HERE),
        ({"memory.max": "max\n"}, HERE),
        ({"memory.max": "104857600\n"}, 100 << 20),
        ({"memory.max": f"{1 << 60}\n"}, HERE),
        ({"memory.max": "nonsense\n"}, HERE),
        ({V1: "9223372036854771712\n"}, HERE),
        ({V1: "104857600\n"}, 100 << 20),
        ({"memory.max": "209715200\n", V1: "104857600\n"}, 200 << 20),
    ],
)
def test_ram(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert ram(tmp_path) == expected
