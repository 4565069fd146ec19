"""Run calls that may wait long for a network in threads that Ctrl-C need not wait for."""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Generic, TypeVar

from sgn_serve.common.termination import Terminated, exit_status

Result = TypeVar("Result")


class _Thread(threading.Thread):
    """A thread of a call."""


class BackgroundCall(Generic[Result]):
    """Calls a function in a thread of its own.

    Python runs the handler of a signal only once the main thread is back from foreign code. So what waits in foreign
    code runs here, and the main thread waits in Python.

    Args:
        work: The function.
        arguments: Its arguments.
    """

    def __init__(self, work: Callable[..., Result], *arguments: object):
        self._answer: Future[Result] = Future()
        self._thread = _Thread(target=self._run, args=(work, arguments), name="background call", daemon=True)
        self._thread.start()

    def result(self) -> Result:
        """Wait for the function, and return what it returns or raise what it raises. Ctrl-C and SIGTERM end the wait.

        Raises:
            CancelledError: The call was given up.
        """
        try:
            return self._answer.result()
        except (KeyboardInterrupt, Terminated):
            self.give_up()
            raise

    def give_up(self) -> None:
        """End all waits for the result. The function runs on, but the end of the process does not wait for it."""
        self._answer.cancel()
        # Handlers run in reverse order, and that of pyarrow waits for its requests. So this one comes last, each time.
        atexit.unregister(_leave)
        atexit.register(_leave)

    def join(self) -> None:
        """Wait until the function has ended, also if the call was given up."""
        self._thread.join()

    def _run(self, work: Callable[..., Result], arguments: tuple[object, ...]) -> None:
        with suppress(InvalidStateError):  # it was given up
            try:
                result = work(*arguments)
            except BaseException as error:
                self._answer.set_exception(error)
            else:
                self._answer.set_result(result)


def _leave() -> None:
    """End the process at once if a call that was given up still runs. Its thread would crash in an interpreter's end.

    Only Ctrl-C and SIGTERM leave a call behind, so the exit status is theirs.
    """
    if not any(isinstance(thread, _Thread) for thread in threading.enumerate()):
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(exit_status())
