"""References for the tests of training methods: one step of a method, and PGD written out anew.

Under bf16 autocast a method runs in one autocast, as in training. Each pass of a reference has an autocast of its own.
So the weights that autocast keeps from one pass to the next cannot be wrong in both.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import TrainConfig
from training.methods import Batch, Method, Step, StepContext
from training.methods.step import OUT_OF_TRAINING
from training.networks.self_gradient import SelfGradientNetwork
from training.options import recipe_defaults

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


@dataclass(frozen=True)
class MadeStep:
    """One step of a method.

    Attributes:
        network: A copy of the network, with the gradients.
        batch: The attacked batch.
        step: The loss of the batch.
    """

    network: SelfGradientNetwork
    batch: Batch
    step: Step


def made_step(
    model: SelfGradientNetwork,
    method: Method,
    batch: tuple[Tensor, Tensor],
    precision: str = "float32",
    context: StepContext = OUT_OF_TRAINING,
    seed: int = 0,
) -> MadeStep:
    """Attack, loss and gradients as the trainer makes them, on a copy of the network in train mode."""
    network = copy.deepcopy(model).train()
    torch.manual_seed(seed)
    with autocast(precision):
        attacked = method.attack(network, *batch, context)
        step = method.loss(network, attacked)
    step.backward()
    return MadeStep(network, attacked, step)


def assert_same_step(
    made: MadeStep, loss: Tensor, reference: nn.Module, precision: str, *, exact: float = 1e-5, gradients: float = 1e-4
) -> None:
    """A step has the loss and the gradients of a reference, whose own gradients are computed here."""
    loss.backward()
    assert_same_loss(made.step.loss, loss, precision, exact=exact)
    assert_same_gradients(made.network, reference, precision, exact=gradients)


def configured(method: str, **options) -> TrainConfig:
    return TrainConfig("cifar10", **(recipe_defaults("cifar10", method) | {"method": method} | options))


def unmoved(model):
    """A copy whose batch norm keeps its running statistics, as during an attack."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    return model


def loss_gradient(logits_of, images, labels):
    """The gradient of the summed cross-entropy: a mean would round otherwise in bf16."""
    leaf = images.detach().clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(logits_of(leaf), labels, reduction="sum"), leaf)[0]


def sign_step(images, current, move):
    """The next iterate of an attack: moved, then put back into the ball around the images and into [0, 1]."""
    moved = current.detach() + move
    return torch.minimum(torch.maximum(moved, images - EPS), images + EPS).clamp(0, 1)


def pgd_by_hand(logits_of, images, labels, steps, step_size, start):
    torch.manual_seed(0)
    current = images.clone()
    if start == "uniform":
        current = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(steps):
        current = sign_step(images, current, step_size * loss_gradient(logits_of, current, labels).sign())
    return current
