"""What a worker knows of the process that supervises it (supervisor.py)."""

import os

PID_VARIABLE = "SELF_GRADIENT_SUPERVISOR"
"""Tells the workers which process supervises them."""
CANNOT_SERVE = os.EX_CONFIG
"""A worker's exit status where its settings or its model cannot be served, so that another try would end alike."""


def supervisor_pid() -> int | None:
    """This worker's supervisor; None where it has none, or it has died."""
    parent = os.getppid()
    return parent if os.environ.get(PID_VARIABLE) == str(parent) else None
