"""Test what the bar shows while no picture is trained on."""

import sys
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from tests.training.tiny_run import arguments
from training.command import main
from training.loop import progress_bar, trainer
from training.loop.progress_bar import ProgressBar
from training.loop.time_left import TimeLeft, Work

pytestmark = pytest.mark.usefixtures("short_attacks")


class Terminal:
    """Standard error that looks like a terminal."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.written.append(text)
        return len(text)

    def flush(self) -> None:
        pass


def test_validation_and_saving_are_shown(picture_folder, runs, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(arguments(picture_folder, "shown", epochs=1)) == 0
    shown = "".join(terminal.written)
    stages = ["clean", "fgsm", "pgd10", "cw10", "smooth_cw10", "block_off_cw10", "effect", "clean_block_off"]
    places = [shown.index(f"now=validation: {name}") for name in stages]
    assert places == sorted(places)
    assert shown.index("now=saving") < places[0], "the trained epoch is saved before its validation"
    assert shown.rindex("now=saving") > places[-1]
    assert "loss=" in shown[places[0] :], "the epoch's figures stay"
    assert "now=" not in shown.splitlines()[-1].rsplit("\r", 1)[-1], "nothing is going on at the end"


def test_a_log_file_gets_no_line_for_a_stage(capfd):
    bar = ProgressBar(TimeLeft(Work(1, 10, {"clean": 5.0})), visible=True)
    before = capfd.readouterr().err
    bar.stage("saving")
    assert before
    assert capfd.readouterr().err == ""
    bar.close()


@dataclass(frozen=True)
class Drawn:
    """The state of a bar when it was drawn. `now` is the time of a clock that a pass of a picture turns by a second."""

    stage: str
    position: float
    left: float | None
    now: float
    epochs_done: int


@pytest.fixture
def watched(monkeypatch):
    """Returns a function that trains, and returns all that the bar drew, and the work as it was estimated."""
    passes_counted = progress_bar.passes_counted
    now = [500.0]
    drawn: list[Drawn] = []
    work: list[Work] = []

    class RecordingBar(ProgressBar):
        def _draw(self) -> None:
            super()._draw()
            left = self._left
            drawn.append(Drawn(self._stage, self._bar.n, left.seconds(), now[0], left.epochs_done))

    def counted(backbone: Any, count: Any) -> Any:
        def turn(pictures: int) -> None:
            now[0] += pictures
            count(pictures)

        return passes_counted(backbone, turn)

    def time_left(*given: Any, **options: Any) -> TimeLeft:
        made = TimeLeft(*given, **{"clock": lambda: now[0], **options})
        work.append(made.work)
        return made

    monkeypatch.setattr(trainer, "ProgressBar", RecordingBar)
    monkeypatch.setattr(trainer, "passes_counted", counted)
    monkeypatch.setattr(trainer, "TimeLeft", time_left)

    def train(argv: list[str]) -> tuple[list[Drawn], Work]:
        assert main(argv) == 0
        return drawn, work[0]

    return train


@pytest.mark.parametrize("more", [(), ("--ema-decay=0.9",)], ids=["itself", "its average"])
def test_a_run_s_bar_moves_within_each_attack_of_a_validation_and_never_back(more, picture_folder, runs, watched):
    drawn, _ = watched(arguments(picture_folder, "moving", *more, epochs=1))
    assert all(earlier.position <= later.position for earlier, later in pairwise(drawn))
    assert drawn[-1].position == 1
    for name in ("pgd10", "cw10", "smooth_cw10"):
        positions = [one.position for one in drawn if one.stage == f"validation: {name}"]
        assert len(set(positions)) >= 4, name


def test_the_time_left_of_a_run_includes_its_validations_and_settles_within_an_epoch(picture_folder, runs, watched):
    drawn, work = watched(arguments(picture_folder, "timed", epochs=2))
    end = drawn[-1].now
    first_validation = next(index for index, one in enumerate(drawn) if one.stage.startswith("validation"))
    trained = drawn[first_validation - 1]
    # A picture that withstands all attacks takes a second for each pass, and there are no others in an estimate.
    assert trained.left == pytest.approx(2 * work.validation_passes + work.training_passes)
    assert work.validation_passes > 0.2 * work.training_passes
    assert trained.left == pytest.approx(end - trained.now, rel=0.3)
    later = [one for one in drawn if one.epochs_done == 1]
    assert later
    for one in later:
        assert one.left == pytest.approx(end - one.now, abs=0.1 * (end - 500))
    assert drawn[-1].left == 0
