"""Tasks of a cluster with short checks, and those whose process ends where a file asks for it.

A process that is to end does so before it imports PyTorch, which takes seconds.
"""

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.evaluate.on_ray.runner import Answer

FOLDER = "SGN_TEST_FRAGILE"
"""Environment variable of the workers: the folder of the files."""
ONCE, EVER = "once", "ever"
"""Files: the next task to begin ends its process and removes the file, or each one ends its process."""


def short_task(reference: list[Any], work: Any) -> "Answer":
    """Do what on_ray.runner.run_task does, with checks as short as tests of reports have them."""
    from tests.short_attacks import shorten
    from training.evaluate.on_ray.runner import run_task

    shorten()
    return run_task(reference, work)


def fragile_task(reference: list[Any], work: Any) -> "Answer":
    """Do what short_task does, or end the process."""
    end_for_ever()
    try:
        (Path(os.environ[FOLDER]) / ONCE).unlink()
    except FileNotFoundError:
        return short_task(reference, work)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("its process has ended")


def end_for_ever() -> None:
    """End the process of a worker where each one is to end."""
    folder = os.environ.get(FOLDER)
    if folder and (Path(folder) / EVER).exists():
        os.kill(os.getpid(), signal.SIGKILL)


end_for_ever()
