"""Check --device and --threads before any work, and measure memory."""

import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sgn_serve.process.cores import crowded
from training.common.errors import TrainingError

if TYPE_CHECKING:  # the functions import it, so that a command line can check its options before it does
    import torch

MIB, GIB = 2**20, 2**30
_MOST_THREADS = 4096


class DeviceError(TrainingError):
    """A device or a number of threads that this machine does not have. The message names the usable ones."""


DEFAULT_DEVICE = "cuda where PyTorch finds a GPU, else cpu"
"""The default of --device in words; default_device finds it out."""


def default_device() -> str:
    """Return "cuda" where PyTorch finds a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def checked_device(name: str) -> "torch.device":
    """Return the device of that name: cpu, cuda, or cuda:N.

    Raises:
        DeviceError: There is no such device. The message names those that there are.
    """
    import torch

    # device_count alone also counts GPUs whose driver is too old for this PyTorch.
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{index}" for index in range(gpus))]
    if name not in here:
        why = "no such device here" if gpus else "no such device here, PyTorch finds no GPU that it can use"
        raise DeviceError(f"--device {name}: {why}; pass {' or '.join(f'--device {usable}' for usable in here)}")
    return torch.device(name)


def device_name(device: "torch.device") -> str:
    """Return what a result calls a device: the GPU's name, such as "NVIDIA H200", or "cpu"."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def check_threads(count: int | None, elsewhere: bool = False) -> None:
    """Check a number of CPU threads. None leaves it to PyTorch.

    Args:
        count: The number.
        elsewhere: Whether they run on a cluster, whose machines may have more cores than this one.

    Raises:
        DeviceError: It is below 1, or above what this machine, or any, could run.
    """
    if count is not None and count < 1:
        raise DeviceError(f"--threads must be at least 1, not {count}; leave it away for all cores")
    if count is not None and not elsewhere and (why := crowded(count)):
        raise DeviceError(f"--threads must not be {count}: {why}, or leave it away for all cores")
    if count is not None and count > _MOST_THREADS:
        raise DeviceError(f"--threads must be at most {_MOST_THREADS}; leave it away for all cores")


def peak_memory(device: "torch.device") -> int:
    """Return the most memory used so far, in bytes: PyTorch's on a GPU, elsewhere the process's resident memory."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory(device: "torch.device") -> int | None:
    """Return the memory that this process may still take, in bytes. None where that is unknown (a CPU outside Linux).

    Processes that torchrun started share the machine's memory evenly. A container's limit counts.
    """
    if device.type == "cuda":
        import torch

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
    """Return the bytes left below the limit of the control group (version 2) that the process sees as its root."""
    try:
        limit = (group / "memory.max").read_text().strip()
        # Cached files count as used, but the kernel drops them to make room. So only anonymous memory counts here.
        used = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["anon"]
    except (OSError, KeyError):
        return None
    return None if limit == "max" else max(0, int(limit) - int(used))


def gib(count: int) -> str:
    """Return a number of bytes as text in GiB."""
    return f"{count / GIB:.1f} GiB"
