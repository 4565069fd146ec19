"""Tell a worker about the process that supervises it (supervisor.py)."""

import os

PID_VARIABLE = "SELF_GRADIENT_SUPERVISOR"
"""Environment variable that tells the workers which process supervises them."""
CANNOT_SERVE = os.EX_CONFIG
"""Exit status of a worker whose settings or model cannot be served, so that another try would end alike."""


def supervisor_pid() -> int | None:
    """Return the process id of this worker's supervisor, None where it has none or it has died."""
    parent = os.getppid()
    return parent if os.environ.get(PID_VARIABLE) == str(parent) else None
