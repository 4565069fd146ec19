"""Self-gradient training: how its attack sees the network, and the loss of both passes."""

import copy

import pytest
import torch
import torch.nn.functional as F

from tests.training.methods.reference import EPS, configured, pgd_by_hand, unmoved
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
def test_the_attack_sees_the_network_through_the_configured_view(network, batch, name, view, activation):
    images, labels = batch
    model = network(scale=EPS).train()
    with_activation(model.backbone, activation)
    options = {"attack_steps": 2, "attack_step_size": 4 / 255, "attack_view": name, "attack_beta": 5.0}
    torch.manual_seed(0)
    method = build_method(configured("self-gradient", **options))
    attacked = method.attack(copy.deepcopy(model), images, labels).attacked
    by_hand = pgd_by_hand(view(unmoved(model)), images, labels, 2, 4 / 255, "uniform")
    torch.testing.assert_close(attacked, by_hand)
    if name != "held":
        held = pgd_by_hand(views.held_view(unmoved(model)), images, labels, 2, 4 / 255, "uniform")
        assert not torch.allclose(attacked, held)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_the_first_pass_counts_for_its_share(network, batch, smoothing):
    images, labels = batch
    model = network(scale=EPS).train()
    method = build_method(configured("self-gradient", plain_loss_share=0.3, label_smoothing=smoothing))
    torch.manual_seed(0)
    made = method.attack(model, images, labels)
    step = method.loss(copy.deepcopy(model), made)
    both = copy.deepcopy(model)(made.attacked)
    first = copy.deepcopy(model).eval().plain_logits(made.attacked)  # the first pass runs on the running statistics
    second_loss, first_loss = (F.cross_entropy(logits, labels, label_smoothing=smoothing) for logits in (both, first))
    assert step.loss.item() == pytest.approx((0.7 * second_loss + 0.3 * first_loss).item(), rel=1e-5)
    torch.testing.assert_close(step.logits, both)
