"""Being told to stop: Ctrl-C, and SIGTERM as schedulers send it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """SIGTERM arrived. Like KeyboardInterrupt no Exception, so that nothing takes it for a failure it can handle."""


@contextmanager
def terminable() -> Iterator[None]:
    """Within, SIGTERM raises Terminated, once: files in the making are cleaned up, and a message can be printed."""

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
