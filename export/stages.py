"""Tell how far an export is, because that of a large network takes minutes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sgn_serve.common.error_text import say

_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


def begin(stage: str) -> None:
    """Report to the listener, if there is one, that a stage begins. The previous stage has ended then.

    Args:
        stage: What is done from now on, such as "capture both passes".
    """
    listener = _listener.get()
    if listener is not None:
        listener(stage)


@contextmanager
def told_on_stderr(clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Write a line to standard error for each stage that begins in the block. Nothing is written without it.

    A line has the seconds since the block began. What a stage took is the difference to the next line.

    Args:
        clock: Tells the time in seconds.
    """
    started = clock()
    token = _listener.set(lambda stage: say(f"{clock() - started:7.1f} s: {stage}"))
    try:
        yield
    finally:
        _listener.reset(token)
