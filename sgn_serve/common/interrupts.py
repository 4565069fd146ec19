"""End a command quietly when Ctrl-C comes while it still imports what it needs, which takes seconds.

Every package with commands calls `end_quietly` in its __init__.py. That runs before anything heavy is imported, whether
the command is a __main__.py or a module, so that a new command cannot forget it. Little is imported here, and nothing
that takes more than a millisecond, so that Ctrl-C finds few moments before.
"""

import os
import signal
import sys
from types import FrameType, TracebackType

INTERRUPTED = 130
"""Exit status after Ctrl-C, by the shell's convention: 128 and the signal's number."""


CONSOLE_SCRIPT = "sgn"
"""Name of the program that pyproject.toml installs; its arguments are those of the packages' commands."""

_importing = False


def end_quietly() -> None:
    """Have Ctrl-C end this process with status 130 and one line, if it is a command: `python -m PACKAGE...` or `sgn`.

    Once the command's main function runs, Ctrl-C is KeyboardInterrupt as ever. One that it does not handle ends the
    process in the same way.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # nohup's, say
        return
    try:
        if _is_bentoml_serve(sys.argv):
            end_server_quietly()
        # "-m": as long as Python looks for the module that -m names, which imports its packages
        elif sys.argv[:1] == ["-m"] or os.path.basename("".join(sys.argv[:1])) == CONSOLE_SCRIPT:
            signal.signal(signal.SIGINT, _interrupted)
            sys.excepthook = _report
    except ValueError:  # it is imported in another thread than the main one, which alone may do this
        return


class importing:  # noqa: N801 (it is used like a function)
    """Have Ctrl-C end a command quietly while the `with` block imports what its main function needs.

    A program that calls a main function itself keeps its own Ctrl-C.
    """

    def __enter__(self) -> None:
        """Begin."""
        global _importing
        _importing = True

    def __exit__(self, *raised: object) -> None:
        """End."""
        global _importing
        _importing = False


def end_server_quietly() -> None:
    """Have Ctrl-C end this process with status 130 and one line, until the supervisor takes the signals over.

    SIGHUP, which asks a server to look at its model again, changes nothing before it has read one.
    """
    signal.signal(signal.SIGINT, _end_server)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _is_bentoml_serve(arguments: list[str]) -> bool:
    folder, name = os.path.split(arguments[0] if arguments else "")
    is_bentoml = name == "bentoml" or (name == "__main__.py" and os.path.basename(folder) == "bentoml")
    return is_bentoml and arguments[1:2] == ["serve"]


def _end_server(number: int, frame: FrameType | None) -> None:
    # No worker runs yet, and a model's trial ends with this process. As an exception, it was lost in some imports.
    _end()


def _interrupted(number: int, frame: FrameType | None) -> None:
    if _importing or _still_starting(frame):
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
        try:  # noqa: SIM105 (contextlib takes milliseconds)
            stream.flush()
        except (OSError, ValueError, RuntimeError, AttributeError):  # RuntimeError: it was just being written to
            pass
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)
