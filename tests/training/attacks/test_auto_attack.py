import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from pyautoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack

from training.attacks import gradient_attack
from training.attacks.auto_attack import GradientStage, Square, frozen_parameters, valid_only
from training.attacks.names import AttackError
from training.attacks.registry import Context, build_attacks
from training.attacks.views import held_view
from training.evaluate import measuring
from training.evaluate.measuring import Trial
from training.evaluate.report import Report
from training.networks.activations import with_activation

EPS = 8 / 255
ITERATIONS = 10
QUERIES = 30
ALGORITHMS = ("apgd-ce", "apgd-t", "fab-t")


@pytest.fixture
def pictures(network):
    """A network, pictures, and its own answers as labels but for one."""
    model = network(block=False)
    model.requires_grad_(False)
    images = torch.rand(10, 3, 12, 12).contiguous(memory_format=torch.channels_last)
    labels = model(images).argmax(dim=1)
    labels[3] = (labels[3] + 1) % 5
    return model, images, labels


def test_rows_are_the_packages_own_figures(pictures, monkeypatch):
    model, images, labels = pictures
    report = Report(setting={})
    built: list[Any] = build_attacks(["autoattack"], Context(eps=EPS, has_block=False, classes=5))
    attacks = [
        replace(attack, queries=QUERIES) if isinstance(attack, Square) else replace(attack, iterations=ITERATIONS)
        for attack in built[1:]
    ]
    attacks.insert(0, gradient_attack.clean_attack(block=False))
    for attack in attacks:
        chosen = report.survivors(attack, len(images))
        right = torch.zeros(len(images), dtype=torch.bool)
        if chosen.any():
            trial = Trial(model, images, labels, EPS, seed=3)
            right[chosen] = measuring.withstood(trial.chosen(chosen), attack)
        report.add(attack, right, chosen)

    # The driver's check for dynamic defences switches tracing off for the whole process; it is not what is compared.
    monkeypatch.setattr(sys, "settrace", lambda _: None)
    driver = AutoAttack(
        lambda inputs: model(inputs),
        attacks=[*ALGORITHMS, "square"],
        version="custom",
        eps=EPS,
        seed=3,
        device="cpu",
    )
    driver.apgd.n_restarts = driver.fab.n_restarts = 1
    driver.apgd_targeted.n_target_classes = driver.fab.n_target_classes = 4
    for attack in (driver.apgd, driver.apgd_targeted):
        attack.__init__(
            driver.model,
            n_iter=ITERATIONS,
            n_restarts=1,
            eps=EPS,
            seed=3,
            device="cpu",
            **({"n_target_classes": 4} if attack is driver.apgd_targeted else {}),
        )
    driver.fab.n_iter = ITERATIONS
    driver.square.n_queries = QUERIES
    attacked, _ = driver.run_standard_evaluation(images.contiguous(), labels)
    theirs = model(attacked).argmax(dim=1) == labels
    last = report.rows[attacks[-1].id].withstood
    assert "".join("1" if right else "0" for right in theirs) == last.replace("-", "0")
    assert set(report.rows[attacks[1].id].withstood) == {"0", "1"}


def test_a_smooth_network_is_attacked_through_both_passes_and_a_relu_network_with_the_first_held(network):
    """Attack the network itself by double backward, as the package does, which knows nothing of views."""
    torch.manual_seed(0)
    images, attack, eps = torch.rand(8, 3, 12, 12), GradientStage("apgd-ce", iterations=5), 2 / 255
    for activation in ("silu", "relu"):
        model = network()
        with_activation(model.backbone, activation)
        model.requires_grad_(False)
        labels = model(images).argmax(dim=1)

        def package(logits_function, labels=labels):
            options = {"n_iter": 5, "n_restarts": 1, "eps": eps, "norm": "Linf", "loss": "ce", "seed": 3}
            return APGDAttack(logits_function, **options, device="cpu").perturb(images.clone(), labels)

        itself, held = package(model), package(held_view(model))
        theirs = itself if activation == "silu" else held
        torch.manual_seed(3)
        assert torch.equal(attack.perturb(model, images, labels, eps), theirs)
        right = measuring.withstood(Trial(model, images, labels, eps, seed=3), attack)
        assert torch.equal(right, model(theirs).argmax(dim=1) == labels)
        assert 0 < right.sum() < len(images)
        assert activation == "relu" or not torch.equal(itself, held)


@pytest.mark.parametrize(
    "attack",
    [
        GradientStage("apgd-ce", view="smooth", beta=20.0, iterations=4),
        GradientStage("apgd-t", view="smooth", beta=20.0, iterations=3),
        GradientStage("fab-t", iterations=3),
        Square(queries=20),
    ],
    ids=lambda attack: attack.id.title,
)
def test_attacks_on_a_block_stay_inside_the_ball_and_touch_no_parameter(network, attack):
    model = network()
    images = torch.rand(4, 3, 12, 12).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    torch.manual_seed(0)
    attacked = attack.perturb(model, images, labels, EPS)
    assert (attacked - images).abs().max() <= EPS + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert not attacked.requires_grad
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_square_takes_pictures_without_any_gradient(pictures):
    model, images, labels = pictures

    def answers(inputs, self_gradient=True):
        return model(inputs.detach(), self_gradient=self_gradient)

    trial = Trial(model, images, labels, eps=0.1, seed=0)
    right = measuring.withstood(trial.of(answers), Square(block=False, queries=QUERIES))
    clean = measuring.withstood(trial, gradient_attack.clean_attack(block=False))
    assert right.sum() < clean.sum()


def test_too_few_classes_for_the_targeted_loss_are_named(network):
    model = network(block=False)
    model.backbone.classifier = torch.nn.Linear(model.backbone.classifier.in_features, 3)
    attack = GradientStage("apgd-t", block=False)
    with pytest.raises(AttackError, match="at least 4 classes and the network has 3"):
        attack.perturb(model, torch.rand(2, 3, 12, 12), torch.zeros(2, dtype=torch.long), EPS)


def test_what_is_no_picture_in_the_ball_does_not_count():
    images = torch.full((4, 3, 2, 2), 0.5)
    attacked = images + EPS * torch.tensor([1.0, 1.5, float("nan"), -1.0])[:, None, None, None]
    assert torch.equal(valid_only(images, attacked, EPS)[1:3], images[1:3])
    assert torch.equal(valid_only(images, attacked, EPS)[[0, 3]], attacked[[0, 3]])


def test_parameters_are_free_again_afterwards(network):
    model = network(block=False)
    with frozen_parameters(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
