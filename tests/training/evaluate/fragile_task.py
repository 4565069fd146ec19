"""Tasks of a cluster with short checks, those whose process ends where a file asks for it, and those that stop.

A process that is to end does so before it imports PyTorch, which takes seconds.
"""

import os
import signal
import time
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


BATCHES = 8
"""Batches that a process does before it stops."""
_begun: list[Any] = []


def stopping_task(reference: list[Any], work: Any) -> "Answer":
    """Do what short_task does, or nothing any more after some batches, as one that takes hours does."""
    _begun.append(work)
    if len(_begun) > BATCHES:
        time.sleep(3600)
    return short_task(reference, work)


def end_for_ever() -> None:
    """End the process of a worker where each one is to end."""
    folder = os.environ.get(FOLDER)
    if folder and (Path(folder) / EVER).exists():
        os.kill(os.getpid(), signal.SIGKILL)


end_for_ever()
