"""Run a command under a time limit, and end it together with all processes that it started."""

import contextlib
import io
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

from benchmarks.command_line import ROOT

GRACE_SECONDS = 3.0
"""Seconds between the signal to end and the kill."""
TAIL_LINES = 20
"""Lines of output that an Outcome keeps."""
LOG_BYTES = 4_000_000
"""Size at which a log is cut, because the files that a borrowed machine sends back may be limited."""


@dataclass(frozen=True)
class Outcome:
    """The end of a command.

    Attributes:
        status: Its exit status; negative for a signal.
        overran: Whether the time limit ended it.
        tail: The last lines of its output, without empty lines.
    """

    status: int
    overran: bool
    tail: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The last line of the output, or the exit status if there was no output."""
        return self.tail[-1] if self.tail else f"no output, exit status {self.status}"


def supervise(
    command: Sequence[str],
    seconds: float,
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    first_signal: signal.Signals = signal.SIGTERM,
) -> Outcome:
    """Run a command from the project's root under a time limit.

    The command's process group is killed however this function ends, also by an exception such as Terminated.

    Args:
        command: The command line.
        seconds: The time limit.
        log: File that the output is appended to.
        environment: Variables added to this process's own.
        first_signal: Signal sent when the time is up. GRACE_SECONDS later the process group is killed.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    # Only \n ends a line: Popen's text mode would make a line of every state of a progress bar.
    output = io.TextIOWrapper(process.stdout, errors="replace", newline="\n")
    reader = threading.Thread(target=_copy, args=(output, log, tail), daemon=True)
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
        # A command that has ended may have left processes running, such as compilers.
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
    """Return the seconds until a moment of time.monotonic, which all processes of a machine share."""
    return deadline - time.monotonic()
