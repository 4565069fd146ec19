"""Tell a worker about the process that supervises it (supervisor.py)."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sgn_serve.common.refusals import ServingError, refused

logger = logging.getLogger("bentoml.sgn_serve")

PID_VARIABLE = "SELF_GRADIENT_SUPERVISOR"
"""Environment variable that tells the workers which process supervises them."""
CHECK_SECONDS = 1.0
"""Time between two looks whether the supervisor still runs."""
CANNOT_SERVE = os.EX_CONFIG
"""Exit status of a worker whose settings or model cannot be served, so that another try would end alike."""


def supervisor_pid() -> int | None:
    """Return the process id of this worker's supervisor, None where it has none or it has died."""
    parent = os.getppid()
    return parent if os.environ.get(PID_VARIABLE) == str(parent) else None


def is_worker() -> bool:
    """Return whether a supervisor started this process, which may have died since."""
    return os.environ.get(PID_VARIABLE, str(os.getpid())) != str(os.getpid())


@contextmanager
def no_other_try() -> Iterator[None]:
    """End this worker, and tell why, where the block fails: another try would end alike."""
    try:
        yield
    except ServingError as error:
        refused(error)
        os._exit(CANNOT_SERVE)  # uvicorn would print the traceback of an exception, and takes SystemExit for one
    except Exception:
        logger.exception("this worker cannot start")
        os._exit(CANNOT_SERVE)


class Start:
    """The start of a worker, which ends at once if its supervisor dies meanwhile: nobody would ever end it.

    It has taken no request yet. Once it serves, it watches its supervisor itself and ends gracefully.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        if is_worker():
            threading.Thread(target=self._watch, name="supervisor", daemon=True).start()

    def finish(self) -> None:
        """Stop watching."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.is_set():
            if supervisor_pid() is None:
                os._exit(os.EX_UNAVAILABLE)
            time.sleep(CHECK_SECONDS)
