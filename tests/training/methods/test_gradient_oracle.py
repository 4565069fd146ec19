"""Training of the gradient oracle: attack and loss are told the labels."""

import pytest
import torch

from tests.training.methods.reference import (
    EPS,
    PRECISIONS,
    answers,
    assert_same_attack,
    assert_same_step,
    configured,
    made_step,
    pgd_by_hand,
    smoothed_cross_entropy,
    unmoved,
)
from training.methods import build_method
from training.networks.gradient_oracle import GradientOracle, with_gradient_input
from training.networks.wide_resnet import WideResNet


@pytest.mark.parametrize("precision", PRECISIONS)
def test_attack_and_loss_are_told_the_labels(batch, precision):
    images, labels = batch
    torch.manual_seed(0)
    oracle = GradientOracle(
        with_gradient_input(WideResNet(10, 1, num_classes=5), 3), (0.4, 0.5, 0.6), (0.2, 0.2, 0.2)
    ).train()
    method = build_method(configured("gradient-oracle", attack_steps=2, attack_step_size=4 / 255, label_smoothing=0.1))
    made, reference = made_step(oracle, method, batch, precision), unmoved(oracle)
    attacked = made.batch.attacked
    told = answers(reference.seen_with(labels), precision)
    assert_same_attack(attacked, pgd_by_hand(told, images, labels, 2, 4 / 255, "uniform"), precision)
    assert (attacked - images).abs().max() <= EPS + 1e-6
    seen = answers(lambda inputs: reference.oracle_logits(inputs, labels), precision)
    expected = smoothed_cross_entropy(seen(attacked), labels, 0.1)
    assert_same_step(made, expected, reference, precision)


def test_another_network_is_refused(network, batch):
    with pytest.raises(TypeError, match="trains a GradientOracle"):
        build_method(configured("gradient-oracle")).attack(network(), *batch)
