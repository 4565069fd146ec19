"""References for the tests of training methods: one step of a method, and PGD written out anew."""

import copy

import torch
import torch.nn.functional as F

from training.config import TrainConfig, recipe_defaults
from training.methods import build_method

EPS = 8 / 255


def configured(method: str, **options) -> TrainConfig:
    return TrainConfig("cifar10", **(recipe_defaults("cifar10", method) | {"method": method} | options))


def unmoved(model):
    """A copy whose batch norm keeps its running statistics, as during an attack."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    return model


def outcome(model, config, images, targets, seed=0):
    """The loss and every parameter's gradient of one step; the model itself stays as it was."""
    model = copy.deepcopy(model).train()
    method = build_method(config)
    torch.manual_seed(seed)
    step = method.loss(model, method.attack(model, images, targets))
    step.backward()
    return step.loss.item(), {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def pgd_by_hand(logits_of, images, labels, steps, step_size, start):
    torch.manual_seed(0)
    current = images.clone()
    if start == "uniform":
        current = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(steps):
        current.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits_of(current), labels), current)
        moved = current.detach() + step_size * gradient.sign()
        current = torch.minimum(torch.maximum(moved, images - EPS), images + EPS).clamp(0, 1)
    return current
