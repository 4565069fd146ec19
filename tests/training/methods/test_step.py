"""What every method's step shares."""

import copy

import torch

from tests.training.methods.reference import EPS, configured
from training.methods import build_method


def test_label_smoothing_changes_the_loss_and_not_the_attack(network, batch):
    images, labels = batch
    for name in ("standard", "pgd", "trades", "self-gradient"):
        model = network(scale=EPS, block=name == "self-gradient")
        losses = {}
        attacked = {}
        for smoothing in (0.0, 0.2):
            method = build_method(configured(name, attack_steps=1, label_smoothing=smoothing))
            trained = copy.deepcopy(model).train()
            torch.manual_seed(0)
            made = method.attack(trained, images, labels)
            attacked[smoothing] = made.attacked
            losses[smoothing] = method.loss(trained, made).loss.item()
        assert torch.equal(attacked[0.0], attacked[0.2])
        assert losses[0.0] != losses[0.2]
