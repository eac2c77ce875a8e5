"""The small values that the storage modules pass around."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime

# How much of a file is held while it is copied or compared.
COPY_BYTES = 4 * 2**20

TAKEN = "exists already with other content; nothing is overwritten, use a new --out"

VANISHED = "was removed while what was written was compared with it; run again"

A_DIRECTORY = "is a directory; a file is needed"

REPLACED = "was replaced while it was read; inputs must not change during a run, run again"


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


@dataclass(frozen=True, slots=True)
class PendingUpload:
    """A multipart upload that was begun and neither completed nor aborted: nothing sees it, but it costs money."""

    url: str
    upload_id: str
    started: datetime


def is_temporary(url: str) -> bool:
    """Whether this is the unfinished file of a writer (alive or killed); such files are never listed."""
    name = os.path.basename(url)
    return name.startswith(".") and name.endswith(".tmp")
