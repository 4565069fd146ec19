"""End a command quietly when Ctrl-C comes while it still imports what it needs, which takes seconds.

Every package with commands calls `end_quietly` in its __init__.py. That runs before anything heavy is imported, whether
the command is a __main__.py or a module, so that a new command cannot forget it. Only the standard library is imported
here.
"""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType

INTERRUPTED = 130
"""Exit status after Ctrl-C, by the shell's convention: 128 and the signal's number."""


def end_quietly() -> None:
    """Have Ctrl-C end this process with status 130 and one line, if it is a command: `python -m PACKAGE...`.

    Once the command's main function runs, Ctrl-C is KeyboardInterrupt as ever. One that it does not handle ends the
    process in the same way.
    """
    # While Python looks for the module that -m names, which imports its packages, argv[0] is -m.
    started_as_command = sys.argv[:1] == ["-m"] and threading.current_thread() is threading.main_thread()
    if started_as_command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else nohup, for one
        signal.signal(signal.SIGINT, _interrupted)
        sys.excepthook = _report


def _interrupted(number: int, frame: FrameType | None) -> None:
    if _still_starting(frame):
        # An exception would not do: libraries catch what is raised while they are imported.
        _end()
    raise KeyboardInterrupt


def _still_starting(frame: FrameType | None) -> bool:
    """Return whether the command's own module is not running yet, or still imports or defines what it needs."""
    called: FrameType | None = None
    while frame is not None:
        if frame.f_globals.get("__name__") == "__main__" and frame.f_code.co_name == "<module>":
            return called is None or called.f_code.co_filename.startswith("<frozen importlib")
        frame, called = frame.f_back, frame
    return True


def _report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _end()
    sys.__excepthook__(kind, error, traceback)


def _end() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, RuntimeError, AttributeError):  # RuntimeError: it was interrupted while writing
            pass
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)
