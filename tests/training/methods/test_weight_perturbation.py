"""Adversarial weight perturbation against a reference written out anew."""

import copy

import pytest
import torch

from tests.training.methods.reference import EPS, configured
from training.methods import build_method
from training.networks.self_gradient import without_running_updates


@pytest.mark.parametrize("name", ["pgd", "self-gradient", "trades", "standard"])
def test_weight_perturbation_differentiates_at_moved_weights_and_puts_them_back(network, batch, name):
    images, labels = batch
    model = network(scale=EPS, block=name == "self-gradient").train()
    before = copy.deepcopy(model.state_dict())
    plain = build_method(configured(name, attack_steps=1))
    method = build_method(configured(name, attack_steps=1, weight_perturbation=0.01))
    torch.manual_seed(0)
    made = method.attack(copy.deepcopy(model), images, labels)
    # Ascend once by hand, and differentiate there.
    moved = copy.deepcopy(model)
    weights = {key: value for key, value in moved.named_parameters() if value.ndim > 1}
    with without_running_updates(moved):
        gradients = torch.autograd.grad(plain.loss(moved, made).loss, list(weights.values()))
    with torch.no_grad():
        for value, gradient in zip(weights.values(), gradients, strict=True):
            value += 0.01 * value.norm() * gradient / gradient.norm()
    expected = plain.loss(moved, made)
    expected.backward()

    step = method.loss(model, made)
    assert not torch.equal(model.backbone.stem.weight, before["backbone.stem.weight"])
    step.backward()
    assert step.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    for key, value in model.named_parameters():
        assert torch.equal(value, before[key]), key
        torch.testing.assert_close(value.grad, dict(moved.named_parameters())[key].grad)
    # Higher than at the weights as they are, and batch norm saw the batch once.
    assert step.loss > plain.loss(copy.deepcopy(model), made).loss
    key = "backbone.norm.running_mean"
    torch.testing.assert_close(model.state_dict()[key], moved.state_dict()[key])
