"""References for the tests of training methods: one step of a method, and PGD written out anew.

Under bf16 autocast a method runs in one autocast, as in training. Each pass of a reference has an autocast of its own,
so that the weights that autocast keeps from one pass to the next cannot be wrong in both.
"""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import TrainConfig, recipe_defaults
from training.methods import build_method
from training.networks.self_gradient import SelfGradientNetwork

EPS = 8 / 255
PRECISIONS = ("float32", "bf16")
EXACT_OR_BF16 = ("float64", "bf16")
BF16_ERROR = 0.02
"""Largest relative difference of a loss, or of all its gradients together, under bf16."""


def autocast(precision: str) -> torch.autocast:
    """bf16 autocast as training has it, or none."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def in_type(precision: str, network: SelfGradientNetwork, images: Tensor) -> tuple[SelfGradientNetwork, Tensor]:
    """A network and pictures in float64 where the precision is that, else as they are."""
    return (network.double(), images.double()) if precision == "float64" else (network, images)


def answers(logits_of: Callable[[Tensor], Tensor], precision: str) -> Callable[[Tensor], Tensor]:
    """A network as a function, each call of which has its own autocast and ends in float32 or more."""

    def logits(images: Tensor) -> Tensor:
        with autocast(precision):
            made = logits_of(images)
        return made.float() if precision == "bf16" else made

    return logits


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy whose labels give an equal part of `smoothing` to each class, written out."""
    classes = logits.shape[1]
    shares = (1 - smoothing) * F.one_hot(labels, classes).to(logits.dtype) + smoothing / classes
    return -(shares * logits.log_softmax(dim=1)).sum(dim=1).mean()


def assert_same_attack(
    attacked: Tensor, expected: Tensor, precision: str, *, exact: float = 1e-6, turned: float = 0.02
) -> None:
    """bf16 may turn the sign of a gradient that is almost zero, for a share of `turned` of the values at most."""
    if precision == "bf16":
        assert ((attacked - expected).abs() > 1e-5).float().mean() <= turned
    else:
        torch.testing.assert_close(attacked, expected, rtol=0, atol=exact)


def assert_same_gradients(found: nn.Module, expected: nn.Module, precision: str, *, exact: float = 1e-5) -> None:
    """Every parameter has the gradient of the reference's; under bf16 all of them together, but for rounding."""
    theirs = {name: value.grad for name, value in expected.named_parameters() if value.grad is not None}
    ours = {name: value.grad for name, value in found.named_parameters() if value.grad is not None}
    assert theirs
    assert theirs.keys() <= ours.keys()
    if precision == "bf16":
        one, other = (torch.cat([gradients[name].flatten() for name in theirs]) for gradients in (ours, theirs))
        assert (one - other).norm() <= BF16_ERROR * other.norm()
    else:
        for name, gradient in theirs.items():
            torch.testing.assert_close(ours[name], gradient, rtol=exact, atol=exact, msg=name)


def assert_same_loss(found: Tensor, expected: Tensor, precision: str, *, exact: float = 1e-5) -> None:
    """Two losses are equal, but for rounding."""
    assert found.item() == pytest.approx(expected.item(), rel=BF16_ERROR if precision == "bf16" else exact)


def configured(method: str, **options) -> TrainConfig:
    return TrainConfig("cifar10", **(recipe_defaults("cifar10", method) | {"method": method} | options))


def unmoved(model):
    """A copy whose batch norm keeps its running statistics, as during an attack."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    return model


def trained(model, config, images, targets, precision="float32", seed=0):
    """The loss of one step as the trainer makes it, and a copy of the model with the gradients."""
    model = copy.deepcopy(model).train()
    method = build_method(config)
    torch.manual_seed(seed)
    with autocast(precision):
        step = method.loss(model, method.attack(model, images, targets))
    step.backward()
    return step.loss.detach(), model


def pgd_by_hand(logits_of, images, labels, steps, step_size, start):
    torch.manual_seed(0)
    current = images.clone()
    if start == "uniform":
        current = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(steps):
        current.requires_grad_()
        # The sum: a mean would round otherwise in bf16.
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits_of(current), labels, reduction="sum"), current)
        moved = current.detach() + step_size * gradient.sign()
        current = torch.minimum(torch.maximum(moved, images - EPS), images + EPS).clamp(0, 1)
    return current
