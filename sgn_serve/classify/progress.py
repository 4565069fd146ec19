"""Show how far a run is, how fast it goes and how long it will take, in a line that never stands still."""

import io
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Self, TextIO

from sgn_serve.common.error_text import visible

_TERMINAL_SECONDS = 0.2
_LOG_SECONDS = 30.0
"""A log file wants few lines, a terminal a live one."""
_SPEED_SECONDS = 60.0
"""Seconds over which the speed is measured. Later files may be slower than earlier ones."""
_SPINNER = "|/-\\"
_BAR = 20


class Progress:
    """A line on standard error, drawn by a thread of its own, so that it moves while everything else waits.

    Args:
        stream: Where it is drawn. None for standard error.
        clock: Tells the time in seconds.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic):
        self._stream = stream or sys.stderr or io.StringIO()
        self._clock = clock
        self._terminal = self._stream.isatty()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._draw_on, name="progress", daemon=True)
        self._drawing = threading.Lock()
        self._drawn = 0
        self.show("starting", lambda: 0)

    def show(self, what: str, done: Callable[[], int], total: int | None = None, before: int = 0) -> None:
        """Show another stage from now on.

        Args:
            what: Name of the work.
            done: Returns how many pictures are done.
            total: Number of all pictures, None where it is not known.
            before: Pictures that were done before, by another run.
        """
        self._stage = what, done, total, before
        self._started = self._clock()
        self._seen: deque[tuple[float, int]] = deque([(self._started, 0)])

    def line(self) -> str:
        """Return what is shown now."""
        what, count, total, before = self._stage
        now, here = self._clock(), count()
        self._seen.append((now, here))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _SPEED_SECONDS:
            self._seen.popleft()
        then, there = self._seen[0]
        speed = (here - there) / (now - then) if now > then else 0.0
        elapsed, done = _time(now - self._started), before + here
        if total is None:
            shown = f", {done:,} pictures" if done else ""
            return f"{what}{shown} [{elapsed}]"
        left = "?" if not speed else _time((total - done) / speed)
        full = _BAR * done // total
        bar = "#" * full + "." * (_BAR - full)
        return (
            f"{what} {100 * done // total:3d} % |{bar}| {done:,}/{total:,} [{elapsed}<{left}, {speed:.0f} pictures/s]"
        )

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        with self._drawing:
            self._clear()
            self._print(f"{visible(text)}\n")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._clear()

    def _draw_on(self) -> None:
        turn = 0
        while not self._ended.wait(_TERMINAL_SECONDS if self._terminal else _LOG_SECONDS):
            turn += 1
            if self._terminal:
                text = f"{_SPINNER[turn % len(_SPINNER)]} {self.line()}"
                with self._drawing:
                    padded = text.ljust(self._drawn)
                    self._drawn = len(text)
                    self._print(f"\r{padded}")
            else:
                with self._drawing:
                    self._print(f"{self.line()}\n")

    def _print(self, text: str) -> None:
        with suppress(OSError):  # nobody reads it any more: no reason to end a run
            print(text, end="", file=self._stream, flush=True)

    def _clear(self) -> None:
        if self._terminal and self._drawn:
            self._print("\r" + " " * self._drawn + "\r")
            self._drawn = 0


def _time(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute:02d}:{second:02d}"
