"""Stands for training.reproduce.on_ray.child: attacks are short, and a training may end its worker."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.short_attacks import shorten, shorten_gradient_attacks
from training.loop.trainer import Trainer
from training.reproduce.on_ray import runner
from training.reproduce.on_ray.child import main

FOLDER = "SGN_TEST_SHORT_CHILD"
"""Environment variable of the workers: a folder."""
KILL = "kill"
"""A file there: the next training to save an epoch ends its worker and removes the file."""


def short_experiment(place: Any, work: Any) -> Any:
    """Do what on_ray.runner.run_experiment does, with this module for its programs."""
    vars(runner)["_CHILD"] = __name__
    return runner.run_experiment(place, work)


def _end_worker_once() -> None:
    save = Trainer._save_state

    def saving(self: Trainer) -> None:
        save(self)
        if self.progress.epoch == 0:
            return
        try:
            Path(os.environ[FOLDER], KILL).unlink()
        except FileNotFoundError:
            return
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)  # it ends with its worker
        raise AssertionError("it outlived its worker")

    Trainer._save_state = saving  # type: ignore[method-assign]


if __name__ == "__main__":
    shorten()
    shorten_gradient_attacks(setattr)
    _end_worker_once()
    sys.argv.append("--device=cpu")
    main()
