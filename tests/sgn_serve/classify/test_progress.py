"""The line of `sgn classify` on a terminal."""

import errno
import re
from io import StringIO

import pytest

from sgn_serve.classify import progress
from sgn_serve.classify.progress import Progress
from tests.local_ray import wait_until


class Terminal(StringIO):
    """Keeps what is drawn."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_stage_its_count_and_the_time_left_in_a_line_that_moves(monkeypatch):
    monkeypatch.setattr(progress, "_TERMINAL_SECONDS", 0.001)
    terminal, now = Terminal(), 0.0
    line = "classifying  50 % |##########..........| 500/1,000 [00:10<00:10, 50 pictures/s]"

    def turns() -> set[str]:
        return set(re.findall(rf"\r(.) {re.escape(line)}", terminal.getvalue()))

    with Progress(terminal, lambda: now) as bar:
        bar.show("classifying", lambda: 500, 1000)
        now = 10.0
        wait_until(lambda: turns() == set("|/-\\"), "it moves")
        bar.note("a note")
        said = terminal.getvalue()
        bar.show("putting the parts together", lambda: 0)
        wait_until(lambda: "putting the parts together [00:00]" in terminal.getvalue(), "the next stage is shown")
    assert re.search(r"\r {60,}\ra note\n", said), "it stands where the bar was"
    assert re.search(r"\r {20,}\r$", terminal.getvalue()), "nothing is left of the bar"


class Full(StringIO):
    """A log file on a full disk, or a pipe that nobody reads any more."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("stream", [Full(), None], ids=["full", "closed"])
def test_a_line_that_nobody_reads_ends_no_run(monkeypatch, stream):
    monkeypatch.setattr(progress, "_LOG_SECONDS", 0.001)
    monkeypatch.setattr("sys.stderr", stream)
    shown: list[int] = []

    def done() -> int:
        shown.append(len(shown))
        return len(shown)

    with Progress() as bar:
        bar.show("classifying", done, 1000)
        bar.note("a note")
        wait_until(lambda: len(shown) > 2, "it goes on")
