"""Self-gradient training: how its attack sees the network, and the loss of both passes."""

import copy

import pytest
import torch
import torch.nn.functional as F

from tests.training.methods.reference import (
    EPS,
    PRECISIONS,
    answers,
    assert_same_attack,
    assert_same_loss,
    autocast,
    configured,
    pgd_by_hand,
    unmoved,
)
from training.attacks import views
from training.methods import build_method
from training.networks.activations import with_activation


@pytest.mark.parametrize(
    ("name", "view", "activation"),
    [
        ("held", views.held_view, "relu"),
        ("held", views.held_view, "silu"),
        ("full", views.full_view, "silu"),
        ("smooth", lambda model: views.smooth_view(model, 5.0), "relu"),
    ],
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_attack_sees_the_network_through_the_configured_view(network, batch, name, view, activation, precision):
    images, labels = batch
    model = network(scale=EPS).train()
    with_activation(model.backbone, activation)
    options = {"attack_steps": 2, "attack_step_size": 4 / 255, "attack_view": name, "attack_beta": 5.0}
    torch.manual_seed(0)
    method = build_method(configured("self-gradient", **options))
    with autocast(precision):
        attacked = method.attack(copy.deepcopy(model), images, labels).attacked
    by_hand = pgd_by_hand(answers(view(unmoved(model)), precision), images, labels, 2, 4 / 255, "uniform")
    assert_same_attack(attacked, by_hand, precision, turned=0.1)
    if name != "held":
        held = pgd_by_hand(views.held_view(unmoved(model)), images, labels, 2, 4 / 255, "uniform")
        assert not torch.allclose(attacked, held)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_the_first_pass_counts_for_its_share(network, batch, smoothing, precision):
    images, labels = batch
    model = network(scale=EPS).train()
    method = build_method(configured("self-gradient", plain_loss_share=0.3, label_smoothing=smoothing))
    torch.manual_seed(0)
    made = method.attack(model, images, labels)
    with autocast(precision):
        step = method.loss(copy.deepcopy(model), made)
    both = answers(copy.deepcopy(model), precision)(made.attacked)
    # The first pass runs on the running statistics.
    first = answers(copy.deepcopy(model).eval().plain_logits, precision)(made.attacked)
    second_loss, first_loss = (F.cross_entropy(logits, labels, label_smoothing=smoothing) for logits in (both, first))
    assert_same_loss(step.loss, 0.7 * second_loss + 0.3 * first_loss, precision)
    rounding = 0.05 if precision == "bf16" else 1e-5
    torch.testing.assert_close(step.logits, both, rtol=rounding, atol=rounding)
