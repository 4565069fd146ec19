"""What --device and --threads may be, checked before any work."""

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
