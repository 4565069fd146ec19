import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from training.config import TrainConfig
from training.evaluate.diagnostics.block_effect import measure_block_effect
from training.loop.validation import Validation, attacked_pictures, collapse, validation_batch_size
from training.networks.gradient_oracle import GradientOracle, with_gradient_input
from training.networks.wide_resnet import WideResNet
from training.options import check_given
from training.parallel.distributed import ALONE, Shard


def figures(clean: float, fgsm: float, pgd10: float) -> dict[str, float]:
    return {"val_clean": clean, "val_fgsm": fgsm, "val_pgd10": pgd10}


ONE_STEP = TrainConfig(method="pgd", attack_steps=1)
USUAL = {"pictures": 2000, "attacked": 500}
OVERFITTED, LEAKING = figures(0.7, 0.65, 0.02), figures(0.4, 0.8, 0.9)


def test_catastrophic_overfitting_is_noticed():
    problem = collapse(OVERFITTED, best_pgd=0.35, config=ONE_STEP, **USUAL)
    assert problem is not None
    assert "catastrophic overfitting" in problem
    assert "--attack n-fgsm" in problem


def test_label_leaking_is_noticed():
    problem = collapse(LEAKING, best_pgd=0.3, config=ONE_STEP, **USUAL)
    assert problem is not None
    assert "label leaking" in problem


ADVICE: dict[str, dict[str, Any]] = {
    "--attack n-fgsm": {"attack": "n-fgsm"},
    "--attack n-fgsm instead of --attack-start prior": {"attack": "n-fgsm", "attack_start": "uniform"},
    "more --attack-steps": {"attack_steps": 4},
    "--attack pgd with more --attack-steps": {"attack": "pgd", "attack_steps": 4},
    "--gradient-alignment 0.2": {"gradient_alignment": 0.2},
    "a lower --block-scale": {"block_scale": 4 / 255},
    "--attack-view smooth": {"attack_view": "smooth"},
    "a lower --lr": {"lr": 0.01},
    "start from an adversarially trained network (--init-from)": {"init_from": "other.safetensors"},
}
"""Each advice that a sentence may give, and the options that it changes."""


@pytest.mark.parametrize("measured", [OVERFITTED, LEAKING])
@pytest.mark.parametrize(
    "config",
    [
        ONE_STEP,
        replace(ONE_STEP, attack="n-fgsm"),
        replace(ONE_STEP, attack_start="prior"),
        replace(ONE_STEP, start_consistency=10.0),
        *(TrainConfig(method=method) for method in ("bilateral", "trades", "nuat", "liet", "self-gradient")),
    ],
)
def test_what_is_advised_can_be_given_to_the_same_training(measured, config):
    problem = collapse(measured, best_pgd=0.35, config=config, **USUAL)
    assert problem is not None
    for advice in re.split(", or |, | or ", problem.split("; train with ")[1]):
        changed = ADVICE[advice]
        after = replace(config, **changed)
        assert after != config
        check_given(after, [name for name in changed if name != "attack_start"])


def test_healthy_and_early_training_is_left_alone():
    assert collapse(figures(0.6, 0.38, 0.35), best_pgd=0.36, config=ONE_STEP, **USUAL) is None
    assert collapse(figures(0.1, 0.1, 0.0), best_pgd=0.0, config=ONE_STEP, **USUAL) is None
    assert collapse(figures(0.2, 0.22, 0.2), best_pgd=0.1, config=ONE_STEP, **USUAL) is None


@pytest.mark.parametrize(
    ("measured", "best_pgd"), [(figures(5 / 14, 2 / 4, 2 / 4), 0.25), (figures(0.6, 2 / 4, 0.0), 0.5)]
)
def test_a_difference_of_few_pictures_is_chance(measured, best_pgd):
    assert collapse(measured, best_pgd, pictures=14, attacked=4, config=ONE_STEP) is None
    assert collapse(measured, best_pgd, config=ONE_STEP, **USUAL) is not None


def test_lowest_is_no_higher_than_any_attack_and_the_block_is_measured(network):
    model = network(scale=8 / 255)
    images = torch.rand(20, 3, 16, 16)
    labels = model(images).argmax(dim=1)
    measured = Validation(images, labels, attacked=10, eps=8 / 255, seed=0).measure(model)
    assert measured["val_clean"] == 1
    attacked = [value for name, value in measured.items() if name.startswith("val_") and "clean" not in name]
    assert measured["val_lowest"] == min(attacked) or measured["val_lowest"] < min(attacked)
    assert {"val_smooth_cw10", "val_block_off_cw10"} <= set(measured)
    assert measured["block_correction_mean_abs"] > 1 / 255


@pytest.mark.parametrize(
    ("given", "trained", "held_out", "expected"),
    [
        (None, 48_000, 2000, 500),
        (None, 9000, 1000, 180),
        (None, 900, 100, 32),
        (None, 130, 14, 14),
        (7, 48_000, 2000, 7),
        (7, 60, 6, 6),
    ],
)
def test_how_many_are_attacked_follows_the_pictures_where_nobody_says(given, trained, held_out, expected):
    config = TrainConfig(dataset="image-folder", arch="wrn-10-1", validation_attacked=given)
    assert attacked_pictures(config, trained, held_out) == expected


@pytest.mark.parametrize("attacked", [4, 7])
def test_as_many_pictures_are_attacked_as_are_asked_for(network, attacked):
    """--validation-attacked: shares of so many pictures, while the clean accuracy is that of all."""
    images = torch.rand(20, 3, 16, 16)
    model, labels = network(scale=8 / 255), torch.arange(20) % 3
    measured = Validation(images, labels, attacked=attacked, eps=2 / 255, seed=0).measure(model)
    right = [value * attacked for name, value in measured.items() if name.endswith("10") or name == "val_lowest"]
    assert right == pytest.approx([round(value) for value in right], abs=1e-4)
    assert measured["val_clean"] * 20 == pytest.approx(round(measured["val_clean"] * 20), abs=1e-4)


def test_block_effect_of_a_dead_block_is_zero(network):
    model = network(scale=0.0)
    images = torch.rand(6, 3, 16, 16)
    effect = measure_block_effect(model, images, images, eps=8 / 255, seed=0)
    assert effect.correction_mean_abs == 0
    assert effect.correction_change == 0
    assert effect.answers_changed == effect.answers_changed_attacked == 0
    assert effect.gradient_mean_abs > 0


@pytest.fixture
def largest():
    """Watches a network: the largest number of pictures that its backbone saw at once, in a list of one."""

    def watch(model):
        seen = [0]
        model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(max(seen.pop(), len(inputs[0]))))
        return seen

    return watch


def test_fewer_pictures_at_once_change_no_figure(network, largest):
    """It runs in float64, where the order of sums cannot turn the sign of a gradient."""
    model = network(scale=8 / 255).double()
    images = torch.rand(9, 3, 12, 12, dtype=torch.double).contiguous(memory_format=torch.channels_last)
    labels = model(images).argmax(dim=1)
    validation = Validation(images, labels, attacked=8, eps=2 / 255, seed=0)
    seen = largest(model)
    whole = validation.measure(model)
    assert seen.pop() == 9
    seen.append(0)
    parts = replace(validation, batch_size=3).measure(model)
    assert seen == [3]
    assert parts == pytest.approx(whole)
    assert 0 < whole["val_lowest"] < 1


def test_fewer_pictures_at_once_change_no_figure_of_an_oracle(largest):
    torch.manual_seed(0)
    model = GradientOracle(with_gradient_input(WideResNet(10, 1, num_classes=5), 3), (0.5,) * 3, (0.25,) * 3).double()
    images, labels = torch.rand(9, 3, 16, 16, dtype=torch.double), torch.arange(9) % 5
    validation = Validation(images, labels, attacked=9, eps=8 / 255, seed=0)
    seen = largest(model)
    whole = validation.measure(model)
    assert seen.pop() == 9
    seen.append(0)
    assert replace(validation, batch_size=4).measure(model) == whole
    assert seen == [4]


def test_validation_takes_no_more_memory_than_training():
    def at_once(batch_size, precision, shard=ALONE, method="pgd"):
        config = TrainConfig(dataset="cifar10", method=method, batch_size=batch_size, precision=precision)
        return validation_batch_size(config, shard)

    assert at_once(128, "float32") == 128
    assert at_once(128, "bf16") == 64
    assert at_once(128, "bf16", method="self-gradient") == 32
    assert at_once(128, "float32", Shard(1, 4)) == 32
    assert at_once(1000, "bf16") == at_once(250, "float32") == 250
    assert at_once(1, "bf16", method="self-gradient") == 1
