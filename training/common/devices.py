"""What --device and --threads may be, checked before any work."""

import os
import resource
import sys
from pathlib import Path

import torch


def checked_device(name: str) -> torch.device:
    """The device of that name: cpu, cuda, or cuda:N.

    raises ValueError, naming those that there are, for any other
    """
    # device_count alone also counts GPUs whose driver is too old for this PyTorch.
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{index}" for index in range(gpus))]
    if name not in here:
        why = "no such device here" if gpus else "no such device here, PyTorch finds no GPU that it can use"
        raise ValueError(f"--device {name}: {why}; pass {' or '.join(f'--device {usable}' for usable in here)}")
    return torch.device(name)


def check_threads(count: int | None) -> None:
    """raises ValueError for a number of CPU threads that is none; None leaves it to PyTorch"""
    if count is not None and count < 1:
        raise ValueError(f"--threads must be at least 1, not {count}; leave it away for all cores")


MIB, GIB = 2**20, 2**30


def peak_memory(device: torch.device) -> int:
    """Bytes at the most so far: PyTorch's on a GPU, elsewhere the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process may still take, None where that is not known (a CPU outside Linux).

    Processes that torchrun started share the machine's memory evenly. A container's limit counts.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = [limit for limit in (_free_on_the_machine(), _free_in_the_container()) if limit is not None]
    return min(limits) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if limits else None


def _free_on_the_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    values = {name: int(rest.split()[0]) for name, rest in (line.split(":", 1) for line in lines)}
    return values["MemAvailable"] * 1024 if "MemAvailable" in values else None


def _free_in_the_container(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """By the control group (version 2) that the process sees as its root."""
    try:
        limit = (group / "memory.max").read_text().strip()
        # Files that are cached count as used, but make room.
        used = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["anon"]
    except (OSError, KeyError):
        return None
    return None if limit == "max" else max(0, int(limit) - int(used))


def gib(count: int) -> str:
    """Bytes for people."""
    return f"{count / GIB:.1f} GiB"
