"""A task of a cluster that tells of its GPU. Its module imports no PyTorch, so that its worker starts fast."""

import os
import time
from pathlib import Path
from typing import Any

TOGETHER_SECONDS = 60.0
ALONE_SECONDS = 1.0


def gpu_task(reference: list[Any], work: tuple[str, int, bool]) -> tuple[list[Any], str | None, bool]:
    """Wait for the other one of two tasks, for a while, and return the GPUs, what CUDA sees, and whether it came.

    Args:
        reference: What an evaluation sends along.
        work: A folder for the marks of both, the number of this one, and whether the other one is expected.
    """
    import ray

    folder, number, expected = work
    here, other = (Path(folder) / str(one) for one in (number, 1 - number))
    here.touch()
    ends = time.monotonic() + (TOGETHER_SECONDS if expected else ALONE_SECONDS)
    while not (came := other.exists()) and time.monotonic() < ends:
        time.sleep(0.01)
    if not expected:
        here.unlink()
    return ray.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES"), came
