"""The small values that the storage modules pass around."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

# How much of a file is held while it is copied or compared.
COPY_BYTES = 4 * 2**20

TAKEN = "exists already with other content; nothing is overwritten, use a new --out"

A_DIRECTORY = "is a directory; a file is needed"


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file: its normalised URL, bytes, and a tag that changes when it is replaced."""

    url: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Published:
    """What a published file holds: bytes, and SHA-256 in hex."""

    size: int
    sha256: str


def is_temporary(url: str) -> bool:
    """Whether this is the unfinished file of a writer (alive or killed); such files are never listed."""
    name = os.path.basename(url)
    return name.startswith(".") and name.endswith(".tmp")


def open_source(data: bytes | Path) -> IO[bytes]:
    """The bytes to publish as a stream."""
    return io.BytesIO(data) if isinstance(data, bytes) else open(data, "rb")
