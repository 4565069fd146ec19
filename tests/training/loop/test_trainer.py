"""Whole, tiny training runs: what they learn, write and log, and how a collapse ends them."""

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.training.tiny_run import arguments, failure, rows
from training.checkpoint import load_checkpoint, save_checkpoint
from training.command import main
from training.data.batches import to_float
from training.data.loading import load_pictures
from training.networks.gradient_oracle import GradientOracle

pytestmark = pytest.mark.usefixtures("short_attacks")


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "standard"),
        ("--method", "pgd", "--attack-steps", "2"),
        ("--method", "self-gradient"),
        pytest.param(
            ("--method", "self-gradient", "--attack", "n-fgsm", "--attack-view", "smooth", "--plain-loss-share", "0.3"),
            marks=pytest.mark.thorough,
        ),
        ("--method", "self-gradient", "--ema-decay", "0.9", "--precision", "bf16"),
        pytest.param(
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
            marks=pytest.mark.thorough,
        ),
        ("--method", "trades", "--attack-steps", "2", "--label-smoothing", "0.1", "--precision", "bf16"),
        ("--method", "bilateral", "--bilateral-target", "random"),
        ("--method", "gradient-oracle", "--attack-steps", "2", "--attack-start", "image", "--cutmix", "0.2"),
    ],
    ids=" ".join,
)
def test_a_tiny_run_learns(options, picture_folder, runs, capfd):
    assert main(arguments(picture_folder, "tiny", *options, "--epsilon", "4/255", epochs=4)) == 0
    model, info = load_checkpoint(runs / "tiny" / "model.safetensors")
    assert info.class_names == ("blue", "green", "red")
    assert (info.block is not None) == ("self-gradient" in options)
    test = load_pictures("image-folder", picture_folder, "test")
    images = to_float(test.images)
    with torch.no_grad():
        logits = model.oracle_logits(images, test.labels) if isinstance(model, GradientOracle) else model(images)
    assert (logits.argmax(dim=1) == test.labels).float().mean() >= 0.9
    log = rows(runs / "tiny")
    assert [row["epoch"] for row in log] == list("1234")
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
    assert [event.step for event in events.Scalars("val_clean")] == [1, 2, 3, 4]


def test_init_from_takes_over_the_backbone_of_the_same_architecture(picture_folder, runs, capsys):
    assert main(arguments(picture_folder, "first", "--method", "standard", epochs=1)) == 0
    first = str(runs / "first" / "model.safetensors")
    tiny_lr = ("--lr", "1e-12", "--weight-decay", "0", "--init-from", first)
    assert main(arguments(picture_folder, "second", *tiny_lr, epochs=1)) == 0
    one, _ = load_checkpoint(Path(first))
    two, info = load_checkpoint(runs / "second" / "model.safetensors")
    assert info.block is not None
    torch.testing.assert_close(two.get_parameter("backbone.stem.weight"), one.get_parameter("backbone.stem.weight"))
    wrong = arguments(picture_folder, "third", "--arch", "wrn-10-2", "--init-from", first)
    assert "same --arch" in failure(capsys, wrong)
    other = arguments(picture_folder, "third", "--activation", "silu", "--init-from", first)
    assert "same --activation" in failure(capsys, other)
    state = two.state_dict()
    state["backbone.stem.weight"][0] = float("nan")
    save_checkpoint(runs / "spoilt.safetensors", state, info)
    spoilt = arguments(picture_folder, "third", "--init-from", str(runs / "spoilt.safetensors"))
    assert "its weights are not finite (backbone.stem.weight" in failure(capsys, spoilt)


def test_a_state_with_nan_is_not_resumed(picture_folder, runs, capsys):
    argv = arguments(picture_folder, "spoilt", "--method", "standard", epochs=1)
    assert main(argv) == 0
    state = torch.load(runs / "spoilt" / "state.pt", weights_only=True)
    state["model"]["backbone.stem.weight"][0] = float("nan")
    torch.save(state, runs / "spoilt" / "state.pt")
    assert "its weights are not finite (backbone.stem.weight" in failure(capsys, [*argv, "--resume"])


def test_a_collapse_stops_training_and_keeps_the_best_checkpoint(picture_folder, runs, capsys, monkeypatch):
    healthy = {"val_clean": 0.7, "val_fgsm": 0.4, "val_pgd10": 0.35, "val_lowest": 0.3}
    collapsed = {"val_clean": 0.75, "val_fgsm": 0.7, "val_pgd10": 0.01, "val_lowest": 0.01}
    measured = iter([healthy, collapsed])
    monkeypatch.setattr("training.loop.validation.Validation.measure", lambda *_: next(measured))
    options = ("--method=pgd", "--attack-steps=1", "--validation-attacked=12")
    error = failure(capsys, arguments(picture_folder, "a", *options))
    assert "epoch 2: catastrophic overfitting: FGSM accuracy 0.700 but PGD-10 accuracy 0.010" in error
    assert str(runs.relative_to(runs.parent) / "a" / "model.safetensors") in error
    _, info = load_checkpoint(runs / "a" / "model.safetensors")
    assert info.history["epoch"] == 1
    assert [row["val_pgd10"] for row in rows(runs / "a")] == ["0.35", "0.01"]


def test_a_collapse_in_the_first_epoch_leaves_its_network_to_be_judged(picture_folder, runs, capsys, monkeypatch):
    leaking = {"val_clean": 0.1, "val_fgsm": 0.8, "val_pgd10": 0.8, "val_lowest": 0.01}
    monkeypatch.setattr("training.loop.validation.Validation.measure", lambda *_: leaking)
    options = ("--method=pgd", "--attack-steps=1", "--validation-attacked=12")
    error = failure(capsys, arguments(picture_folder, "a", *options))
    assert "epoch 1: label leaking" in error
    assert f"no better checkpoint than: {runs.relative_to(runs.parent) / 'a' / 'model.safetensors'}" in error
    _, info = load_checkpoint(runs / "a" / "model.safetensors")
    assert info.history["epoch"] == 1
