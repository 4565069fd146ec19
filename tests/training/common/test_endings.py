import pytest
import torch

from training.common.endings import ENDINGS, print_ending
from training.common.errors import TrainingError
from training.common.signals import Terminated


class Refused(TrainingError):
    exit_status = 5


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (Refused("no such file; name one"), 5, "error: no such file; name one; then go on"),
        (torch.OutOfMemoryError("CUDA out.\nMore."), 2, "error: out of memory on cuda (CUDA out.); take less"),
        (KeyboardInterrupt(), 130, "interrupted; start again"),
        (Terminated(), 143, "interrupted; start again"),
    ],
)
def test_every_ending_has_its_line_and_its_status(error, status, line, capsys):
    assert isinstance(error, ENDINGS)
    hints = {"out_of_memory": "take less", "interrupted": "start again", "device": "cuda", "after": "; then go on"}
    assert print_ending(error, **hints) == status
    assert capsys.readouterr().err == line + "\n"
    assert not isinstance(ValueError(), ENDINGS)


def test_an_interrupt_may_be_silent(capsys):
    assert print_ending(KeyboardInterrupt(), out_of_memory="", interrupted="") == 130
    assert capsys.readouterr().err == ""
