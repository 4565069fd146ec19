"""Run a command under a time limit, and end it with all processes that it started."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
GRACE_SECONDS = 3.0
"""Between the request to end and the kill."""
TAIL_LINES = 20
LOG_BYTES = 4_000_000
"""A log is cut there: what comes back from a lent machine may be limited."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    status:  its exit status; negative for a signal
    overran: whether the time limit ended it
    tail:    the last lines of its output, empty ones left out
    """

    status: int
    overran: bool
    tail: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The last line of the output, or the exit status where there is none."""
        return self.tail[-1] if self.tail else f"no output, exit status {self.status}"


def supervise(
    command: Sequence[str],
    seconds: float,
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    first_signal: signal.Signals = signal.SIGTERM,
) -> Outcome:
    """Run a command from the project's root, its output appended to `log`, for at most so many seconds.

    environment:  variables beside this process's
    first_signal: asks the command to end when its time is up; GRACE_SECONDS later its process group is killed
    Whatever ends this function, also an exception such as Terminated, ends the command's process group.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    reader = threading.Thread(target=_copy, args=(process.stdout, log, tail), daemon=True)
    reader.start()
    overran = False
    try:
        process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        overran = True
        _signal_group(process.pid, first_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    finally:
        # Also what an ended command left running, such as compilers.
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        # A process that has left the group may hold the pipe open.
        reader.join(GRACE_SECONDS)
    return Outcome(process.returncode, overran, tuple(tail))


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _copy(output: IO[str], log: Path, tail: "deque[str]") -> None:
    with output, log.open("a", errors="replace") as file:
        for line in output:
            shown = line.rstrip().rpartition("\r")[2]  # the last state of a progress bar
            if shown.strip():
                tail.append(shown)
            if file.tell() < LOG_BYTES:
                file.write(shown + "\n")
                file.flush()


def seconds_until(deadline: float) -> float:
    """Return how long it is until a moment of time.monotonic, which all processes of a machine share."""
    return deadline - time.monotonic()
