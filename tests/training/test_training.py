"""Whole, tiny training runs through the command line."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.__main__ import main
from training.checkpoint import load_checkpoint
from training.data import load_pictures, to_float
from training.oracle import GradientOracle


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
    assert "val clean=" in bar
    events = EventAccumulator(str(runs / "tiny" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("val_clean")] == [1, 2, 3, 4, 5, 6]


def test_resuming_an_interrupted_run_gives_the_uninterrupted_result(picture_folder, runs):
    options = ("--method", "self-gradient", "--ema-decay", "0.9")
    assert main(arguments(picture_folder, "whole", *options)) == 0
    interrupted = arguments(picture_folder, "parts", *options)
    # A process started in the background may have inherited a deaf ear for Ctrl-C; the number of threads decides the
    # order of sums, hence the last bits.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from training.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        [sys.executable, "-c", program, *interrupted], env=os.environ | environment, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (runs / "parts" / "state.pt").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume goes on after epoch" in error
    assert len(rows(runs / "parts")) < 3
    assert main([*interrupted, "--resume"]) == 0
    whole, _ = load_checkpoint(runs / "whole" / "model.safetensors")
    parts, _ = load_checkpoint(runs / "parts" / "model.safetensors")
    for (name, tensor), other in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
    timing = {"train_images_per_second", "wall_seconds", "core_seconds"}
    for one, other in zip(rows(runs / "whole"), rows(runs / "parts"), strict=True):
        assert {k: v for k, v in one.items() if k not in timing} == {k: v for k, v in other.items() if k not in timing}


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
    assert not (runs / "a").exists()


def test_a_run_is_neither_overwritten_nor_resumed_with_other_settings(picture_folder, runs, capsys):
    standard = ("--method", "standard")
    assert main(arguments(picture_folder, "a", *standard, epochs=1)) == 0
    before = (runs / "a" / "model.safetensors").read_bytes()
    assert "add --resume" in failure(capsys, arguments(picture_folder, "a", *standard, epochs=1))
    error = failure(capsys, arguments(picture_folder, "a", *standard, "--resume", "--seed", "5", epochs=1))
    assert "seed (was 0, now 5)" in error
    assert (runs / "a" / "model.safetensors").read_bytes() == before


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
    monkeypatch.setattr("training.validation.Validation.measure", lambda *_: next(measured))
    error = failure(capsys, arguments(picture_folder, "a", "--method", "pgd", "--attack-steps", "1"))
    assert "epoch 2: catastrophic overfitting: FGSM accuracy 0.700 but PGD-10 accuracy 0.010" in error
    assert str(runs.relative_to(runs.parent) / "a" / "model.safetensors") in error
    _, info = load_checkpoint(runs / "a" / "model.safetensors")
    assert info.history["epoch"] == 1
    assert [row["val_pgd10"] for row in rows(runs / "a")] == ["0.35", "0.01"]
