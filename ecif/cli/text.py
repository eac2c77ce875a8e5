"""Shards that failed, for people and for `--json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecif.stages.loop import Failure


def failures(failed: Iterable[Failure]) -> list[dict[str, Any]]:
    """As JSON values; `passing`: running again may help, because the data are not to blame."""
    return [{"shard": item.shard, "reason": item.reason, "passing": item.passing} for item in failed]


def listed(failed: Iterable[Mapping[str, Any]]) -> str:
    """One line per shard."""
    return "\n".join(f"  failed: {item['shard']}: {item['reason']}" for item in failed)
