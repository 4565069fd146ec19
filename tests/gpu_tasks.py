"""Work of a cluster that tells of its GPU. The module imports no PyTorch, so that its workers start fast."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sgn_serve.classify.items import Item
from tests.sgn_serve.classify.fragile_worker import FragileWorker

TOGETHER_SECONDS = 60.0
ALONE_SECONDS = 1.0


def seen_gpus() -> tuple[list[Any], str | None]:
    """Return the GPUs that Ray has given to this process, and those that CUDA sees."""
    import ray

    return ray.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES")


def gpu_task(reference: list[Any], work: tuple[str, int, bool]) -> tuple[list[Any], str | None, bool]:
    """Wait for the other one of two tasks, for a while, and return the GPUs, what CUDA sees, and whether it came.

    Args:
        reference: What an evaluation sends along.
        work: A folder for the marks of both, the number of this one, and whether the other one is expected.
    """
    folder, number, expected = work
    here, other = (Path(folder) / str(one) for one in (number, 1 - number))
    here.touch()
    ends = time.monotonic() + (TOGETHER_SECONDS if expected else ALONE_SECONDS)
    while not (came := other.exists()) and time.monotonic() < ends:
        time.sleep(0.01)
    if not expected:
        here.unlink()
    return *seen_gpus(), came


class GpuWorker(FragileWorker):
    """Stands for the worker of `sgn classify`: an answer tells of its GPUs."""

    def classify(self, items: Sequence[Item]) -> list[Any]:
        """Return the GPUs for each input."""
        return [seen_gpus()] * len(items)


def gpu_experiment(place: Any, work: Any) -> Any:
    """Stand for training.reproduce.on_ray.runner.run_experiment: the name of the machine tells of its GPUs."""
    return SimpleNamespace(machine=str(seen_gpus()), error=None)
