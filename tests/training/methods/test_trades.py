"""TRADES against a reference written out anew."""

import copy

import pytest
import torch
import torch.nn.functional as F

from tests.training.methods.reference import EPS, configured, outcome
from training.methods.trades import divergence


def test_trades_is_natural_loss_plus_beta_times_the_divergence(network, batch):
    images, labels = batch
    model = network(block=False)
    loss, _ = outcome(model, configured("trades", attack_steps=3), images, labels)
    frozen = copy.deepcopy(model).eval()
    natural = frozen(images).softmax(dim=1).detach()
    torch.manual_seed(0)
    current = (images + 0.001 * torch.empty_like(images).normal_()).clamp(0, 1)
    for _ in range(3):
        current.requires_grad_()
        raised = (natural * (natural.log() - frozen(current).log_softmax(dim=1))).sum()
        (gradient,) = torch.autograd.grad(raised, current)
        moved = current.detach() + 2 / 255 * gradient.sign()
        current = torch.minimum(torch.maximum(moved, images - EPS), images + EPS).clamp(0, 1)
    trained = copy.deepcopy(model).train()
    natural_logits, logits = trained(images), trained(current)
    shares = natural_logits.softmax(dim=1)
    expected = (
        F.cross_entropy(natural_logits, labels)
        + 6 * (shares * (shares.log() - logits.log_softmax(dim=1))).sum(dim=1).mean()
    )
    assert loss == pytest.approx(expected.item(), rel=1e-4)


def test_the_divergence_is_worked_out_in_float32():
    logits = torch.tensor([[3.0, 1.0, -2.0]])
    half = divergence(logits.bfloat16(), (logits + 0.5 * torch.eye(3)[:1]).bfloat16())
    assert half.dtype == torch.float32
    assert half.item() > 0
    assert divergence(logits, logits).item() == 0
