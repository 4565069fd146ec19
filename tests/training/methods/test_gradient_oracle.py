"""Training of the gradient oracle: attack and loss are told the labels."""

import copy

import pytest
import torch
import torch.nn.functional as F

from tests.training.methods.reference import EPS, configured, pgd_by_hand, unmoved
from training.methods import build_method
from training.networks.gradient_oracle import GradientOracle, with_gradient_input
from training.networks.wide_resnet import WideResNet


def test_attack_and_loss_are_told_the_labels(batch):
    images, labels = batch
    torch.manual_seed(0)
    oracle = GradientOracle(
        with_gradient_input(WideResNet(10, 1, num_classes=5), 3), (0.4, 0.5, 0.6), (0.2, 0.2, 0.2)
    ).train()
    method = build_method(configured("gradient-oracle", attack_steps=2, attack_step_size=4 / 255, label_smoothing=0.1))
    torch.manual_seed(0)
    made = method.attack(copy.deepcopy(oracle), images, labels)
    told = unmoved(oracle).seen_with(labels)
    torch.testing.assert_close(made.attacked, pgd_by_hand(told, images, labels, 2, 4 / 255, "uniform"))
    assert (made.attacked - images).abs().max() <= EPS + 1e-6
    expected = F.cross_entropy(copy.deepcopy(oracle).oracle_logits(made.attacked, labels), labels, label_smoothing=0.1)
    assert method.loss(copy.deepcopy(oracle), made).loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_another_network_is_refused(network, batch):
    with pytest.raises(TypeError, match="trains a GradientOracle"):
        build_method(configured("gradient-oracle")).attack(network(), *batch)
