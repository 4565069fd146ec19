"""Count the CPU cores that this process may use. A container's quota counts, which ONNX Runtime does not look at."""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = CGROUPS) -> int:
    """Return the cores that this process may run on, or its cgroup's quota where that is less.

    More threads than the quota allows would use it up early in each period of 100 ms, and wait for the rest of it.

    Args:
        cgroups: Folder in which the kernel shows this container's control group.

    Returns:
        A whole number, rounded up, 1 at least.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroups)
    return cores if quota is None else max(1, min(cores, quota))


def _quota(cgroups: Path) -> int | None:
    """Return the control group's quota in cores, rounded up, None where there is none."""
    try:
        if (cgroups / "cpu.max").exists():  # version 2
            allowed, period = (cgroups / "cpu.max").read_text().split()
        else:  # version 1
            allowed = (cgroups / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroups / "cpu" / "cpu.cfs_period_us").read_text().strip()
        if allowed in ("max", "-1"):
            return None
        return -(-int(allowed) // int(period))
    except (OSError, ValueError):
        return None
