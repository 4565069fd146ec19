"""One training run and its judgement: when a finished run is taken for the tables."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tests.training.reproduce.smoke_runs import smoke
from training.reproduce.experiment import DataSource, Experiment
from training.reproduce.reproduce import check_data
from training.reproduce.systems import BUDGETS
from training.reproduce.targets import ReproductionError


@pytest.fixture
def finished(picture_folder, tmp_path, monkeypatch, in_this_process) -> Experiment:
    """A run that is trained, and that says so."""
    monkeypatch.chdir(tmp_path)
    source = DataSource("cifar10", "image-folder", picture_folder, "")
    run = Experiment("standard", source, "smoke", BUDGETS["smoke"], threads=None)
    run.train()
    assert run.trained()
    assert in_this_process == [run.training_command(resume=False)]
    return run


def change_state(run: Experiment, change: Callable[[dict], None]) -> None:
    state = torch.load(run.directory / "state.pt", weights_only=True)
    change(state)
    torch.save(state, run.directory / "state.pt")


def test_a_command_has_each_option_once_and_a_folder_is_told_once(finished, picture_folder, tmp_path, capsys):
    small = tmp_path / "small"
    for name in ("blue", "red"):
        pictures = sorted((picture_folder / "train" / name).iterdir())[:12]
        (small / name).mkdir(parents=True)
        for path in pictures:
            shutil.copy(path, small / name)
    command = replace(finished, source=replace(finished.source, data_root=small)).training_command(resume=False)
    options = [text for text in command if text.startswith("--")]
    assert sorted(set(options)) == sorted(options)
    assert command[command.index("--validation-pictures") + 1] != "100"
    check_data([replace(finished, source=replace(finished.source, data_root=small))])
    assert capsys.readouterr().err.count("divided by their content") == 1


def test_a_run_of_other_settings_is_not_taken_for_the_tables(finished, picture_folder, capsys, in_this_process):
    data = ("--dataset", "image-folder", "--data-root", str(picture_folder))
    assert smoke("table2", *data, "--dataset-name", "others") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"error: {finished.directory} was trained with other settings: dataset_name (was , now others); " in error
    assert f"move {finished.directory} away to train it anew" in error
    change_state(finished, lambda state: state["config"].update(method="pgd", seed=3))
    assert smoke("table2", *data) == 2
    assert "method (was pgd, now standard), seed (was 3, now 0); " in capsys.readouterr().err
    change_state(finished, lambda state: state["config"].pop("cutmix"))
    assert smoke("table2", *data) == 2
    assert "(other options than this version's: cutmix); move " in capsys.readouterr().err
    (finished.directory / "state.pt").write_bytes(b"")
    assert smoke("table2", *data) == 2
    assert re.search(r"error: .*state.pt: not a saved training state .* away to train it anew", capsys.readouterr().err)
    assert len(in_this_process) == 1, "something was trained or judged all the same"


def test_a_run_on_other_pictures_is_not_taken_for_the_tables(finished, picture_folder, tmp_path):
    moved = replace(finished, source=replace(finished.source, data_root=tmp_path / "moved"))
    assert moved.trained(), "without its pictures"
    shutil.copytree(picture_folder, tmp_path / "copied")
    copied = replace(finished, source=replace(finished.source, data_root=tmp_path / "copied"))
    assert copied.trained()
    shutil.copytree(picture_folder, tmp_path / "fewer")
    (tmp_path / "fewer" / "train" / "red" / "000.png").unlink()
    fewer = replace(finished, source=replace(finished.source, data_root=tmp_path / "fewer"))
    message = r"was trained on other pictures \(120 of 3 classes, now 119 of 3\); give what it was"
    with pytest.raises(ReproductionError, match=message):
        fewer.trained()


def test_a_run_from_a_machine_of_another_precision_is_taken(finished):
    def change(state: dict) -> None:
        state["config"]["precision"] = "float32" if state["config"]["precision"] == "bf16" else "bf16"

    change_state(finished, change)
    assert finished.trained()
