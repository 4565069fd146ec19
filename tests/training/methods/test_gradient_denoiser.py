"""The gradient denoiser's training against a reference written out anew, in float64 and under bf16 autocast."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.training.methods.reference import (
    EPS,
    EXACT_OR_BF16,
    answers,
    assert_same_attack,
    assert_same_step,
    autocast,
    configured,
    in_type,
    made_step,
    pgd_by_hand,
    smoothed_cross_entropy,
    unmoved,
)
from training.methods import Batch, build_method
from training.networks.defences.gradient_denoiser import GradientDenoiser
from training.networks.self_gradient import SelfGradientNetwork

DEVIATION = 12 / 255


@pytest.mark.parametrize("precision", EXACT_OR_BF16)
@pytest.mark.parametrize("eps", [0.0, EPS])
def test_the_loss_is_cross_entropy_plus_what_a_step_of_tweedie_leaves_of_the_noise(network, batch, eps, precision):
    labels = batch[1]
    model, images = in_type(precision, network(block=False).train(), batch[0])
    options = {"epsilon": eps, "noise_deviation": DEVIATION, "denoising_weight": 3.0, "label_smoothing": 0.1}
    method = build_method(configured("gradient-denoiser", **options))
    made = made_step(model, method, (images, labels), precision)

    attacked = images
    torch.manual_seed(0)
    if eps:
        attacked = pgd_by_hand(answers(unmoved(model).train(), precision), images, labels, 1, 10 / 255, "uniform")
        assert_same_attack(made.batch.attacked, attacked, precision, exact=1e-12)
    noise = DEVIATION * torch.randn(images.shape, dtype=images.dtype)
    torch.testing.assert_close(made.batch.noise, noise)
    reference = copy.deepcopy(model)
    # The pass that denoises runs on the running statistics, as they are before the other moves them.
    noisy = (images + noise).requires_grad_()
    with autocast(precision):
        frozen = reference.eval().plain_logits(noisy)
        log_density = frozen.exp().sum(dim=1).log().sum()
    (score,) = torch.autograd.grad(log_density, noisy, create_graph=True)
    denoised = images + noise + score  # the log-density's unit is the variance
    denoising = ((denoised - images) ** 2).mean() / DEVIATION**2
    with_frozen = 3 * denoising + smoothed_cross_entropy(frozen, labels, 0.1) / 2
    with_frozen.backward()  # before the other pass moves the statistics
    cross_entropy = smoothed_cross_entropy(answers(reference.train(), precision)(attacked + noise), labels, 0.1)
    made = replace(made, step=made.step.with_loss(made.step.loss - with_frozen.detach()))
    assert_same_step(made, cross_entropy / 2, reference, precision, exact=1e-10, gradients=1e-10)


def test_a_batch_without_noise_is_told(network, batch):
    images, labels = batch
    method = build_method(configured("gradient-denoiser"))
    with pytest.raises(ValueError, match="has no noise"):
        method.loss(network(block=False).train(), Batch(images, images, labels))


def test_training_removes_noise():
    """Pictures of one grey each, so that all but their mean is noise."""
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 16, 3, padding=1), nn.SiLU()
    model = SelfGradientNetwork(nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(1024, 5)), None).train()
    images, labels = torch.rand(16, 1, 1, 1).expand(16, 3, 8, 8), torch.arange(16) % 5
    method = build_method(configured("gradient-denoiser", epsilon=0.0, noise_deviation=32 / 255))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    errors = []
    for _ in range(100):
        step = method.loss(model, method.attack(model, images, labels))
        optimizer.zero_grad()
        step.backward()
        optimizer.step()
        errors.append((step.loss - F.cross_entropy(step.logits, labels)).item())
    assert errors[0] == pytest.approx(1, abs=0.1)
    assert sum(errors[-5:]) / 5 < 0.5
    # The defence takes the very step that was trained.
    defence = GradientDenoiser(model.backbone, (0.5,) * 3, (0.25,) * 3).eval()
    assert defence.block is not None
    noisy = images + 32 / 255 * torch.randn(images.shape)
    corrected = noisy + defence.block(defence.self_gradient(noisy))
    assert (corrected - images).square().mean() < 0.5 * (noisy - images).square().mean()
