"""Count the CPU cores that this process may use. A container's quota counts, which ONNX Runtime does not look at."""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MOST_THREADS_A_CORE = 8
"""Most computing threads for each core. More of them wait for each other, and 500 a core take minutes to start."""


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


def crowded(threads: int) -> str:
    """Return why so many computing threads are too many for this process's cores, "" where they are not."""
    cores = usable_cores()
    if threads <= MOST_THREADS_A_CORE * cores:
        return ""
    return (
        f"this process may use {cores} core{'' if cores == 1 else 's'}, and more than {MOST_THREADS_A_CORE} threads "
        f"for each wait for one another; give {MOST_THREADS_A_CORE * cores} at most"
    )


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
