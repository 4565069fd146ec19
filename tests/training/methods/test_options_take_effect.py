"""Every option of training does something, in float32 and under bf16 autocast."""

import copy
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.small_backbone import SmallBackbone
from training.common.command_line import flag
from training.common.described_options import described_options
from training.config import METHODS, TrainConfig
from training.data.automatic_split import AutomaticSplit, Part
from training.data.loading import load_pictures, split_indices
from training.loop.augmentation import Augmentation
from training.loop.schedule import learning_rate
from training.methods import StepContext, build_method
from training.methods.weight_perturbation import WeightPerturbation, perturbed_weights
from training.networks.activations import with_activation
from training.networks.gradient_oracle import GradientOracle, with_gradient_input
from training.networks.self_gradient import SelfGradientBlock, SelfGradientNetwork, without_running_updates
from training.options import recipe_defaults

PRECISIONS = ("float32", "bf16")
SMOOTH = {"attack_view": "smooth"}
DENOISER = {"method": "gradient-denoiser"}

OF_THE_STEP: dict[str, list[tuple[dict, object]]] = {
    "method": [
        ({"method": "pgd"}, "trades"),
        ({"method": "trades"}, "nuat"),
        ({"method": "pgd"}, "liet"),
        (DENOISER, "pgd"),
    ],
    "activation": [({}, "silu")],
    "epsilon": [
        ({}, 2 / 255),
        ({"method": "pgd"}, 2 / 255),
        ({"method": "gradient-oracle"}, 2 / 255),
        ({"method": "bilateral"}, 2 / 255),
        ({"attack": "n-fgsm"}, 2 / 255),
        ({"method": "trades"}, 1 / 255),
        ({"method": "nuat"}, 2 / 255),
        ({"method": "liet"}, 2 / 255),
        (DENOISER, 0.0),
    ],
    "attack": [
        ({}, "n-fgsm"),
        (DENOISER, "n-fgsm"),
        ({"method": "pgd"}, "n-fgsm"),
        ({"method": "gradient-oracle"}, "n-fgsm"),
    ],
    "attack_steps": [
        ({}, 3),
        (DENOISER, 3),
        ({"method": "pgd"}, 1),
        ({"method": "trades"}, 1),
        ({"method": "nuat"}, 2),
    ],
    "attack_step_size": [
        ({}, 2 / 255),
        (DENOISER, 2 / 255),
        ({"method": "pgd", "attack_steps": 1}, 8 / 255),
        ({"method": "trades"}, 1 / 255),
        ({"method": "nuat"}, 1 / 255),
    ],
    "attack_start": [
        ({}, "image"),
        (DENOISER, "image"),
        ({"method": "pgd", "attack_steps": 1}, "image"),
        ({}, "prior"),
        ({"method": "pgd", "attack_steps": 1, "start_consistency": 10.0}, "prior"),
        *(
            ({"method": name, "attack_steps": 1}, "prior")
            for name in ("pgd", "gradient-denoiser", "gradient-oracle", "bilateral", "trades", "nuat")
        ),
    ],
    "start_consistency": [
        ({"method": "pgd", "attack_steps": 1}, 10.0),
        ({"method": "pgd", "attack": "n-fgsm"}, 10.0),
        ({"method": "pgd", "attack_steps": 1, "attack_start": "prior"}, 10.0),
    ],
    "nuclear_weight": [({"method": "nuat"}, 16.0), ({"method": "nuat", "attack_steps": 2}, 16.0)],
    "liet_weight": [({"method": "liet"}, 1.0)],
    "noise_deviation": [(DENOISER, 32 / 255), (DENOISER | {"epsilon": 0.0}, 32 / 255)],
    "denoising_weight": [(DENOISER, 10.0), (DENOISER | {"epsilon": 0.0}, 10.0)],
    "joint_pass": [({"method": "trades", "attack_steps": 1}, True), ({"method": "nuat"}, True)],
    "attack_view": [({}, "smooth"), ({"activation": "silu"}, "full")],
    "attack_beta": [(SMOOTH, 0.5)],
    "block_layers": [({}, 2)],
    "block_scale": [({}, 1.0)],
    "gradient_scaling": [({}, "none")],
    "plain_loss_share": [({}, 0.5)],
    "trades_beta": [({"method": "trades"}, 1.0)],
    "bilateral_target": [({"method": "bilateral"}, "random")],
    "label_beta": [({"method": "bilateral"}, 2.0)],
    "label_smoothing": [({"method": name}, 0.2) for name in METHODS if name != "bilateral"],
    "weight_perturbation": [
        *(({"method": name}, 0.02) for name in METHODS),
        ({"method": "pgd", "attack_steps": 1, "start_consistency": 10.0}, 0.02),
    ],
    "gradient_alignment": [
        ({"method": name}, 0.5) for name in ("pgd", "bilateral", "trades", "nuat", "liet", "self-gradient")
    ],
}
"""Other options that are set, and the value whose loss or gradient must be another than the default's, by option."""

OF_THE_PICTURES: dict[str, tuple[dict, object]] = {
    "crop_padding": ({}, 2),
    "flip": ({}, True),
    "cutout": ({}, 4),
    "cutmix": ({}, 1.0),
    "random_resized_crop": ({}, 0.35),
}
PICTURES_AS_THEY_ARE = {
    "dataset": "image-folder",
    "crop_padding": 0,
    "flip": False,
    "image_size": 8,
    "resize": "crop",
}

OF_THE_SCHEDULE: dict[str, tuple[dict, object]] = {
    "epochs": ({"lr_schedule": "cyclic"}, 100),
    "lr": ({}, 0.01),
    "lr_schedule": ({}, "cyclic"),
    "lr_milestones": ({}, (10,)),
    "lr_decay": ({}, 0.5),
    "lr_warmup": ({"lr_schedule": "cyclic"}, 0.9),
}

OF_THE_FOLDER: dict[str, object] = {
    "test_share": 0.5,
    "image_size": 10,
    "resize": "crop",
    "validation_pictures": 6,
    "seed": 1,
}
"""The value with which other pictures of a folder of class folders are trained on or validated, by option."""

ELSEWHERE = {
    "dataset": "tests/training/data",
    "arch": "tests/training/networks/test_backbones.py",
    "dataset_name": "a name for figures",
    "init_from": "tests/training/loop/test_trainer.py",
    "pretrained": "tests/training/loop/test_start.py",
    "recipe": "tests/training/loop/test_start.py",
    "freeze_backbone": "tests/training/loop/test_frozen_backbone.py",
    "minutes": "tests/training/loop/test_time_budget.py",
    "minutes_of": "tests/training/loop/test_time_budget.py",
    "batch_size": "tests/training/loop/test_optimizer.py",
    "momentum": "tests/training/loop/test_optimizer.py",
    "weight_decay": "tests/training/loop/test_optimizer.py",
    "ema_decay": "tests/training/loop/test_weight_average.py",
    "precision": "below",
    "validation_attacked": "tests/training/loop/test_validation.py",
}
"""Options that no single step shows, and where they are tested."""


def configured(options: dict) -> TrainConfig:
    recipe = recipe_defaults("cifar10", options.get("method", "self-gradient"))
    return TrainConfig(**({"dataset": "cifar10"} | recipe | options))


def network_for(config: TrainConfig) -> SelfGradientNetwork:
    """Return a small network in training, whose weights depend on the seed alone."""
    torch.manual_seed(0)
    backbone = with_activation(SmallBackbone(5), config.activation)
    if config.method == "gradient-oracle":
        return GradientOracle(with_gradient_input(backbone, 3), (0.5,) * 3, (0.25,) * 3).train()
    block = None
    if config.method == "self-gradient":
        block = SelfGradientBlock(3, config.block_layers, config.block_scale, config.gradient_scaling)
    return SelfGradientNetwork(backbone, block).train()


def a_step(config: TrainConfig) -> list[torch.Tensor]:
    """Return the loss of one step, as the trainer makes it, and the gradient of every parameter of the backbone."""
    model = network_for(config)
    torch.manual_seed(1)
    images, labels = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    prior = config.epsilon * torch.rand(images.shape).sub(0.5).sign() if config.attack_start == "prior" else None
    method = build_method(config)
    torch.manual_seed(2)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
        step = method.loss(model, method.attack(model, images, labels, StepContext(0.5, 1, prior)))
    step.backward()
    gradients = [value.grad for value in model.backbone.parameters() if value.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    return [step.loss.detach(), *gradients]


@cache
def a_certain_step(config: TrainConfig) -> list[torch.Tensor]:
    """Return what a_step does, once a second one has given the same. Many cases compare with it."""
    before, again = a_step(config), a_step(config)
    assert all(torch.equal(one, other) for one, other in zip(before, again, strict=True))
    return before


def test_every_option_is_in_a_table():
    tables = (OF_THE_STEP, OF_THE_PICTURES, OF_THE_SCHEDULE, OF_THE_FOLDER, ELSEWHERE)
    names = [name for table in tables for name in table]
    assert sorted(names) == sorted(item.name for item in described_options(TrainConfig))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("name", "options", "value"),
    [(name, options, value) for name, cases in OF_THE_STEP.items() for options, value in cases],
)
def test_options_of_a_step_change_its_loss_or_its_gradient(name, options, value, precision):
    before = a_certain_step(configured(options | {"precision": precision}))
    after = a_step(configured(options | {name: value, "precision": precision}))
    # Much more than rounding, which is 2**-9 in bf16.
    changes = [(one - other).norm() / one.norm().clamp(min=1e-6) for one, other in zip(before, after, strict=True)]
    assert max(changes) > 0.02


def test_the_precision_changes_the_loss_by_rounding_alone():
    one, other = (a_step(configured({"method": "standard", "precision": precision}))[0] for precision in PRECISIONS)
    assert one != other
    assert one == pytest.approx(other.item(), rel=0.02)


@pytest.mark.parametrize("precision", [*PRECISIONS, "float64"])
@pytest.mark.parametrize("method", METHODS)
def test_the_weights_of_a_perturbed_loss_are_moved_by_all_of_gamma(method, precision):
    """Autocast's cache of cast weights once hid the move, wholly or from one of the two passes.

    In float32, rounding switches a ReLU on some processors. That moves the gradient by up to two percent as a whole,
    and single elements of it by more. So these are compared in float64 and in bf16 alone.
    """
    gamma = 0.05
    autocast = {"device_type": "cpu", "dtype": torch.bfloat16, "enabled": precision == "bf16"}
    model = network_for(configured({"method": method}))
    torch.manual_seed(1)
    images, labels = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    if precision == "float64":
        model, images = model.double(), images.double()
    method_with_it = build_method(configured({"method": method, "attack_steps": 1, "weight_perturbation": gamma}))
    assert isinstance(method_with_it, WeightPerturbation)
    plain = method_with_it.method  # shares no pass of attack and loss, which would have other weights' logits
    with torch.autocast(**autocast):
        batch = method_with_it.attack(model, images, labels)
    moved = copy.deepcopy(model)
    with without_running_updates(moved), torch.autocast(**autocast):
        gradients = torch.autograd.grad(plain.loss(moved, batch).loss, perturbed_weights(moved))
    with torch.no_grad():
        for weight, gradient in zip(perturbed_weights(moved), gradients, strict=True):
            weight.add_(gamma * weight.norm() * gradient / gradient.norm())
    with torch.autocast(**autocast):
        expected = plain.loss(moved, batch)
        unmoved = plain.loss(copy.deepcopy(model), batch).loss
    expected.backward()
    with torch.autocast(**autocast):
        step = method_with_it.loss(model, batch)
    step.backward()
    assert step.loss.item() == pytest.approx(expected.loss.item(), rel=1e-3)
    assert step.loss > unmoved + 0.01
    found, wanted = (
        [value.grad for value in network.parameters() if value.grad is not None] for network in (model, moved)
    )
    assert len(found) == len([*model.parameters()])
    if precision == "float32":
        whole, whole_wanted = (torch.cat([value.flatten() for value in values]) for values in (found, wanted))
        assert (whole - whole_wanted).norm() < 0.1 * whole_wanted.norm()
    else:
        torch.testing.assert_close(found, wanted, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("name", OF_THE_PICTURES)
def test_options_of_the_pictures_change_them(name):
    options, value = OF_THE_PICTURES[name]
    torch.manual_seed(1)
    images, labels = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 2, 3, 4, 0])

    def augmented(config: TrainConfig) -> tuple[torch.Tensor, torch.Tensor]:
        aspects = torch.ones(6) if config.random_resized_crop else None
        augmentation = Augmentation(config, (0.5,) * 3, 5, aspects)
        augmentation.start_epoch(7)
        torch.manual_seed(2)
        return augmentation(images, labels, torch.arange(6))

    base = PICTURES_AS_THEY_ARE | options
    same, _ = augmented(TrainConfig(**base))
    assert torch.equal(same, images)
    changed, _ = augmented(TrainConfig(**(base | {name: value})))
    assert changed.shape == images.shape
    assert not torch.equal(changed, images)


@pytest.mark.parametrize("name", OF_THE_SCHEDULE)
def test_options_of_the_schedule_change_it(name):
    options, value = OF_THE_SCHEDULE[name]
    configs = [TrainConfig(**({"dataset": "cifar10"} | options | more)) for more in ({}, {name: value})]
    rates = [[learning_rate(config, epoch) for epoch in range(100)] for config in configs]
    assert rates[0] != rates[1]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of nothing but class folders, with pictures of mixed sizes."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for number in range(12):
            pixels = generator.integers(0, 256, (*generator.integers(8, 20, 2), 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize("name", OF_THE_FOLDER)
def test_options_of_the_folder_change_what_is_trained_on(name, photos):
    def trained_and_validated(config: TrainConfig) -> tuple[str, str]:
        part = Part("train", AutomaticSplit(config.test_share, config.seed))
        pictures = load_pictures(config.dataset, photos, part, config.image_size, resize=config.resize)
        train, held_out = split_indices(pictures, config.validation_pictures, config.seed)
        return pictures.subset(train).sha256(), pictures.subset(held_out).sha256()

    base: dict[str, Any] = {"dataset": "image-folder", "image_size": 8, "validation_pictures": 4}
    before, again = (trained_and_validated(TrainConfig(**base)) for _ in range(2))
    assert before == again
    after = trained_and_validated(TrainConfig(**(base | {name: OF_THE_FOLDER[name]})))
    assert before[0] != after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize("name", [name for name, place in ELSEWHERE.items() if place.startswith("tests/")])
def test_the_files_that_test_other_options_name_them(name, project_root):
    place = project_root / ELSEWHERE[name]
    files = sorted(place.rglob("test_*.py")) if place.is_dir() else [place]
    texts = [file.read_text() for file in files]
    assert any(flag(name) in text or re.search(rf"\b{name}\b", text) for text in texts)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_frozen_backbone_gets_no_gradient_and_the_block_the_same_one(precision):
    free, frozen = (network_for(configured({"precision": precision})).eval() for _ in range(2))
    frozen.backbone.requires_grad_(False)
    images, labels = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    for model in (free, frozen):
        method = build_method(configured({"precision": precision}))
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            method.loss(model, method.attack(model, images, labels)).backward()
    assert all(value.grad is None for value in frozen.backbone.parameters())
    assert free.block is not None
    assert frozen.block is not None
    for one, other in zip(free.block.parameters(), frozen.block.parameters(), strict=True):
        assert one.grad is not None
        assert one.grad.norm() > 0
        torch.testing.assert_close(one.grad, other.grad, rtol=2**-6, atol=1e-7)
