"""Tasks of a cluster with short checks, and those whose process ends where a file asks for it."""

import os
import signal
from pathlib import Path
from typing import Any

from tests.short_attacks import shorten
from training.evaluate.on_ray.runner import Answer, run_task

FOLDER = "SGN_TEST_FRAGILE"
"""Environment variable of the workers: the folder of the files."""
ONCE, EVER = "once", "ever"
"""Files: the next task to begin ends its process and removes the file, or each one ends its process."""


def short_task(reference: list[Any], work: Any) -> Answer:
    """Do what on_ray.runner.run_task does, with checks as short as tests of reports have them."""
    shorten()
    return run_task(reference, work)


def fragile_task(reference: list[Any], work: Any) -> Answer:
    """Do what short_task does, or end the process."""
    folder = Path(os.environ[FOLDER])
    if (folder / EVER).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        (folder / ONCE).unlink()
    except FileNotFoundError:
        return short_task(reference, work)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("its process has ended")
