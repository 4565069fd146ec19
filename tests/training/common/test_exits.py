import pytest
import torch

from sgn_serve.common.termination import Terminated
from training.command import main as train
from training.common.errors import TrainingError
from training.common.exits import ENDINGS, allocations_told, print_ending
from training.evaluate.command import main as judge


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


def test_memory_that_a_processor_lacks_is_told_as_a_gpus():
    with pytest.raises(torch.OutOfMemoryError, match=r"^\d+\.0 GiB were asked for$"), allocations_told():
        torch.empty(2**55, dtype=torch.uint8)
    with pytest.raises(torch.OutOfMemoryError, match="MemoryError"), allocations_told():
        raise MemoryError
    with pytest.raises(RuntimeError, match="a mistake of ours") as kept, allocations_told():
        raise RuntimeError("a mistake of ours")
    assert not isinstance(kept.value, torch.OutOfMemoryError)


@pytest.mark.parametrize("main", ["train", "judge"])
def test_commands_tell_memory_that_is_lacking(main, monkeypatch, tmp_path, capsys):
    def large(*_, **__):
        return torch.empty(2**55, dtype=torch.uint8)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("training.train.load_pictures", large)
    monkeypatch.setattr("training.evaluate.prepare.load_checkpoint", large)
    commands = {
        "train": (train, ["--data-root=x", "--arch=wrn-10-1", "--device=cpu"]),
        "judge": (judge, ["--ckpt=m.safetensors", "--data-root=x", "--device=cpu"]),
    }
    command, arguments = commands[main]
    (tmp_path / "x" / "train" / "a").mkdir(parents=True)
    (tmp_path / "m.safetensors").touch()
    assert command(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: out of memory on cpu (")
    assert error.endswith("GiB were asked for); pass a smaller --batch-size")


def test_an_interrupt_may_be_silent(capsys):
    assert print_ending(KeyboardInterrupt(), out_of_memory="", interrupted="") == 130
    assert capsys.readouterr().err == ""
