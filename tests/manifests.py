"""A manifest for tests, of a shard from which three samples went."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ecif.manifest import FileMark, Manifest
from ecif.storage import FileInfo


def made_manifest(shard: str = "00000", kept: int = 7, tar: int | None = 4096, **changes: Any) -> Manifest:
    """`kept` samples stayed; `tar`: bytes of the cleaned tar, None for none; `changes`: other fields."""
    files = {"ledger": FileMark(10, "a" * 64)} | ({} if tar is None else {"tar": FileMark(tar, "b" * 64)})
    made = Manifest(
        shard=shard,
        input=FileInfo(f"s3://b/raw/{shard}.tar", 10_240, "etag"),
        samples=kept + 3,
        kept=kept,
        dropped=2,
        quarantined=1,
        unscored=1,
        statuses={"ok": kept + 2, "no_image": 1},
        files=files,
        fit_key="f" * 12,
        score_key="c" * 12,
        decision_key="d" * 12,
        algo_version=1,
    )
    return replace(made, **changes)
