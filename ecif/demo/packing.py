"""One shard in the layout that img2dataset leaves behind: tar, parquet and statistics.

The tar holds `{key}.jpg`, `{key}.json`, `{key}.txt` for every picture that arrived, in the order of arrival; the
parquet one row for every url that was tried, also the failed ones; `_stats.json` counts both. Key = 10^d x shard +
place, with 10^d at least the tries of a shard. What a clock would give is fixed, so that the bytes are.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

_START = 1_767_225_600  # 2026-01-01, in seconds of the epoch
_SHARD_DIGITS = 5
_SCHEMA = {
    "uid": pl.String, "caption": pl.String, "url": pl.String, "key": pl.String, "status": pl.String,
    "error_message": pl.String, "width": pl.Int32, "height": pl.Int32, "original_width": pl.Int32,
    "original_height": pl.Int32, "exif": pl.String, "sha256": pl.String,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Download:
    """One url that was tried.

    Attributes:
        uid: 32 lower-case hex digits. image: JPEG bytes, None when it failed. side: of the square image, in pixels.
        status: `success`, `failed_to_download` or `failed_to_resize`. error: message of a failure.
    """

    uid: str
    caption: str
    image: bytes | None
    side: int
    status: str = "success"
    error: str | None = None


def pack(tar: Path, number: int, downloads: Sequence[Download], arrival: Sequence[int], digits: int) -> list[str]:
    """Write one shard: `tar`, and beside it its parquet and statistics.

    Args:
        number: of the shard. downloads: what was tried, by place in the shard.
        arrival: the places, in the order in which they were over. digits: of a place in a key.

    Returns:
        the keys, by place.
    """
    keys = [f"{10**digits * number + place:0{digits + _SHARD_DIGITS}d}" for place in range(len(downloads))]
    records = [_record(downloads[place], keys[place]) for place in arrival]
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as archive:
        for place, record in zip(arrival, records, strict=True):
            if (image := downloads[place].image) is not None:
                # webdataset's writer sorts the extensions of a sample.
                _add(archive, f"{keys[place]}.jpg", image)
                _add(archive, f"{keys[place]}.json", json.dumps(record, indent=4).encode())
                _add(archive, f"{keys[place]}.txt", downloads[place].caption.encode())
    pl.DataFrame(records, schema=_SCHEMA).write_parquet(tar.with_suffix(".parquet"))
    stats = json.dumps(_stats(downloads, number), indent=4)
    tar.with_name(f"{tar.stem}_stats.json").write_text(stats, "utf-8")
    return keys


def _record(download: Download, key: str) -> dict[str, Any]:
    """A row of the parquet, which is also the .json of the sample."""
    image = download.image
    side = None if image is None else download.side
    return {
        "uid": download.uid,
        "caption": download.caption,
        "url": f"https://pictures.example/{download.uid}.jpg",
        "key": key,
        "status": download.status,
        "error_message": download.error,
        "width": side,
        "height": side,
        "original_width": side,
        "original_height": side,
        "exif": None if image is None else "{}",
        "sha256": None if image is None else hashlib.sha256(image).hexdigest(),
    }


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.mtime = len(data), 0o444, _START
    header.uname, header.gname = "bigdata", "bigdata"  # as webdataset's writer signs
    archive.addfile(header, io.BytesIO(data))


def _stats(downloads: Sequence[Download], number: int) -> dict[str, Any]:
    by_status = Counter(download.status for download in downloads)
    start, duration = float(_START + 60 * number), len(downloads) / 100
    return {
        "count": len(downloads),
        "successes": by_status["success"],
        "failed_to_download": by_status["failed_to_download"],
        "failed_to_resize": by_status["failed_to_resize"],
        "duration": duration,
        "start_time": start,
        "end_time": start + duration,
        "status_dict": dict(Counter(download.error or "success" for download in downloads)),
    }
