"""Turn SIGTERM, as schedulers send it, into an exception, as Python does with Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 143
"""Exit status after SIGTERM, by the shell's convention: 128 and the signal's number."""


class Terminated(BaseException):
    """SIGTERM arrived. It is no Exception, like KeyboardInterrupt, so that nothing handles it as a failure."""


@contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM raise Terminated, once, so that unfinished files are removed and a message can be printed."""

    def stop(number: int, frame: FrameType | None) -> None:
        # The next one would interrupt the cleaning up.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may set signal handlers.
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
