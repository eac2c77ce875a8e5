"""How many cores this process may use: of the machine, less what affinity and the container's quota keep from it."""

from __future__ import annotations

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def cores(cgroups: Path = CGROUPS) -> int:
    """Cores, at least one. A quota of less than a whole core counts as one.

    Args:
        cgroups: where the control groups are; a container sees its own at the root (version 2, then version 1).
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroups)
    return max(1, count if quota is None else min(count, round(quota)))


def _quota(cgroups: Path) -> float | None:
    """Cores that the quota comes to; None without one."""
    try:
        quota, period = (cgroups / "cpu.max").read_text("ascii").split()
    except (OSError, ValueError):
        try:
            quota = (cgroups / "cpu/cpu.cfs_quota_us").read_text("ascii")
            period = (cgroups / "cpu/cpu.cfs_period_us").read_text("ascii")
        except OSError:
            return None
    try:
        return int(quota) / int(period) if int(quota) > 0 and int(period) > 0 else None
    except ValueError:  # "max"
        return None
