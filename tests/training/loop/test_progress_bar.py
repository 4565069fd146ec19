"""Test what the bar shows while no picture is trained on."""

import sys

import pytest

from tests.training.tiny_run import arguments
from training.command import main
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
