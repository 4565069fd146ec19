"""Whole, tiny training runs through the command line."""

import contextlib
import csv
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.checkpoint import load_checkpoint
from training.command import main
from training.data.batches import to_float
from training.data.loading import load_pictures
from training.evaluate import command
from training.loop import trainer
from training.networks.gradient_oracle import GradientOracle


def arguments(picture_folder: Path, run: str, *more: str, epochs: int = 3) -> list[str]:
    return [
        "--dataset=image-folder",
        f"--data-root={picture_folder}",
        f"--run={run}",
        f"--epochs={epochs}",
        "--arch=wrn-10-1",
        "--batch-size=32",
        "--lr-schedule=cyclic",
        "--crop-padding=1",
        "--device=cpu",
        "--validation-pictures=12",
        "--validation-attacked=6",
        "--precision=float32",
        *more,
    ]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "standard"),
        ("--method", "pgd", "--attack-steps", "2"),
        ("--method", "self-gradient"),
        ("--method", "self-gradient", "--attack", "n-fgsm", "--attack-view", "smooth", "--plain-loss-share", "0.3"),
        ("--method", "self-gradient", "--ema-decay", "0.9", "--precision", "bf16"),
        (
            "--method",
            "self-gradient",
            "--activation",
            "silu",
            "--attack-view",
            "full",
            "--cutout",
            "4",
            "--gradient-alignment",
            "0.2",
            "--weight-perturbation",
            "0.005",
        ),
        ("--method", "trades", "--attack-steps", "2", "--label-smoothing", "0.1", "--precision", "bf16"),
        ("--method", "bilateral", "--bilateral-target", "random"),
        ("--method", "gradient-oracle", "--attack-steps", "2", "--attack-start", "image", "--cutmix", "0.2"),
    ],
    ids=" ".join,
)
def test_a_tiny_run_learns(options, picture_folder, runs, capfd):
    assert main(arguments(picture_folder, "tiny", *options, "--epsilon", "4/255", epochs=6)) == 0
    model, info = load_checkpoint(runs / "tiny" / "model.safetensors")
    assert info.class_names == ("blue", "green", "red")
    assert (info.block is not None) == ("self-gradient" in options)
    test = load_pictures("image-folder", picture_folder, "test")
    images = to_float(test.images)
    with torch.no_grad():
        logits = model.oracle_logits(images, test.labels) if isinstance(model, GradientOracle) else model(images)
    assert (logits.argmax(dim=1) == test.labels).float().mean() >= 0.9
    log = rows(runs / "tiny")
    assert [row["epoch"] for row in log] == list("123456")
    assert float(log[-1]["train_loss"]) < float(log[0]["train_loss"])
    if info.block is not None:
        assert float(log[-1]["block_correction_mean_abs"]) > 0.1 / 255
    bar = capfd.readouterr().err
    assert "loss=" in bar
    assert "images/s=" in bar
    assert "memory=" in bar
    assert float(log[-1]["peak_memory_mib"]) > 100
    assert "val clean=" in bar
    events = EventAccumulator(str(runs / "tiny" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("val_clean")] == [1, 2, 3, 4, 5, 6]


TIMING = {"train_images_per_second", "wall_seconds", "core_seconds", "peak_memory_mib"}
RESUMABLE = ("--method", "self-gradient", "--ema-decay", "0.9")


@pytest.fixture(scope="module")
def uninterrupted(picture_folder, tmp_path_factory):
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
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        [sys.executable, "-m", "training", *interrupted],
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not (runs / "parts" / "log.csv").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate(timeout=300)
    if number == signal.SIGTERM:
        assert process.returncode == 143
        assert "--resume goes on after epoch" in error
        assert "Traceback" not in error
    assert len(rows(runs / "parts")) < 3
    assert main([*interrupted, "--resume"]) == 0
    assert_same_run(uninterrupted, runs / "parts")


@pytest.mark.parametrize("killed_before", ["trainer.save_checkpoint", "trainer.save_state"])
def test_a_kill_between_two_files_loses_nothing(
    killed_before, picture_folder, runs, uninterrupted, capsys, monkeypatch
):
    """The log is written first, then the best checkpoint, then the state: whatever is missing is done anew."""
    module, name = killed_before.split(".")
    original = getattr(trainer, name)
    # The state is also saved before the first epoch.
    calls_left = iter(range(2 if name == "save_state" else 1))

    def killing(*arguments):
        if next(calls_left, None) is None:
            raise KeyboardInterrupt
        original(*arguments)

    monkeypatch.setattr(f"training.{module}.{name}", killing)
    argv = arguments(picture_folder, "parts", *RESUMABLE)
    assert main(argv) == 130
    assert "the same command with --resume goes on after epoch 1" in capsys.readouterr().err
    assert len(rows(runs / "parts")) == 2
    monkeypatch.undo()
    monkeypatch.chdir(runs.parent)
    assert main([*argv, "--resume"]) == 0
    assert_same_run(uninterrupted, runs / "parts")


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
    assert error.endswith("the same command with --resume goes on after epoch 0")
    monkeypatch.undo()
    monkeypatch.chdir(runs.parent)
    assert main([*argv, "--resume"]) == 0
    assert_same_run(uninterrupted, runs / "parts")


def failure(capsys, argv: list[str]) -> str:
    assert main(argv) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_mistakes_get_one_line_that_names_the_fix(picture_folder, runs, capsys):
    assert "known are: wrn-D-K" in failure(capsys, arguments(picture_folder, "a", "--arch", "vgg"))
    assert "nothing to resume" in failure(capsys, arguments(picture_folder, "a", "--resume"))
    assert "lower --batch-size" in failure(capsys, arguments(picture_folder, "a", "--batch-size", "500"))
    assert "write 8 of 255 levels as 8/255" in failure(capsys, arguments(picture_folder, "a", "--epsilon", "8"))
    assert "--method standard" in failure(capsys, arguments(picture_folder, "a", "--attack-steps", "0"))
    assert "it is for trades" in failure(capsys, arguments(picture_folder, "a", "--trades-beta", "3"))
    assert "--activation such as silu" in failure(capsys, arguments(picture_folder, "a", "--attack-view", "full"))
    assert "no such file" in failure(capsys, arguments(picture_folder, "a", "--init-from", "none.safetensors"))
    # The folder is not there: whoever got as far as reading pictures would say so.
    nowhere = runs / "nowhere"
    for name in ("gpu", "cuda:99"):
        assert "pass --device cpu" in failure(capsys, arguments(nowhere, "a", "--device", name))
    for count in ("0", "-1"):
        assert "--threads must be at least 1" in failure(capsys, arguments(nowhere, "a", "--threads", count))
    assert not (runs / "a").exists()


def test_a_run_is_neither_overwritten_nor_resumed_with_other_settings(picture_folder, runs, capsys):
    standard = ("--method", "standard")
    assert main(arguments(picture_folder, "a", *standard, epochs=1)) == 0
    before = (runs / "a" / "model.safetensors").read_bytes()
    assert "add --resume" in failure(capsys, arguments(picture_folder, "a", *standard, epochs=1))
    error = failure(capsys, arguments(picture_folder, "a", *standard, "--resume", "--seed", "5", epochs=1))
    assert "seed (was 0, now 5)" in error
    error = failure(capsys, arguments(picture_folder, "a", *standard, "--resume", "--arch", "wrn-16-1", epochs=1))
    assert "arch (was wrn-10-1, now wrn-16-1); give the same ones as then" in error
    assert (runs / "a" / "model.safetensors").read_bytes() == before
    (runs / "a" / "state.pt").unlink()
    assert "move it away or give another --run" in failure(capsys, arguments(picture_folder, "a", *standard, epochs=1))


def test_other_pictures_are_refused_before_they_are_read(picture_folder, runs, tmp_path, capsys):
    standard = ("--method", "standard")
    assert main(arguments(picture_folder, "a", *standard, epochs=1)) == 0
    fewer = tmp_path / "fewer"
    for name in ("blue", "red"):
        (fewer / "train" / name).mkdir(parents=True)
        # A file that is no picture: that it goes unnoticed shows that no picture was opened.
        (fewer / "train" / name / "0.png").write_text("not a picture")
    fix = "2 classes (blue, red), but the checkpoint is for 3 classes (blue, green, red); give the --dataset"
    assert fix in failure(capsys, arguments(fewer, "a", *standard, "--resume", epochs=1))
    start = ("--init-from", str(runs / "a" / "model.safetensors"))
    assert fix in failure(capsys, arguments(fewer, "b", *standard, *start, epochs=1))
    assert fix in evaluation_failure(capsys, runs / "a" / "model.safetensors", fewer)


def evaluation_failure(capsys, checkpoint: Path, data_root: Path) -> str:
    assert command.main([f"--ckpt={checkpoint}", f"--data-root={data_root}", "--split=train", "--device=cpu"]) == 2
    return capsys.readouterr().err


def test_a_run_is_not_resumed_on_other_pictures_of_the_same_classes(picture_folder, runs, tmp_path, capsys):
    standard = ("--method", "standard")
    assert main(arguments(picture_folder, "a", *standard, epochs=1)) == 0
    shutil.copytree(picture_folder, tmp_path / "one less")
    (tmp_path / "one less" / "train" / "red" / "000.png").unlink()
    error = failure(capsys, arguments(tmp_path / "one less", "a", *standard, "--resume", epochs=1))
    assert "a run on other pictures (120 of 3 classes, now 119 of 3)" in error
    assert "--data-root" in error


def test_a_state_and_a_log_from_before_the_newest_columns_are_gone_on_with(picture_folder, runs):
    argv = arguments(picture_folder, "a", "--method", "standard", epochs=2)
    stopped = arguments(picture_folder, "a", "--method", "standard", epochs=1)
    assert main(stopped) == 0
    state = torch.load(runs / "a" / "state.pt", weights_only=True)
    del state["data"]
    state["config"]["epochs"] = 2
    torch.save(state, runs / "a" / "state.pt")
    first = rows(runs / "a")[0]
    del first["peak_memory_mib"]
    (runs / "a" / "log.csv").write_text(f"{','.join(first)}\n{','.join(first.values())}\n")
    assert main([*argv, "--resume"]) == 0
    log = rows(runs / "a")
    assert [row["epoch"] for row in log] == ["1", "2"]
    assert log[0] == first | {"peak_memory_mib": ""}
    assert float(log[1]["peak_memory_mib"]) > 0


def test_init_from_takes_over_the_backbone_of_the_same_architecture(picture_folder, runs, capsys):
    assert main(arguments(picture_folder, "first", "--method", "standard", epochs=1)) == 0
    first = str(runs / "first" / "model.safetensors")
    tiny_lr = ("--lr", "1e-12", "--weight-decay", "0", "--init-from", first)
    assert main(arguments(picture_folder, "second", *tiny_lr, epochs=1)) == 0
    one, _ = load_checkpoint(Path(first))
    two, info = load_checkpoint(runs / "second" / "model.safetensors")
    assert info.block is not None
    torch.testing.assert_close(two.backbone.stem.weight, one.backbone.stem.weight)
    wrong = arguments(picture_folder, "third", "--arch", "wrn-10-2", "--init-from", first)
    assert "same --arch" in failure(capsys, wrong)
    other = arguments(picture_folder, "third", "--activation", "silu", "--init-from", first)
    assert "same --activation" in failure(capsys, other)


def test_a_collapse_stops_training_and_keeps_the_best_checkpoint(picture_folder, runs, capsys, monkeypatch):
    healthy = {"val_clean": 0.7, "val_fgsm": 0.4, "val_pgd10": 0.35, "val_lowest": 0.3}
    collapsed = {"val_clean": 0.75, "val_fgsm": 0.7, "val_pgd10": 0.01, "val_lowest": 0.01}
    measured = iter([healthy, collapsed])
    monkeypatch.setattr("training.loop.validation.Validation.measure", lambda *_: next(measured))
    error = failure(capsys, arguments(picture_folder, "a", "--method", "pgd", "--attack-steps", "1"))
    assert "epoch 2: catastrophic overfitting: FGSM accuracy 0.700 but PGD-10 accuracy 0.010" in error
    assert str(runs.relative_to(runs.parent) / "a" / "model.safetensors") in error
    _, info = load_checkpoint(runs / "a" / "model.safetensors")
    assert info.history["epoch"] == 1
    assert [row["val_pgd10"] for row in rows(runs / "a")] == ["0.35", "0.01"]


def test_a_collapse_in_the_first_epoch_leaves_its_network_to_be_judged(picture_folder, runs, capsys, monkeypatch):
    leaking = {"val_clean": 0.1, "val_fgsm": 0.7, "val_pgd10": 0.7, "val_lowest": 0.01}
    monkeypatch.setattr("training.loop.validation.Validation.measure", lambda *_: leaking)
    error = failure(capsys, arguments(picture_folder, "a", "--method", "pgd", "--attack-steps", "1"))
    assert "epoch 1: label leaking" in error
    assert f"no better checkpoint than: {runs.relative_to(runs.parent) / 'a' / 'model.safetensors'}" in error
    _, info = load_checkpoint(runs / "a" / "model.safetensors")
    assert info.history["epoch"] == 1


class Clock:
    """Stands in for the module time in the trainer: every look takes `tick` seconds."""

    def __init__(self, tick: float):
        self.now, self.tick = 1000.0, tick

    def perf_counter(self) -> float:
        self.now += self.tick
        return self.now

    def process_time(self) -> float:
        return self.now


def test_a_time_budget_lays_the_schedule_over_the_minutes(picture_folder, runs, capsys, monkeypatch):
    monkeypatch.setattr(trainer, "time", Clock(tick=1.0))
    options = arguments(picture_folder, "timed", "--method=standard", "--lr=0.1", "--lr-warmup=0.5", "--minutes=0.5")
    assert main(options) == 0
    assert "float32 on cpu, 0.5 minutes\n" in capsys.readouterr().out
    log = rows(runs / "timed")
    # Three steps an epoch, and a few looks at the clock around them: half a minute is over after some epochs.
    assert 2 < len(log) < 10
    rates = [float(row["lr"]) for row in log]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert max(rates) > 0.08
    assert 0 <= rates[-1] < 0.02
    assert float(log[-1]["wall_seconds"]) <= 32
    _, info = load_checkpoint(runs / "timed" / "model.safetensors")
    assert info.recipe["minutes"] == 0.5


def test_a_time_budget_is_resumed_where_it_was(picture_folder, runs, capsys, monkeypatch):
    monkeypatch.setattr(trainer, "time", Clock(tick=1.0))
    options = arguments(picture_folder, "timed", "--method=standard", "--minutes=0.5")
    assert main(options) == 0
    log = rows(runs / "timed")
    used = float(log[-1]["wall_seconds"]) / 60
    capsys.readouterr()
    assert main([*options, "--resume"]) == 0
    assert f"0.5 minutes, of which {used:.1f} are used" in capsys.readouterr().out
    assert len(log) <= len(rows(runs / "timed")) <= len(log) + 1
