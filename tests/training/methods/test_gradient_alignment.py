"""The gradient alignment penalty against a reference written out anew."""

import copy

import pytest
import torch
import torch.nn.functional as F

from tests.training.methods.reference import EPS, configured, outcome
from training.methods import build_method
from training.methods.gradient_alignment import misalignment
from training.networks.self_gradient import SelfGradientNetwork


def test_gradient_alignment_adds_the_misalignment(network, batch):
    images, labels = batch
    model = network(block=False)
    plain, _ = outcome(model, configured("pgd", attack_steps=1), images, labels)
    with_it, gradients = outcome(model, configured("pgd", attack_steps=1, gradient_alignment=0.5), images, labels)
    frozen = copy.deepcopy(model).eval()

    def gradient(inputs):
        inputs = inputs.clone().requires_grad_()
        loss = F.cross_entropy(frozen(inputs), labels, reduction="sum")
        return torch.autograd.grad(loss, inputs, create_graph=True)[0].flatten(1)

    torch.manual_seed(0)
    torch.empty_like(images).uniform_()  # the attack's start
    nearby = images + torch.empty_like(images).uniform_(-EPS, EPS)
    # The step before has moved the running statistics that the misalignment is measured with.
    method = build_method(configured("pgd", attack_steps=1))
    torch.manual_seed(0)
    frozen.train()
    method.loss(frozen, method.attack(frozen, images, labels))
    frozen.eval()
    cosine = F.cosine_similarity(gradient(images).detach(), gradient(nearby), dim=1)
    assert with_it - plain == pytest.approx(0.5 * (1 - cosine.mean()).item(), rel=1e-3)
    # It reaches the parameters.
    _, without = outcome(model, configured("pgd", attack_steps=1), images, labels)
    assert (gradients["backbone.stem.weight"] - without["backbone.stem.weight"]).norm() > 0


def test_misalignment_of_a_linear_network_is_zero_and_of_a_dead_one_too(batch):
    images, labels = batch
    linear = SelfGradientNetwork(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)), None)
    two = labels % 2
    assert misalignment(linear, images, two, EPS).item() == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        linear.get_parameter("backbone.1.weight").zero_()
    assert misalignment(linear, images, two, EPS).item() == 0
