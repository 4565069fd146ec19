"""Turn SIGTERM, as schedulers send it, into an exception, as Python does with Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sgn_serve.common.interrupts import INTERRUPTED

TERMINATED = 143
"""Exit status after SIGTERM, by the shell's convention: 128 and the signal's number."""


class Terminated(BaseException):
    """SIGTERM arrived. It is no Exception, like KeyboardInterrupt, so that nothing handles it as a failure."""


_has_arrived = False


def check_terminated() -> None:
    """Raise Terminated if SIGTERM has arrived. Foreign code, such as Ray's, may have swallowed the exception.

    Raises:
        Terminated: It has.
    """
    if _has_arrived:
        raise Terminated


def exit_status() -> int:
    """Return the exit status of a process that Ctrl-C or SIGTERM ends."""
    return TERMINATED if _has_arrived else INTERRUPTED


@contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM raise Terminated, once, so that unfinished files are removed and a message can be printed."""
    global _has_arrived

    def stop(number: int, frame: FrameType | None) -> None:
        global _has_arrived
        _has_arrived = True
        # The next one would interrupt the cleaning up.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may set signal handlers.
        yield
        return
    _has_arrived = False
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
