"""Bulk work is scheduled as such, and so is what it starts."""

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import os, subprocess, sys, threading
from sgn_serve.process.scheduling import schedule_as_batch
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # whatever these tests run under
{before}
schedule_as_batch()
def show(): print(os.sched_getscheduler(0), flush=True)
show()
thread = threading.Thread(target=show); thread.start(); thread.join()
subprocess.run([sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"], check=True)
"""


def policies(before: str = "") -> list[int]:
    """Return the policies of the caller, a thread and a process of its own, after some statements before the call."""
    command = [sys.executable, "-c", _PROGRAM.format(before=before)]
    return [int(line) for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux alone has such a policy")
class TestBatch:
    def test_threads_and_processes_have_it_too(self) -> None:
        assert policies() == [os.SCHED_BATCH] * 3

    def test_a_lower_policy_stays(self) -> None:
        idle = "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))"
        assert policies(idle) == [os.SCHED_IDLE] * 3

    def test_a_kernel_that_forbids_it_is_no_error(self) -> None:
        forbidden = "def refuse(*_): raise PermissionError\nos.sched_setscheduler = refuse"
        assert policies(forbidden) == [os.SCHED_OTHER] * 3


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    from sgn_serve.process.scheduling import schedule_as_batch

    monkeypatch.delattr(os, "SCHED_BATCH", raising=False)
    monkeypatch.delattr(os, "sched_getscheduler", raising=False)
    schedule_as_batch()
