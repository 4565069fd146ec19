"""The gradient alignment penalty against a reference written out anew."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.training.methods.reference import BF16_ERROR, EPS, PRECISIONS, answers, autocast, configured, made_step
from training.methods import build_method
from training.methods.gradient_alignment import misalignment
from training.networks.self_gradient import SelfGradientNetwork


@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradient_alignment_adds_the_misalignment(network, batch, precision):
    images, labels = batch
    model = network(block=False)
    config = configured("pgd", attack_steps=1)
    method = build_method(config)
    plain = made_step(model, method, batch, precision)
    aligned = made_step(model, build_method(replace(config, gradient_alignment=0.5)), batch, precision)
    frozen = copy.deepcopy(model)
    # The step before has moved the running statistics that the misalignment is measured with.
    torch.manual_seed(0)
    frozen.train()
    with autocast(precision):
        method.loss(frozen, method.attack(frozen, images, labels))
    frozen.eval()
    seen = answers(frozen, precision)

    def gradient(inputs):
        inputs = inputs.clone().requires_grad_()
        loss = F.cross_entropy(seen(inputs), labels, reduction="sum")
        return torch.autograd.grad(loss, inputs, create_graph=True)[0].flatten(1)

    torch.manual_seed(0)
    torch.empty_like(images).uniform_()  # the attack's start
    nearby = images + torch.empty_like(images).uniform_(-EPS, EPS)
    cosine = F.cosine_similarity(gradient(images).detach(), gradient(nearby), dim=1)
    expected = 0.5 * (1 - cosine.mean()).item()
    assert (aligned.step.loss - plain.step.loss).item() == pytest.approx(
        expected, rel=BF16_ERROR if precision == "bf16" else 1e-3
    )
    # It reaches the parameters.
    name = "backbone.stem.weight"
    before, after = plain.network.get_parameter(name).grad, aligned.network.get_parameter(name).grad
    assert before is not None
    assert after is not None
    assert (after - before).norm() > 0.02 * before.norm()


def test_misalignment_of_a_linear_network_is_zero_and_of_a_dead_one_too(batch):
    images, labels = batch
    linear = SelfGradientNetwork(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)), None)
    two = labels % 2
    assert misalignment(linear, images, two, EPS).item() == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        linear.get_parameter("backbone.1.weight").zero_()
    assert misalignment(linear, images, two, EPS).item() == 0
