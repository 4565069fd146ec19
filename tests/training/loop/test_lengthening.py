"""`--resume --epochs MORE`: what a longer run does, and what stays refused."""

import contextlib
import shutil

import pytest

from tests.training.loop.test_resuming import assert_same_run
from tests.training.tiny_run import arguments, failure, rows
from training.checkpoint import load_checkpoint
from training.command import main
from training.config import TrainConfig
from training.loop.schedule import learning_rate
from training.loop.validation import Validation

pytestmark = pytest.mark.usefixtures("short_attacks")

STEP = ("--method=standard", "--lr-schedule=step", "--ema-decay=0.9")
CYCLIC = ("--method=standard", "--lr=0.1", "--lr-warmup=0.25")


@pytest.fixture(scope="module")
def finished(picture_folder, tmp_path_factory, short_attacks):
    """A finished run of two epochs with the cyclic schedule."""
    folder = tmp_path_factory.mktemp("finished")
    with contextlib.chdir(folder):
        assert main(arguments(picture_folder, "cyclic", *CYCLIC, epochs=2)) == 0
    return folder / "runs" / "cyclic"


@pytest.mark.parametrize("interrupted", [False, True])
def test_with_a_step_schedule_the_longer_run_is_that_of_so_many_epochs(
    interrupted, picture_folder, runs, monkeypatch, capsys
):
    assert main(arguments(picture_folder, "whole", *STEP, epochs=4)) == 0
    measure = Validation.measure

    def stopping(self, model, tell):
        if (runs / "parts" / "log.csv").exists():
            raise KeyboardInterrupt
        return measure(self, model, tell)

    with monkeypatch.context() as patch:
        if interrupted:
            patch.setattr(Validation, "measure", stopping)
        assert main(arguments(picture_folder, "parts", *STEP, epochs=2)) == (130 if interrupted else 0)
    capsys.readouterr()
    assert main(arguments(picture_folder, "parts", *STEP, "--resume", epochs=4)) == 0
    printed = capsys.readouterr().out
    assert "2 epochs become 4: the learning rate goes on at 0.1, as the step schedule says" in printed
    assert_same_run(runs / "whole", runs / "parts")
    _, info = load_checkpoint(runs / "parts" / "model.safetensors")
    assert info.recipe["epochs"] == 4
    if info.history["epoch"] > 2:
        assert info.history["lengthened"] == [[1 if interrupted else 2, 2]]
    # The same command again has nothing to lengthen.
    assert main(arguments(picture_folder, "parts", *STEP, "--resume", epochs=4)) == 0
    printed = capsys.readouterr().out
    assert "epochs become" not in printed
    assert "nothing was left to train" in printed


def test_a_cyclic_schedule_is_laid_anew_over_all_epochs(finished, picture_folder, runs, capsys):
    shutil.copytree(finished, runs / "cyclic")
    assert main(arguments(picture_folder, "cyclic", *CYCLIC, "--resume", epochs=4)) == 0
    printed = capsys.readouterr().out
    assert "epochs 3 to 4\n" in printed
    assert (
        "2 epochs become 4: the cyclic schedule is laid anew over all of them, so the learning rate jumps from 0 to "
        "0.0667, and falls to 0 at the new end"
    ) in printed
    config = TrainConfig(dataset="cifar10", method="standard", epochs=4, lr=0.1, lr_schedule="cyclic", lr_warmup=0.25)
    # The last of three steps of each epoch.
    expected = [learning_rate(config, epoch + 2 / 3) for epoch in (2, 3)]
    log = rows(runs / "cyclic")
    assert log[:2] == rows(finished)
    assert [float(row["lr"]) for row in log[2:]] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            ("--epochs=1",),
            "other settings: epochs (was 2, now 1); give the same ones as then (--epochs may be more than 2)",
        ),
        (("--epochs=4", "--lr=0.2"), "other settings: lr (was 0.1, now 0.2); give"),
    ],
)
def test_other_changes_are_refused(changed, message, finished, picture_folder, runs, capsys):
    shutil.copytree(finished, runs / "cyclic")
    error = failure(capsys, arguments(picture_folder, "cyclic", *CYCLIC, "--resume", *changed))
    assert message in error


def test_the_default_of_epochs_lengthens_nothing(finished, picture_folder, runs, capsys):
    shutil.copytree(finished, runs / "cyclic")
    argv = [one for one in arguments(picture_folder, "cyclic", *CYCLIC, "--resume") if not one.startswith("--epochs")]
    assert "epochs (was 2, now 200)" in failure(capsys, argv)


def test_a_time_budget_is_not_lengthened_by_epochs(picture_folder, runs, capsys):
    budget = ("--method=standard", "--minutes=0.001")
    assert main(arguments(picture_folder, "timed", *budget, epochs=2)) == 0
    error = failure(capsys, arguments(picture_folder, "timed", *budget, "--resume", epochs=3))
    assert "epochs (was 2, now 3); give the same ones as then, or start under another --run" in error


def test_the_kept_network_must_be_there(finished, picture_folder, runs, capsys):
    shutil.copytree(finished, runs / "cyclic")
    (runs / "cyclic" / "model.safetensors").unlink()
    error = failure(capsys, arguments(picture_folder, "cyclic", *CYCLIC, "--resume", epochs=4))
    assert "runs/cyclic/model.safetensors is missing, which holds the epoch that was kept" in error
