"""Test what the steps of all methods share."""

import copy
from dataclasses import replace

import pytest
import torch

from tests.training.checkpoints import tiny_info
from tests.training.methods.reference import EPS, configured
from training.checkpoint import build_model
from training.config import METHODS
from training.methods import build_method
from training.methods.nuclear_norm import NuclearNormTraining


def test_label_smoothing_changes_the_loss_and_not_the_attack(network, batch):
    images, labels = batch
    for name in ("standard", "pgd", "trades", "nuat", "liet", "self-gradient"):
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


@pytest.mark.parametrize("attack", ["pgd", "n-fgsm"])
@pytest.mark.parametrize("method", METHODS)
def test_attacks_leave_batch_norm_as_it_is_and_losses_move_it(method, attack, batch):
    """The statistics are those of the batches that are trained on, whatever the method and its number of steps."""
    if attack == "n-fgsm" and method in ("standard", "bilateral", "trades", "nuat", "liet"):
        pytest.skip("it has no such attack")
    images, labels = batch
    model = build_model(tiny_info(method=method, class_names=tuple("abcde"))).train()
    steps = {} if attack == "n-fgsm" or method in ("standard", "bilateral", "liet") else {"attack_steps": 2}
    built = build_method(configured(method, attack=attack, **steps))
    if isinstance(built, NuclearNormTraining):
        # A pass that attack and loss share moves them once, in the attack: see test_nuclear_norm.py.
        built = replace(built, keep_clean_pass=False)
    before = copy.deepcopy(dict(model.named_buffers()))
    made = built.attack(model, images, labels)
    for name, value in model.named_buffers():
        assert torch.equal(value, before[name]), name
    assert all(module.training for module in model.modules())
    built.loss(model, made)
    moved = [name for name, value in model.named_buffers() if not torch.equal(value, before[name])]
    statistics = [name for name in before if name.startswith("backbone.")]
    assert sorted(moved) == sorted(statistics)
