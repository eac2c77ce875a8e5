"""How much memory this process may have: of the machine, less what the container's limit keeps from it.

The whole of it and not what is free at the moment, so that what is sized by it is the same each time on the same
machine.
"""

from __future__ import annotations

import os
from pathlib import Path

from ecif.cores import CGROUPS


def ram(cgroups: Path | None = None) -> int:
    """Bytes.

    Args:
        cgroups: where the control groups are, by default `CGROUPS`; a container sees its own at the root (version 2,
            then version 1).
    """
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _limit(CGROUPS if cgroups is None else cgroups)
    return total if limit is None else min(total, limit)


def _limit(cgroups: Path) -> int | None:
    """The limit in bytes; None without one."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = int((cgroups / name).read_text("ascii"))
        except (OSError, ValueError):  # no such version, or "max"
            continue
        return limit if limit > 0 else None
    return None
