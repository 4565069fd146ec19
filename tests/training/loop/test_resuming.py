"""Interrupted and resumed training runs equal uninterrupted ones."""

import contextlib
import errno
import os
import random
import re
import shutil
import signal
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.processes import start_training
from tests.training.tiny_run import arguments, failure, rows
from training.checkpoint import load_checkpoint, save_checkpoint
from training.command import main
from training.loop import trainer
from training.loop.state import TrainerError, load_state
from training.loop.validation import Validation

pytestmark = pytest.mark.usefixtures("short_attacks")

TIMING = {"train_images_per_second", "wall_seconds", "core_seconds", "peak_memory_mib"}
RESUMABLE = ("--method", "self-gradient", "--ema-decay", "0.9")


@pytest.fixture(scope="module")
def uninterrupted(picture_folder, tmp_path_factory, short_attacks):
    """The run that every interrupted and resumed one must equal."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with contextlib.chdir(folder):
        assert main(arguments(picture_folder, "whole", *RESUMABLE)) == 0
    return folder / "runs" / "whole"


def assert_same_run(one: Path, other: Path) -> None:
    assert sorted(file.name for file in one.iterdir()) == sorted(file.name for file in other.iterdir())
    whole, whole_info = load_checkpoint(one / "model.safetensors")
    parts, parts_info = load_checkpoint(other / "model.safetensors")
    assert whole_info.history["epoch"] == parts_info.history["epoch"]
    for (name, tensor), another in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(tensor, another), name
    for row, another_row in zip(rows(one), rows(other), strict=True):
        assert {k: v for k, v in row.items() if k not in TIMING} == {
            k: v for k, v in another_row.items() if k not in TIMING
        }


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_resuming_a_killed_run_gives_the_uninterrupted_result(number, picture_folder, runs, uninterrupted):
    interrupted = arguments(picture_folder, "parts", *RESUMABLE)
    # The number of threads decides the order of sums, hence the last bits.
    process = start_training([*interrupted, f"--threads={torch.get_num_threads()}"], runs.parent)
    deadline = time.monotonic() + 300
    while not (runs / "parts" / "log.csv").exists():
        assert time.monotonic() < deadline
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(timeout=300)
    if number == signal.SIGTERM:
        error = (runs.parent / "error.txt").read_text()
        assert process.exitcode == 143
        assert re.search("--resume continues (after|with the validation of) epoch", error)
        assert "Traceback" not in error
    assert len(rows(runs / "parts")) < 3
    assert main([*interrupted, "--resume"]) == 0
    assert_same_run(uninterrupted, runs / "parts")


@pytest.mark.parametrize("killed_before", ["save_checkpoint", "save_state"])
def test_a_kill_between_two_files_loses_nothing(
    killed_before, picture_folder, runs, uninterrupted, capsys, monkeypatch
):
    """The log is written first, then the best checkpoint, then the state: whatever is missing is done anew."""
    original = getattr(trainer, killed_before)
    # The state is also saved before the first epoch, and before each validation.
    calls_left = iter(range(4 if killed_before == "save_state" else 1))

    def killing(*arguments):
        if next(calls_left, None) is None:
            raise KeyboardInterrupt
        original(*arguments)

    monkeypatch.setattr(trainer, killed_before, killing)
    argv = arguments(picture_folder, "parts", *RESUMABLE)
    assert main(argv) == 130
    assert "the same command with --resume continues with the validation of epoch 2" in capsys.readouterr().err
    assert len(rows(runs / "parts")) == 2
    monkeypatch.undo()
    monkeypatch.chdir(runs.parent)
    assert main([*argv, "--resume"]) == 0
    assert_same_run(uninterrupted, runs / "parts")


@pytest.mark.parametrize("measurement", ["clean", "smooth_cw10"])
def test_an_interrupt_during_validation_costs_no_training(
    measurement, picture_folder, runs, uninterrupted, capsys, monkeypatch
):
    measure, train = Validation.measure, trainer.Trainer._train_epoch
    validated: list[object] = []
    trained: list[int] = []

    def interrupted(self, model, tell):
        def telling(name):
            if len(validated) == 2 and name == measurement:
                raise KeyboardInterrupt
            tell(name)

        validated.append(model)
        return measure(self, model, telling)

    def training(self, epoch, bar):
        trained.append(epoch)
        return train(self, epoch, bar)

    monkeypatch.setattr(trainer.Trainer, "_train_epoch", training)
    argv = arguments(picture_folder, "parts", *RESUMABLE)
    with monkeypatch.context() as patch:
        patch.setattr(Validation, "measure", interrupted)
        assert main(argv) == 130
    assert "continues with the validation of epoch 2" in capsys.readouterr().err
    assert len(rows(runs / "parts")) == 1
    assert main([*argv, "--resume"]) == 0
    assert "epochs 2 to 3, of which epoch 2 is trained and not validated" in capsys.readouterr().out
    assert trained == [0, 1, 2], "no epoch is trained twice"
    assert_same_run(uninterrupted, runs / "parts")


def test_an_interrupt_in_training_says_after_which_epoch_it_goes_on(picture_folder, runs, capsys, monkeypatch):
    train = trainer.Trainer._train_epoch

    def interrupted(self, epoch, bar):
        if epoch == stop[0]:
            raise KeyboardInterrupt
        return train(self, epoch, bar)

    monkeypatch.setattr(trainer.Trainer, "_train_epoch", interrupted)
    argv = arguments(picture_folder, "told", "--method", "standard")
    for stop, more in (([0], []), ([1], ["--resume"])):
        assert main([*argv, *more]) == 130
        assert f"the same command with --resume continues after epoch {stop[0]}\n" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr("training.train.load_pictures", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main([*argv, "--resume"]) == 130
        assert "interrupted; the run is as it was, so the same command continues it\n" in capsys.readouterr().err
        assert main([argument.replace("told", "new") for argument in argv]) == 130
        assert "interrupted; nothing is saved yet, so the same command starts again\n" in capsys.readouterr().err


def test_a_full_disk_costs_nothing_saved(picture_folder, runs, uninterrupted, capsys, monkeypatch):
    original, full = os.fsync, [False]

    def fsync(descriptor):
        if full[0] and os.readlink(f"/proc/self/fd/{descriptor}").endswith("state.pt.partial"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)
        full[0] |= (runs / "parts" / "log.csv").exists()

    monkeypatch.setattr(os, "fsync", fsync)
    argv = arguments(picture_folder, "parts", *RESUMABLE)
    error = failure(capsys, argv)
    assert "state.pt: cannot be written (No space left on device); free some space on that disk; then" in error
    assert error.endswith("the same command with --resume continues with the validation of epoch 1")
    monkeypatch.undo()
    monkeypatch.chdir(runs.parent)
    assert main([*argv, "--resume"]) == 0
    assert_same_run(uninterrupted, runs / "parts")


def test_a_run_is_not_resumed_on_other_pictures_of_the_same_classes(picture_folder, runs, tmp_path, capsys):
    standard = ("--method", "standard")
    assert main(arguments(picture_folder, "a", *standard, epochs=1)) == 0
    shutil.copytree(picture_folder, tmp_path / "one less")
    (tmp_path / "one less" / "train" / "red" / "000.png").unlink()
    error = failure(capsys, arguments(tmp_path / "one less", "a", *standard, "--resume", epochs=1))
    assert "a run on other pictures (120 of 3 classes, now 119 of 3)" in error
    assert "--data-root" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("data"), "a training state without its data; start again under another --run"),
        (lambda state: state["config"].pop("cutmix"), "(other options than this version's: cutmix)"),
        (lambda state: state["progress"].update(more=1), "not a saved training state"),
        (lambda state: state.pop("model"), "a training state without its model; start again"),
        (lambda state: state.pop("optimizer"), "a training state without its optimizer; start again"),
        (lambda state: state.pop("average"), "a training state without its average; start again"),
        (lambda state: state.pop("average_steps"), "a training state without its average_steps; start again"),
        (lambda state: state["data"].pop("class_names"), "a training state without its class_names; start again"),
        (lambda state: state.pop("config"), "not a saved training state"),
        (lambda state: state["model"].popitem(), "its tensors do not fit this network"),
        (lambda state: state["average"].popitem(), "its tensors do not fit this network"),
        (lambda state: state["optimizer"].pop("param_groups"), "its tensors do not fit this network"),
    ],
)
def test_a_state_of_another_form_is_refused(change, message, picture_folder, runs, uninterrupted, capsys):
    shutil.copytree(uninterrupted, runs / "parts")
    state = torch.load(runs / "parts" / "state.pt", weights_only=True)
    change(state)
    torch.save(state, runs / "parts" / "state.pt")
    argv = arguments(picture_folder, "parts", *RESUMABLE)
    assert message in failure(capsys, [*argv, "--resume"])


def test_a_flipped_bit_of_the_state_is_noticed(picture_folder, runs, uninterrupted, capsys):
    shutil.copytree(uninterrupted, runs / "parts")
    path = runs / "parts" / "state.pt"
    values = torch.load(path, weights_only=True)["model"]["backbone.classifier.weight"].numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(values) + 9] ^= 4
    path.write_bytes(content)
    argv = arguments(picture_folder, "parts", *RESUMABLE)
    error = failure(capsys, [*argv, "--resume"])
    assert "runs/parts/state.pt: damaged: its " in error
    assert "restore it from a copy, or start again under another --run" in error


@pytest.mark.parametrize("damage", ["cut", "emptied"])
def test_a_damaged_checkpoint_is_not_resumed(damage, picture_folder, runs, uninterrupted, capsys):
    """The state goes on from the last epoch, and the one that was kept is lost."""
    shutil.copytree(uninterrupted, runs / "parts")
    path = runs / "parts" / "model.safetensors"
    os.truncate(path, path.stat().st_size - 100 if damage == "cut" else 0)
    error = failure(capsys, [*arguments(picture_folder, "parts", *RESUMABLE), "--resume"])
    assert "runs/parts/model.safetensors" in error
    assert "it holds the epoch that was kept: restore it from a copy, or start again under another --run" in error


def test_the_checkpoint_of_another_run_is_not_resumed(picture_folder, runs, uninterrupted, capsys):
    shutil.copytree(uninterrupted, runs / "parts")
    path = runs / "parts" / "model.safetensors"
    network, info = load_checkpoint(path)
    earlier = {**info.history, "epoch": 1, "val_clean": info.history["val_clean"] / 2}
    for change, what in (
        ({"seed": 5, "method": "pgd"}, "method, seed"),
        ({"history": {"epoch": 99}}, "a later epoch"),
        ({"history": earlier}, "an epoch that is not the kept one"),
        ({"recipe": {**info.recipe, "lr": 0.5}}, f"lr (was 0.5, now {info.recipe['lr']:g})"),
        ({"recipe": {}}, "its options"),
    ):
        save_checkpoint(path, network.state_dict(), replace(info, **change))
        error = failure(capsys, [*arguments(picture_folder, "parts", *RESUMABLE), "--resume"])
        assert f"runs/parts/model.safetensors is not of the run in runs/parts/state.pt ({what}); restore it" in error


def test_a_run_whose_state_is_gone_tells_how_its_network_is_used(picture_folder, runs, uninterrupted, capsys):
    shutil.copytree(uninterrupted, runs / "parts")
    (runs / "parts" / "state.pt").unlink()
    error = failure(capsys, [*arguments(picture_folder, "parts", *RESUMABLE), "--resume"])
    assert "give another --run and --init-from runs/parts/model.safetensors" in error


def same(one: Any, other: Any) -> bool:
    """Whether two saved values are equal: tensors, numbers, texts and collections of them."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def test_no_flipped_bit_of_a_state_gives_another_state(uninterrupted, tmp_path):
    """Some bits are nobody's, such as those of the padding between parts; the others are noticed, wherever they are."""
    content = (uninterrupted / "state.pt").read_bytes()
    path = tmp_path / "state.pt"
    path.write_bytes(content)
    whole, config = load_state(path, "start again")
    with zipfile.ZipFile(path) as archive:
        parts, directory = archive.infolist(), archive.start_dir
    pickled = next(part for part in parts if part.filename.endswith("/data.pkl"))
    draw = random.Random(0)
    regions = [
        (0, len(content), 40),
        (0, parts[1].header_offset, 20),
        (pickled.header_offset, pickled.header_offset + pickled.file_size, 20),
        (directory, len(content), 40),
    ]
    bits = [draw.randrange(8 * first, 8 * last) for first, last, count in regions for _ in range(count)]
    # A bit in the table of contents makes a tensor a folder, which torch leaves as the memory happens to be.
    entries = [match.start() for match in re.finditer(rb"PK\x01\x02", content[directory:])]
    assert len(entries) == len(parts)
    bits += [8 * (directory + entry + 38) + 4 for entry in entries[:10]]
    refused: list[str] = []
    for bit in bits:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            state, saved = load_state(path, "start again")
        except TrainerError as error:
            refused.append(str(error))
            continue
        assert saved == config, bit
        assert same(state, whole), bit
    assert len(refused) > 80
    for message in refused:
        assert "\n" not in message
        assert message.endswith("start again")


def test_a_state_without_the_perturbations_that_its_attack_starts_from_is_one_line(picture_folder, runs, capsys):
    argv = arguments(picture_folder, "prior", "--method=pgd", "--attack-steps=1", "--attack-start=prior", epochs=1)
    assert main(argv) == 0
    state = torch.load(runs / "prior" / "state.pt", weights_only=True)
    del state["perturbations"]
    torch.save(state, runs / "prior" / "state.pt")
    capsys.readouterr()
    assert main([*argv, "--resume"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: runs/prior/state.pt: a training state without its perturbations; start again under ")
