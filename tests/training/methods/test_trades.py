"""TRADES against a reference written out anew."""

import copy

import pytest
import torch

from tests.training.methods.reference import (
    PRECISIONS,
    answers,
    assert_same_step,
    configured,
    made_step,
    sign_step,
    smoothed_cross_entropy,
)
from training.methods import build_method
from training.methods.trades import divergence


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_trades_is_natural_loss_plus_beta_times_the_divergence(network, batch, smoothing, precision):
    images, labels = batch
    model = network(block=False)
    method = build_method(configured("trades", attack_steps=3, label_smoothing=smoothing))
    made = made_step(model, method, batch, precision)
    frozen = answers(copy.deepcopy(model).eval(), precision)
    natural = frozen(images).softmax(dim=1).detach()
    torch.manual_seed(0)
    current = (images + 0.001 * torch.empty_like(images).normal_()).clamp(0, 1)
    for _ in range(3):
        current.requires_grad_()
        raised = (natural * (natural.log() - frozen(current).log_softmax(dim=1))).sum()
        (gradient,) = torch.autograd.grad(raised, current)
        current = sign_step(images, current, 2 / 255 * gradient.sign())
    reference = copy.deepcopy(model).train()
    seen = answers(reference, precision)
    natural_logits, logits = seen(images), seen(current)
    shares = natural_logits.softmax(dim=1)
    divergences = (shares * (shares.log() - logits.log_softmax(dim=1))).sum(dim=1)
    expected = smoothed_cross_entropy(natural_logits, labels, smoothing) + 6 * divergences.mean()
    assert_same_step(made, expected, reference, precision, exact=1e-4, gradients=1e-3)


def test_the_divergence_is_worked_out_in_float32():
    logits = torch.tensor([[3.0, 1.0, -2.0]])
    half = divergence(logits.bfloat16(), (logits + 0.5 * torch.eye(3)[:1]).bfloat16())
    assert half.dtype == torch.float32
    assert half.item() > 0
    assert divergence(logits, logits).item() == 0
